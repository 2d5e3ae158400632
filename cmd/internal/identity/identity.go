// Package identity determines a connection's server and database, and whether two connections are
// on the same database.
package identity

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// Line names one end for people: its side, and the role, host, port and database of the
// connection, without its password, and the server's version. Control characters, which any of
// them may have, are escaped.
func Line(side string, c *pgx.Conn) string {
	version, _, _ := strings.Cut(c.PgConn().ParameterStatus("server_version"), " ")
	o := c.Config()
	host := fmt.Sprintf("%s:%d", o.Host, o.Port)
	for _, f := range o.Fallbacks {
		if f.Host != o.Host || f.Port != o.Port { // of several hosts, name the one that replied
			host = c.PgConn().Conn().RemoteAddr().String()
		}
	}
	return fmt.Sprintf("%-6s  %s", side, text.Escape(fmt.Sprintf("%s@%s/%s (PostgreSQL %s)", o.User, host, o.Database, version)))
}

// System returns the system identifier of the connection's server, which its physical copies share.
// It returns "" before 9.6, or if the role may not read it. It may be called within a transaction.
func System(ctx context.Context, c *pgx.Conn) (id string, err error) {
	var may bool
	err = c.QueryRow(ctx, "SELECT coalesce(pg_catalog.has_function_privilege(pg_catalog.to_regprocedure('pg_catalog.pg_control_system()')::pg_catalog.oid, 'EXECUTE'), false)").Scan(&may)
	if err == nil && may {
		err = c.QueryRow(ctx, "SELECT system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system()").Scan(&id)
	}
	return id, err
}

// A Probe is a number that a session holds an advisory lock of: a random one, with the number of
// its server process in the low 32 bits. Whoever sees that process hold that lock is connected to
// the same database, whatever it is called there and wherever it seems to be. It needs no rights,
// and no name or identifier that a copy of the database would have, too. Everybody sees the number,
// and could take the lock of it elsewhere, to make two databases look like one: but not in a
// process of the same number; and nobody should ask where the servers' identifiers are known to
// differ.
type Probe uint64

// Hold takes the lock of a new probe. The session holds it until it ends.
func Hold(ctx context.Context, c *pgx.Conn) (Probe, error) {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	var pid uint32
	if err := c.QueryRow(ctx, "SELECT pg_catalog.pg_backend_pid()").Scan(&pid); err != nil {
		return 0, err
	}
	p := Probe(binary.BigEndian.Uint32(b[:])>>1|1)<<32 | Probe(pid)
	_, err := c.Exec(ctx, "SELECT pg_catalog.pg_advisory_lock($1)", int64(p))
	return p, err
}

// Seen reports whether a session of the connection's database holds a probe.
func (p Probe) Seen(ctx context.Context, c *pgx.Conn) (seen bool, err error) {
	if p == 0 {
		return false, nil
	}
	err = c.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND mode = 'ExclusiveLock'
		AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
		AND classid::pg_catalog.int8 = $1 AND objid::pg_catalog.int8 = $2 AND pid::pg_catalog.int8 = $2)`, int64(p>>32), int64(p&0xffffffff)).Scan(&seen)
	return seen, err
}

// Same reports whether two sessions are on the same database.
func Same(ctx context.Context, a, b *pgx.Conn) (bool, error) {
	var systems [2]string
	for i, c := range []*pgx.Conn{a, b} {
		var err error
		if systems[i], err = System(ctx, c); err != nil {
			return false, err
		}
	}
	if Differ(systems[0], systems[1]) {
		return false, nil
	}
	p, err := Hold(ctx, a)
	if err != nil {
		return false, err
	}
	same, err := p.Seen(ctx, b)
	if err == nil {
		_, err = a.Exec(ctx, "SELECT pg_catalog.pg_advisory_unlock($1)", int64(p))
	}
	return same, err
}

// Differ reports whether the identifiers of two servers are known and different.
func Differ(a, b string) bool { return a != "" && b != "" && a != b }

// Name returns Line's description of a connection, for use within a sentence.
func Name(c *pgx.Conn) string { return strings.TrimSpace(Line("", c)) }

// Closed is an expression: whether new sessions of database d, of pg_database, are read-only by its
// own setting, in whatever spelling.
const Closed = `coalesce((SELECT pg_catalog.bool_or((pg_catalog.substr(x, pg_catalog.strpos(x, '=') + 1))::pg_catalog.bool) FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) x
	WHERE s.setrole = 0 AND s.setdatabase = d.oid AND pg_catalog.split_part(x, '=', 1) = 'default_transaction_read_only'), false)`

// Fenced reports whether a database is read-only for new sessions, as a cutover makes its source.
func Fenced(ctx context.Context, c *pgx.Conn) (fenced bool, err error) {
	err = c.QueryRow(ctx, "SELECT "+Closed+" FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()").Scan(&fenced)
	return fenced, err
}
