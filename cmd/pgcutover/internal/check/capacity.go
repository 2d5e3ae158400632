package check

import (
	"strconv"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// freeConnections selects how many connections are free, and the limits of the role and the
// database. The first number is visible to every role.
const freeConnections = `SELECT pg_catalog.current_setting('max_connections')::pg_catalog.int8 - pg_catalog.current_setting('superuser_reserved_connections')::pg_catalog.int8
	- coalesce(pg_catalog.current_setting('reserved_connections', true), '0')::pg_catalog.int8 - (SELECT pg_catalog.sum(numbackends) FROM pg_catalog.pg_stat_database)::pg_catalog.int8,
	(SELECT rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = current_user), (SELECT datconnlimit FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())`

// connections looks for a limit that a load with its default of parallel connections would meet.
func (c *checker) connections(s, t [][]string) {
	const need = 10
	for side, rows := range [][][]string{s, t} {
		name, user, database := c.m.Source.Side, c.sourceUser, c.sourceDatabase
		if side == target {
			name, user, database = c.m.Target.Side, c.targetUser, c.targetDatabase
		}
		if free, _ := strconv.Atoi(rows[0][0]); free < need {
			c.warn("connections", "Raise max_connections and restart, or use --jobs 1."+c.where(side), "the %s has %d free connections; a load needs up to %d", name, free, need)
		}
		for i, sql := range []string{"ALTER ROLE " + user, "ALTER DATABASE " + database} {
			if limit, _ := strconv.Atoi(rows[0][1+i]); limit >= 0 && limit < need {
				c.warn("connection-limit", "Raise it for the migration:", "a connection limit on the %s allows only %d; a load needs up to %d", name, limit, need).
					do(name, superuser, sql+" CONNECTION LIMIT "+strconv.Itoa(2*need)+";")
			}
		}
	}
}

// lockRoom selects the number of relations that pg_dump locks at once.
const lockRoom = `SELECT pg_catalog.count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_'`

// lockRoom compares the tables with the size of the lock table: pg_dump locks all of them in one
// transaction.
func (c *checker) lockRoom(s, _ [][]string) {
	n, _ := strconv.ParseInt(s[0][0], 10, 64)
	room := c.number(source, "max_locks_per_transaction") * (c.number(source, "max_connections") + c.number(source, "max_prepared_transactions"))
	if room > 0 && n > room/2 {
		c.warn("lock-room", "Raise max_locks_per_transaction and restart the source."+c.where(source),
			"pg_dump locks %d tables, views and sequences at once; the source has room for some %d locks of all sessions", n, room)
	}
}

// ages selects the databases whose oldest transaction number or multixact is far back.
const ages = `SELECT datname, pg_catalog.age(datfrozenxid), pg_catalog.mxid_age(datminmxid), datname = pg_catalog.current_database()
	FROM pg_catalog.pg_database WHERE datallowconn ORDER BY pg_catalog.age(datfrozenxid) DESC`

// ages looks for databases that are close to the end of transaction numbers. A load holds a
// snapshot for hours, in which nothing can be frozen.
func (c *checker) ages(s, t [][]string) {
	const late, end = 1_000_000_000, 2_100_000_000
	for side, rows := range [][][]string{s, t} {
		name := []string{c.m.Source.Side, c.m.Target.Side}[side]
		for _, kind := range []struct {
			id, what string
			column   int
		}{{"xid-age", "transaction numbers", 1}, {"multixact-age", "multixacts", 2}} {
			for _, r := range rows {
				age, _ := strconv.ParseInt(r[kind.column], 10, 64)
				if age <= late {
					continue
				}
				f := c.warn(kind.id, "Vacuum it before the load, in database "+text.Ident(r[0])+": VACUUM (FREEZE);",
					"database %s of the %s has %s that are %s old; the server stops writing at %s", r[0], name, kind.what, humanize.Comma(age), humanize.Comma(end))
				if r[3] == "t" {
					f.do(name, superuser, "VACUUM (FREEZE);")
				}
			}
		}
	}
}

// size selects the size of the database. It needs no lock on any table.
const size = `SELECT pg_catalog.pg_database_size(pg_catalog.current_database())`

// The speeds of a load lie between these, in bytes a second: slow for one processor or disk, fast
// for large servers in one network.
const (
	slowLoad = 20e6
	fastLoad = 200e6
)

// size estimates what a load takes.
func (c *checker) size(s, _ [][]string) {
	n, _ := strconv.ParseInt(s[0][0], 10, 64)
	c.ok("size", "the source has %s with indexes: a load may take %s. The target needs as much room, and writes about as much WAL",
		humanize.Bytes(uint64(max(n, 0))), between(span(float64(n)/fastLoad), span(float64(n)/slowLoad)))
	// Each checkpoint makes the load write whole pages to the WAL again.
	const mega = 1 << 20
	if wal := c.number(target, "max_wal_size") * mega; wal > 0 && (wal < 1<<30 || wal < 16<<30 && n > 32*wal) {
		f := c.warn("target-max-wal-size", "Raise it for the load, for example to 16GB."+c.where(target),
			"max_wal_size is %s on the target: the load causes a checkpoint each time it has written that much", humanize.IBytes(uint64(wal)))
		f.do(c.m.Target.Side, superuser, c.reload(target, "max_wal_size", "16GB")...)
	}
}

// between names both ends of a range, or one if they are the same.
func between(from, to string) string {
	if from == to {
		return from
	}
	return from + " to " + to
}

// span is a time for people, of which nobody knows more than the order of magnitude.
func span(seconds float64) string {
	d := time.Duration(seconds) * time.Second
	switch {
	case d < time.Minute:
		return "less than a minute"
	case d < 2*time.Hour:
		return count.Of(int(d.Round(time.Minute).Minutes()), "minute")
	}
	return count.Of(int(d.Round(time.Hour).Hours()), "hour")
}
