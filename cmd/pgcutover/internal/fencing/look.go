package fencing

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
)

// A Look is all that may write to a source, seen in one round trip.
type Look struct {
	Clients []Client
	// Starting are the processes that are connecting to the database. They are not in
	// pg_stat_activity yet, and may have read the database's settings already; but they hold a lock
	// on the database until they are there.
	Starting []int32
	Now      time.Time // before the look, by the source's clock

	prepared, exempt, subscriptions []string
}

// selectPrepared selects the transactions that can be committed even in a read-only database.
const selectPrepared = "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database() ORDER BY prepared"

// LookAt ends sessions, if there are any, gives them a moment to end, and then looks.
func LookAt(ctx context.Context, c *pgx.Conn, end []int32) (*Look, error) {
	l := new(Look)
	var b pgx.Batch
	if len(end) > 0 {
		b.Queue("SELECT pg_catalog.pg_terminate_backend(x) FROM pg_catalog.unnest($1::pg_catalog.int4[]) x", end)
		b.Queue("SELECT pg_catalog.pg_sleep(0.005)")
	}
	b.Queue("SELECT pg_catalog.clock_timestamp()").QueryRow(func(row pgx.Row) error { return row.Scan(&l.Now) })
	// The order matters: who is no longer starting is seen by the next query, and what a session
	// has prepared before it ended by the one after that.
	b.Queue(`SELECT l.pid FROM pg_catalog.pg_locks l WHERE l.locktype = 'object' AND l.granted AND l.mode = 'RowExclusiveLock' AND l.pid <> pg_catalog.pg_backend_pid()
		AND l.classid = 'pg_catalog.pg_database'::pg_catalog.regclass AND l.objid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())`).
		Query(func(rows pgx.Rows) (err error) {
			l.Starting, err = pgx.CollectRows(rows, pgx.RowTo[int32])
			return err
		})
	QueueClients(&b, &l.Clients)
	for _, x := range []struct {
		sql string
		to  *[]string
	}{{selectPrepared, &l.prepared}, {selectExempt, &l.exempt}, {selectSubscriptions, &l.subscriptions}} {
		b.Queue(x.sql).Query(func(rows pgx.Rows) (err error) {
			*x.to, err = pgx.CollectRows(rows, pgx.RowTo[string])
			return err
		})
	}
	return l, c.SendBatch(ctx, &b).Close()
}

// NonePrepared refuses while there are prepared transactions: they can be committed even in a
// read-only database.
func (l *Look) NonePrepared() error {
	if len(l.prepared) == 0 {
		return nil
	}
	return fault.New(fault.Config, "the fence would not hold: there are prepared transactions on the source: %s", count.Some(l.prepared)).
		WithHint("End each of them on the source with COMMIT PREPARED or ROLLBACK PREPARED.")
}

// NoneExempt refuses while roles are exempt from the database's default.
func (l *Look) NoneExempt() error {
	if len(l.exempt) == 0 {
		return nil
	}
	return fault.New(fault.Config, "the fence would not hold: these roles have default_transaction_read_only = off: %s", count.Some(l.exempt)).
		WithHint("On the source: ALTER ROLE … RESET default_transaction_read_only (or … IN DATABASE … RESET …)")
}

// NoSubscription refuses while the source takes changes from elsewhere.
func (l *Look) NoSubscription() error {
	if len(l.subscriptions) == 0 {
		return nil
	}
	return fault.New(fault.Config, "the fence would not hold: the source takes changes from %s: %s",
		count.Word(len(l.subscriptions), "a subscription", "subscriptions"), count.Some(l.subscriptions)).
		WithHint("On the source, as the owner of the subscription: %s The changes wait at the publisher. After the cutover, create the subscription on the target.",
			strings.Join(Disable(l.subscriptions), " "))
}

// Before returns the sessions that began before a time, or of which nobody can tell.
func (l *Look) Before(since time.Time) []Client {
	return slices.DeleteFunc(slices.Clone(l.Clients), func(x Client) bool { return !x.Began.IsZero() && !x.Began.Before(since) })
}
