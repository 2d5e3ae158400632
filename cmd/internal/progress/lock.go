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

// The locks of a stream are session-level advisory locks. So a killed process keeps its successor
// out as long as one of its sessions is still active.
//
// Any role that may connect can take any advisory lock. So the keys are derived from a secret in
// pgsluice.streams. While a lock is held, every role sees its key in pg_locks, and can later take
// it or queue for it. Then the secret is replaced. Locks that other roles hold have no meaning.
// Locks that our sessions hold count under the current secret and all earlier ones.

// A Use says what a session does with a stream, and determines how it takes the stream's lock. One
// session at a time applies changes. Several sessions may load. Loading and applying exclude each
// other.
type Use int

// The uses of a stream.
const (
	Loading  Use = iota
	Applying     // the session that applies changes
	Ahead        // additional sessions that apply transactions in progress
	// ApplyingAgain is Applying for a session that replaces one of the same process.
	ApplyingAgain
)

// A What says which locks a session takes: one or two places of a stream.
type What []place

type place struct {
	name      string
	exclusive bool
	probe     bool // released at once; only checks that the place is free
}

// WorkLock is the lock for a use of the stream.
func WorkLock(use Use) What {
	switch use {
	case Loading:
		return What{{name: "work"}}
	case Ahead:
		return What{{name: "ahead"}}
	case ApplyingAgain: // the sessions ahead belong to this process
		return What{{name: "work", exclusive: true}}
	}
	// The second place detects sessions of a predecessor.
	return What{{name: "work", exclusive: true}, {name: "ahead", exclusive: true, probe: true}}
}

// Concurrent loads exclude each other for two purposes.

// SchemaLock is the lock for creating the schema and for finishing the load.
var SchemaLock = What{{name: "schema", exclusive: true}}

// TableLock is the lock for building a table's indexes and other objects.
func TableLock(schema, table string) What {
	return What{{name: fmt.Sprintf("table %q.%q", schema, table), exclusive: true}}
}

// newSecret returns an unpredictable number.
func newSecret() int64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return int64(binary.BigEndian.Uint64(b[:]) >> 1)
}

// key returns the key of the advisory lock for a place. The key does not reveal the secret or the
// keys of other places.
func (p place) key(secret int64) int64 {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s", secret, p.name))
	return int64(binary.BigEndian.Uint64(sum[:]) >> 1)
}

// An Ask runs a query in a session. It returns the values of the last row as text, or nil if there
// are no rows.
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

// A Lock is a lock that a session holds.
type Lock struct{ key int64 }

// Unlock returns the query that releases the lock.
func (l Lock) Unlock() string { return fmt.Sprintf("SELECT pg_catalog.pg_advisory_unlock(%d)", l.key) }

// secrets reads a stream's current secret. all has the current secret and the earlier ones.
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

// maxSecrets limits how many earlier secrets are kept. A secret is replaced only when a session of
// another role blocks a lock.
const maxSecrets = 200

// Try takes a lock of a stream for the session. If one of our sessions holds the lock, Try returns
// a description of that session. If sessions of other roles hold it, Try switches to a new secret
// and passes their description to warn.
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
			// Another of our sessions may hold the lock under an older secret. Also, the secret may
			// have been replaced since it was read.
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
		if strangers == "" { // they have gone
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

// replace gives a stream a new secret, unless another session has already done so.
func replace(ctx context.Context, ask Ask, stream int32, secret int64, all []int64) error {
	var keep []string
	for _, s := range all[:min(len(all), maxSecrets)] {
		keep = append(keep, strconv.FormatInt(s, 10))
	}
	_, err := ask(ctx, fmt.Sprintf("UPDATE pgsluice.streams SET lock_key = %d, old_lock_keys = '{%s}' WHERE stream_id = %d AND lock_key = %d",
		newSecret(), strings.Join(keep, ","), stream, secret))
	return err
}

// try returns the query that tries to take the lock. Its result is one boolean.
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

// ours is true for a session a of pg_stat_activity whose role may change the streams, or can become
// a role that may. A session that is just starting or ending counts as ours.
const ours = `(a.usesysid IS NULL OR pg_catalog.has_table_privilege(a.usesysid, t.oid, 'UPDATE') OR pg_catalog.pg_has_role(a.usesysid, t.relowner, 'MEMBER'))`

// held selects the advisory locks of the connection's database with their sessions, and our table.
// A prepared transaction has no session, and is never ours.
const held = ` FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid,
	pg_catalog.pg_class t JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
	WHERE n.nspname = 'pgsluice' AND t.relname = 'streams' AND l.locktype = 'advisory' AND l.objsubid = 1
	AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
	AND (l.classid::pg_catalog.int8 << 32 | l.objid::pg_catalog.int8) `

// sessionText describes the session of a lock l.
const sessionText = `pg_catalog.format('%s (process %s, role %s, connected from %s since %s)', coalesce(nullif(a.application_name, ''), 'a session'), l.pid, coalesce(a.usename, 'unknown'),
	coalesce(pg_catalog.host(a.client_addr), 'this host'), coalesce(pg_catalog.to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS TZ'), 'an unknown time'))`

// holders describes the sessions that block a lock under any of the secrets. mine are our sessions
// that hold it. others are sessions of other roles that hold it or queue for it.
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
			ELSE `+sessionText+` END AS text`+
		held+`IN (`+strings.Join(keys, ", ")+`)`+conflict+` AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()) x`)
	if err != nil || len(row) != 2 {
		return "", "", err
	}
	return row[0], row[1], nil
}

// AtWork reports whether our sessions are loading a stream or applying its changes.
func AtWork(ctx context.Context, c *pgx.Conn, stream int32) (loading, applying bool, err error) {
	ask := AskOf(c)
	_, all, err := secrets(ctx, ask, stream)
	if err != nil {
		return false, false, err
	}
	keys := make([]string, len(all))
	for i, s := range all {
		// Loading uses the same place.
		keys[i] = strconv.FormatInt(WorkLock(Applying)[0].key(s), 10)
	}
	row, err := ask(ctx, "SELECT coalesce(pg_catalog.bool_or(l.mode = 'ShareLock'), false), coalesce(pg_catalog.bool_or(l.mode = 'ExclusiveLock'), false)"+
		held+"IN ("+strings.Join(keys, ", ")+") AND l.granted AND l.pid IS NOT NULL AND "+ours)
	if err != nil || len(row) != 2 {
		return false, false, err
	}
	return row[0] == "t", row[1] == "t", nil
}

// IsApplied reports whether one of our sessions is applying the changes of a stream.
func IsApplied(ctx context.Context, c *pgx.Conn, stream int32) (bool, error) {
	_, applying, err := AtWork(ctx, c, stream)
	return applying, err
}

// LockTimeout is how long a session of a killed process may take to end.
const LockTimeout = 15 * time.Second

// Locked is the error for a lock that another session holds.
func Locked(k Key, use Use, holder string) error {
	what := "applying or loading"
	if use == Loading {
		what = "applying changes"
	}
	return fault.New(fault.TryAgain, "%v is being worked on by another session on the target", k).
		WithDetail("It is %s: %s.", what, holder).
		WithHint("A full load and continuous sync of one slot exclude each other, and only one process may sync. Wait for the other one, or stop it.")
}
