package waiting

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// A wait describes what sessions of ours wait for.
type wait struct {
	what    string // as in: waiting for …
	holders []Holder
	hint    string
}

// String returns what the sessions wait for, and who holds it.
func (w *wait) String() string {
	if len(w.holders) == 0 {
		return w.what
	}
	return w.what + ": " + Some(w.holders)
}

// key identifies a wait, independent of the time.
func (w *wait) key() string {
	var b strings.Builder
	b.WriteString(w.what)
	for _, h := range w.holders {
		fmt.Fprintf(&b, " %d %q", h.PID, h.GID)
	}
	return b.String()
}

// writersSince is the age from which a transaction is named beside the ones waited for.
const writersSince = 3 * time.Second

// A blocked is a session that waits.
type blocked struct {
	PID      int32
	Event    string
	Snapshot *bool // the session waits for a consistent snapshot
	Lock     string
	Relation string
	By       []int32
}

// blockedSessions returns our sessions that wait for a lock or a standby.
func blockedSessions(ctx context.Context, c *pgx.Conn, pids []int32, apps []string) ([]blocked, error) {
	rows, err := c.Query(ctx, `SELECT a.pid, a.wait_event, a.backend_type = 'walsender' AND l.locktype = 'transactionid', coalesce(l.locktype, ''),
		CASE WHEN n.oid IS NOT NULL THEN pg_catalog.format('%I.%I', n.nspname, k.relname) ELSE '' END, pg_catalog.pg_blocking_pids(a.pid)
		FROM pg_catalog.pg_stat_activity a
		LEFT JOIN LATERAL (SELECT * FROM pg_catalog.pg_locks w WHERE w.pid = a.pid AND NOT w.granted LIMIT 1) l ON a.wait_event_type = 'Lock'
		LEFT JOIN pg_catalog.pg_class k ON k.oid = l.relation AND l.database IN (0, (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))
		LEFT JOIN pg_catalog.pg_namespace n ON n.oid = k.relnamespace
		WHERE (a.pid = ANY ($1) OR a.application_name = ANY ($2) AND a.usename = SESSION_USER) AND (a.wait_event_type = 'Lock' OR a.wait_event = 'SyncRep') ORDER BY a.pid`, pids, apps)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[blocked])
}

// look returns what our processes and the sessions with these application names wait for. It does
// not name ours as what others wait for: nobody may end them.
func look(ctx context.Context, c *pgx.Conn, side string, pids []int32, apps []string, ours []int32) ([]wait, error) {
	list, err := blockedSessions(ctx, c, pids, apps)
	if err != nil {
		return nil, err
	}
	var waits []wait
	for i := range list {
		var w wait
		if list[i].Event == "SyncRep" {
			w, err = standby(ctx, c, side)
		} else {
			w, err = lock(ctx, c, side, &list[i], ours)
		}
		if err != nil {
			return nil, err
		}
		if len(w.holders) == 0 && list[i].Event != "SyncRep" {
			continue // the lock has been released
		}
		if !slices.ContainsFunc(waits, func(x wait) bool { return x.key() == w.key() }) {
			waits = append(waits, w)
		}
	}
	return waits, nil
}

// lock describes the wait of a session for a lock.
func lock(ctx context.Context, c *pgx.Conn, side string, b *blocked, ours []int32) (w wait, err error) {
	var who []Holder
	if slices.Contains(b.By, 0) {
		if who, err = preparedBefore(ctx, c, b.PID); err != nil {
			return w, err
		}
		if len(who) == 0 {
			who = []Holder{{}}
		}
	}
	others, err := holders(ctx, c, b.By)
	if err != nil {
		return w, err
	}
	others = slices.DeleteFunc(others, func(h Holder) bool { return h.PID != 0 && slices.Contains(ours, h.PID) })
	w = wait{what: "a lock", holders: append(who, others...)}
	switch {
	case b.Snapshot != nil && *b.Snapshot:
		w.what = "writing transactions to end, which a consistent snapshot requires"
		if w.holders, err = writers(ctx, c, w.holders, ours); err != nil {
			return w, err
		}
	case b.Relation != "":
		w.what = "a lock on " + b.Relation
	case b.Lock == "transactionid" || b.Lock == "tuple":
		w.what = "a transaction that changed the same rows to end"
	case b.Lock == "advisory":
		w.what = "an advisory lock"
	}
	if len(w.holders) > 0 {
		w.hint = hint(w.holders, side, c.Config().User, pgdial.Version(c.PgConn()))
	}
	return w, nil
}

// writers returns the transactions that the creation of a slot waits for or will wait for: those
// that block it now, and all others that are not short. It leaves out our own.
func writers(ctx context.Context, c *pgx.Conn, now []Holder, ours []int32) ([]Holder, error) {
	all, err := Writers(ctx, c)
	if err != nil {
		return nil, err
	}
	list := slices.DeleteFunc(all, func(h Holder) bool {
		if h.PID != 0 && slices.Contains(ours, h.PID) {
			return true
		}
		waited := slices.ContainsFunc(now, func(x Holder) bool { return x.PID == h.PID && x.GID == h.GID })
		return !waited && !h.Hidden && h.PID != 0 && h.Open < writersSince
	})
	if len(list) == 0 {
		return now, nil
	}
	return list, nil
}

// standby describes a commit that waits for a standby.
func standby(ctx context.Context, c *pgx.Conn, side string) (w wait, err error) {
	var names string
	var connected int
	err = c.QueryRow(ctx, "SELECT pg_catalog.current_setting('synchronous_standby_names'), (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication)").
		Scan(&names, &connected)
	if err != nil {
		return w, err
	}
	w.what = fmt.Sprintf("a synchronous standby to confirm a commit (synchronous_standby_names is %s; ", text.Literal(names))
	if connected == 0 {
		w.what += "no standby is connected)"
	} else {
		w.what += "the connected standbys do not confirm it)"
	}
	w.hint = StandbyHint(side)
	return w, nil
}

// StandbyHint returns the hint for commits that wait for a standby.
func StandbyHint(side string) string {
	return fmt.Sprintf("Start the standby. Or, to do without it, as superuser on the %s: ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_catalog.pg_reload_conf();", side)
}

// Durable is the query after which a session's commits are as durable as the server's own settings
// require, and at least on the server's disk.
const Durable = "SELECT pg_catalog.set_config('synchronous_commit', CASE reset_val WHEN 'off' THEN 'local' ELSE reset_val END, false) FROM pg_catalog.pg_settings WHERE name = 'synchronous_commit'"

// Commits reports whether ordinary commits on a server wait for a standby that does not confirm,
// and the value of synchronous_standby_names. It commits a logical message.
func Commits(ctx context.Context, server pgdial.Server) (names string, stuck bool, err error) {
	server.Sessions = nil
	c, err := server.Connect(ctx)
	if err != nil {
		return "", false, err
	}
	defer c.Close(context.WithoutCancel(ctx))
	if err := c.QueryRow(ctx, "SELECT pg_catalog.current_setting('synchronous_standby_names')").Scan(&names); err != nil || names == "" {
		return names, false, server.Explain(err)
	}
	const patience = 2500 * time.Millisecond
	short, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// The timeout is the client's: a timeout of the server does not end a commit. The connection
	// then cancels the statement.
	for _, sql := range []string{Durable, "SELECT pg_catalog.pg_logical_emit_message(true, 'pgsluice', 'probe')"} {
		if _, err := c.Exec(short, sql); err != nil {
			if short.Err() != nil && ctx.Err() == nil {
				return names, true, nil
			}
			return names, false, server.Explain(err)
		}
	}
	return names, false, nil
}
