package progress

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
)

// The locks of a stream are advisory locks of sessions, so that a process that was killed keeps its
// successor out as long as a session of its is still at work. Anybody who may connect can take any
// advisory lock. So their keys are derived from a secret in pgsluice.streams. While a lock is held,
// everybody sees its key in pg_locks, and may take or queue for it later: then the secret is
// replaced. What others hold means nothing; what sessions of ours hold counts under every secret
// that there was.

// A Use is what a session does with a stream, and decides how it takes the stream's lock: one
// session at a time applies changes, several load, and the one excludes the other.
type Use int

// The uses of a stream.
const (
	Loading  Use = iota
	Applying     // the session that applies changes
	Ahead        // sessions beside it that apply transactions in progress
	// ApplyingAgain is Applying for a session that replaces one of the same process.
	ApplyingAgain
)

// A What is what a session locks: one or two places of a stream.
type What []place

type place struct {
	name      string
	exclusive bool
	probe     bool // released at once: it is only to be found free
}

// WorkLock is the lock for a use of the stream.
func WorkLock(use Use) What {
	switch use {
	case Loading:
		return What{{name: "work"}}
	case Ahead:
		return What{{name: "ahead"}}
	case ApplyingAgain: // sessions ahead are our own
		return What{{name: "work", exclusive: true}}
	}
	// The second one is that of a predecessor's sessions.
	return What{{name: "work", exclusive: true}, {name: "ahead", exclusive: true, probe: true}}
}

// Loads that go on at the same time exclude each other for two things.

// SchemaLock is the lock for creating the schema, and finishing the load.
var SchemaLock = What{{name: "schema", exclusive: true}}

// TableLock is the lock for building what belongs to a table.
func TableLock(schema, table string) What {
	return What{{name: fmt.Sprintf("table %q.%q", schema, table), exclusive: true}}
}

// newSecret returns a number that nobody can guess.
func newSecret() int64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return int64(binary.BigEndian.Uint64(b[:]) >> 1)
}

// key returns the key of the advisory lock for a place. It does not tell the secret, nor the keys
// of other places.
func (p place) key(secret int64) int64 {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s", secret, p.name))
	return int64(binary.BigEndian.Uint64(sum[:]) >> 1)
}

// An Ask runs one query in a session, and returns the values of its last row as text, nil if there
// is none.
type Ask func(ctx context.Context, sql string) ([]string, error)

// AskOf returns the Ask of a connection of the driver.
func AskOf(c *pgx.Conn) Ask {
	return func(ctx context.Context, sql string) (row []string, err error) {
		results, err := c.PgConn().Exec(ctx, sql).ReadAll()
		if err != nil || len(results) == 0 {
			return nil, err
		}
		rows := results[len(results)-1].Rows
		if len(rows) > 0 {
			for _, v := range rows[len(rows)-1] {
				row = append(row, string(v))
			}
		}
		return row, nil
	}
}

// A Lock is one that a session has taken.
type Lock struct{ key int64 }

// Unlock returns the query that releases it.
func (l Lock) Unlock() string { return fmt.Sprintf("SELECT pg_catalog.pg_advisory_unlock(%d)", l.key) }

// secrets reads a stream's secret, and those that it had before.
func secrets(ctx context.Context, ask Ask, stream int32) (current int64, all []int64, err error) {
	row, err := ask(ctx, fmt.Sprintf("SELECT lock_key, pg_catalog.array_to_string(old_lock_keys, ' ') FROM pgsluice.streams WHERE stream_id = %d", stream))
	if err != nil {
		return 0, nil, err
	}
	if len(row) != 2 {
		return 0, nil, fault.New(fault.Config, "the state of the migration is gone from the target").
			WithDetail("Another process has removed it, as pgcutover cleanup does.").WithHint("Begin again with pgextract.")
	}
	for i, s := range append(row[:1:1], strings.Fields(row[1])...) {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, nil, err
		}
		if i == 0 {
			current = n
		}
		all = append(all, n)
	}
	return current, all, nil
}

// maxSecrets bounds how many secrets are remembered. Each is replaced only when somebody stands in
// the way.
const maxSecrets = 200

// Try takes a lock of a stream for the session, if no session of ours stands in the way; else it
// returns who does. Where others do, it goes around them and tells warn who they are.
func Try(ctx context.Context, ask Ask, stream int32, what What, warn func(string)) (lock Lock, holder string, err error) {
	for range 20 {
		secret, all, err := secrets(ctx, ask, stream)
		if err != nil {
			return Lock{}, "", err
		}
		lock = Lock{what[0].key(secret)}
		row, err := ask(ctx, what.try(secret))
		if err != nil {
			return Lock{}, "", err
		}
		if len(row) == 1 && row[0] == "t" {
			// Under an older secret a session of ours may be at work; and this one may have become
			// old just now.
			now, old, err := secrets(ctx, ask, stream)
			if err != nil {
				return Lock{}, "", err
			}
			if now == secret {
				if holder, _, err = what.holders(ctx, ask, old[1:]); holder == "" && err == nil {
					return lock, "", nil
				}
			}
			if _, e := ask(ctx, lock.Unlock()); err == nil {
				err = e
			}
			if holder != "" || err != nil {
				return Lock{}, holder, err
			}
			continue
		}
		holder, strangers, err := what.holders(ctx, ask, all)
		if holder != "" || err != nil {
			return Lock{}, holder, err
		}
		if strangers == "" { // gone meanwhile
			select {
			case <-ctx.Done():
				return Lock{}, "", ctx.Err()
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		if err := replace(ctx, ask, stream, secret, all); err != nil {
			return Lock{}, "", err
		}
		if warn != nil {
			warn(fmt.Sprintf("sessions on the target that are not ours hold a lock of ours; another one is used instead: %s", strangers))
		}
	}
	return Lock{}, "sessions that come and go", nil
}

// replace gives a stream another secret, unless somebody else has done so.
func replace(ctx context.Context, ask Ask, stream int32, secret int64, all []int64) error {
	var keep []string
	for _, s := range all[:min(len(all), maxSecrets)] {
		keep = append(keep, strconv.FormatInt(s, 10))
	}
	_, err := ask(ctx, fmt.Sprintf("UPDATE pgsluice.streams SET lock_key = %d, old_lock_keys = '{%s}' WHERE stream_id = %d AND lock_key = %d",
		newSecret(), strings.Join(keep, ","), stream, secret))
	return err
}

// try returns the query, of one boolean column, that tries to take the lock.
func (w What) try(secret int64) string {
	take := func(p place) string {
		if p.exclusive {
			return fmt.Sprintf("pg_catalog.pg_try_advisory_lock(%d)", p.key(secret))
		}
		return fmt.Sprintf("pg_catalog.pg_try_advisory_lock_shared(%d)", p.key(secret))
	}
	release := func(p place) string { return fmt.Sprintf("pg_catalog.pg_advisory_unlock(%d)", p.key(secret)) }
	if len(w) == 1 {
		return "SELECT " + take(w[0])
	}
	return fmt.Sprintf("SELECT CASE WHEN %s THEN CASE WHEN %s THEN %s ELSE %s AND false END ELSE false END",
		take(w[0]), take(w[1]), release(w[1]), release(w[0]))
}

// ours is true for a session a of pg_stat_activity whose role may work on the streams, or become
// one that may. One that has just ended, or begun, is taken for ours.
const ours = `(a.usesysid IS NULL OR pg_catalog.has_table_privilege(a.usesysid, t.oid, 'UPDATE') OR pg_catalog.pg_has_role(a.usesysid, t.relowner, 'MEMBER'))`

// held are the advisory locks of the connection's database, with their sessions, and our table.
// A prepared transaction has no session, and is never ours.
const held = ` FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid,
	pg_catalog.pg_class t JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
	WHERE n.nspname = 'pgsluice' AND t.relname = 'streams' AND l.locktype = 'advisory' AND l.objsubid = 1
	AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
	AND (l.classid::pg_catalog.int8 << 32 | l.objid::pg_catalog.int8) `

// holders describes the sessions that stand in the way of a lock under any of the secrets: ours,
// which hold it, and others, which hold it or queue for it.
func (w What) holders(ctx context.Context, ask Ask, secrets []int64) (mine, others string, err error) {
	if len(secrets) == 0 {
		return "", "", nil
	}
	var keys []string
	shared := true
	for _, p := range w {
		for _, s := range secrets {
			keys = append(keys, strconv.FormatInt(p.key(s), 10))
		}
		shared = shared && !p.exclusive
	}
	conflict := ""
	if shared {
		conflict = " AND l.mode = 'ExclusiveLock'"
	}
	row, err := ask(ctx, `SELECT coalesce(pg_catalog.string_agg(DISTINCT text, ', ') FILTER (WHERE mine AND granted), ''), coalesce(pg_catalog.string_agg(DISTINCT text, ', ') FILTER (WHERE NOT mine), '')
		FROM (SELECT l.granted, l.pid IS NOT NULL AND `+ours+` AS mine, CASE WHEN l.pid IS NULL THEN 'a prepared transaction'
			ELSE pg_catalog.format('%s (process %s, role %s, connected from %s since %s)', coalesce(nullif(a.application_name, ''), 'a session'), l.pid, coalesce(a.usename, 'unknown'),
			coalesce(pg_catalog.host(a.client_addr), 'this host'), coalesce(pg_catalog.to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS TZ'), 'an unknown time')) END AS text`+
		held+`IN (`+strings.Join(keys, ", ")+`)`+conflict+` AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()) x`)
	if err != nil || len(row) != 2 {
		return "", "", err
	}
	return row[0], row[1], nil
}

// AtWork reports whether sessions of ours load, or apply the changes of, a stream.
func AtWork(ctx context.Context, c *pgx.Conn, stream int32) (loading, applying bool, err error) {
	ask := AskOf(c)
	_, all, err := secrets(ctx, ask, stream)
	if err != nil {
		return false, false, err
	}
	keys := make([]string, len(all))
	for i, s := range all {
		// the same place as for loading
		keys[i] = strconv.FormatInt(WorkLock(Applying)[0].key(s), 10)
	}
	row, err := ask(ctx, "SELECT coalesce(pg_catalog.bool_or(l.mode = 'ShareLock'), false), coalesce(pg_catalog.bool_or(l.mode = 'ExclusiveLock'), false)"+
		held+"IN ("+strings.Join(keys, ", ")+") AND l.granted AND l.pid IS NOT NULL AND "+ours)
	if err != nil || len(row) != 2 {
		return false, false, err
	}
	return row[0] == "t", row[1] == "t", nil
}

// IsApplied reports whether a session of ours applies the changes of a stream.
func IsApplied(ctx context.Context, c *pgx.Conn, stream int32) (bool, error) {
	_, applying, err := AtWork(ctx, c, stream)
	return applying, err
}

// LockTimeout is how long a session of a process that was killed may take to notice.
const LockTimeout = 15 * time.Second

// Locked is the error for a lock that others hold.
func Locked(k Key, use Use, holder string) error {
	what := "applying or loading"
	if use == Loading {
		what = "applying changes"
	}
	return fault.New(fault.TryAgain, "%v is being worked on by another session on the target", k).
		WithDetail("It is %s: %s.", what, holder).
		WithHint("A full load and continuous sync of one slot exclude each other, and only one process may sync. Wait for the other one, or stop it.")
}
