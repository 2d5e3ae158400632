package steps

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/hold"
	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/objects"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
)

// asFenced reports whether the source's schema is the one that the fence has compared.
func (m *Migration) asFenced(ctx context.Context, c *pgx.Conn, done []progress.Step) (bool, error) {
	i := slices.IndexFunc(done, func(s progress.Step) bool { return s.Name == "fence" && s.Finished != nil && s.Stamp != "" })
	if i < 0 {
		return false, nil
	}
	stamp, err := inventory.Stamp(ctx, c)
	return stamp == done[i].Stamp, m.Source.Explain(err)
}

// Open makes the target fit for the application's writes: sequences stand where the source's stand,
// foreign keys and triggers that were deferred are created (foreign keys as NOT VALID, which takes
// no time and holds for all that is written from now on), and nothing more is applied. It needs a
// fenced and drained source. For a lock of others it waits no longer than timeout.
func (m *Migration) Open(ctx context.Context, allow []string, timeout time.Duration) error {
	t, err := m.target(ctx)
	if err != nil {
		return err
	}
	defer t.Close(ctx)
	stream, err := m.stream(ctx, t)
	if err != nil {
		return err
	}
	if stream.Ended {
		m.Log.Info("open: the target is open already")
		return nil
	}
	c, err := m.sourceOf(ctx, t, stream)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	fenced, err := isFenced(ctx, c)
	if err != nil {
		return m.Source.Explain(err)
	}
	done, err := progress.Steps(ctx, t, stream.ID)
	if err != nil {
		return m.Target.Explain(err)
	}
	if !fenced || !finished(done, "drain") {
		return fault.New(fault.Config, "the source is not fenced and drained: the target does not have everything yet").
			WithHint("First: pgcutover fence --slot %s, and pgcutover drain --slot %s", m.Slot, m.Slot)
	}
	if err := m.answers(ctx, t); err != nil {
		return err
	}
	// The fence has compared the schemas. That takes a while in which nobody can write.
	if same, err := m.asFenced(ctx, c, done); err != nil {
		return err
	} else if !same {
		if err := m.requireNothingMissing(ctx, c, t, stream, allow, timeout); err != nil {
			return err
		}
	}
	return m.step(ctx, t, stream.ID, "open", func() (string, error) {
		var n int
		if err := m.patiently(ctx, m.Target, timeout, func() (err error) {
			n, err = m.sequences(ctx, c, t, stream.ID)
			return err
		}); err != nil {
			return "", err
		}
		created, failed, err := m.deferred(ctx, t, stream.ID, progress.PhaseCutover, timeout)
		if err != nil {
			return "", err
		}
		if _, err := m.retry(ctx, t, stream.ID, true, timeout); err != nil {
			return "", err
		}
		// From here on the application relies on what it has, and on what the server's settings
		// promise of it.
		if _, err := t.Exec(ctx, waiting.Durable); err != nil {
			return "", m.Target.Explain(err)
		}
		if err := progress.EndStream(ctx, t, stream.ID); err != nil {
			return "", m.Target.Explain(err)
		}
		for _, o := range failed {
			m.Log.Warn(fmt.Sprintf("could not create %v: %s", &o, o.Error))
		}
		text := fmt.Sprintf("%s set, %d foreign keys and triggers created; the target can be written to", count.Of(n, "sequence"), created)
		if len(failed) > 0 {
			text += fmt.Sprintf("; %d could not be created", len(failed))
		}
		return text, nil
	})
}

func finished(steps []progress.Step, name string) bool {
	for _, s := range steps {
		if s.Name == name {
			return s.Finished != nil
		}
	}
	return false
}

// deferred creates the objects that were left for a phase of the cutover. Foreign keys are created
// NOT VALID: they hold for what is written from now on, and nobody waits for the rows that are
// there to be looked at, which Finish does.
func (m *Migration) deferred(ctx context.Context, t *pgx.Conn, stream int32, phase progress.Phase,
	patience time.Duration) (created int, failed []progress.Object, err error) {
	list, err := progress.Pending(ctx, t, stream, phase, "", "")
	if err != nil {
		return 0, nil, m.Target.Explain(err)
	}
	if _, err := t.Exec(ctx, "SET check_function_bodies = off; SET synchronous_commit = off"); err != nil {
		return 0, nil, m.Target.Explain(err)
	}
	for _, o := range list {
		create := m.makeObject
		if o.Type == "FK CONSTRAINT" && !objects.Unchecked(o.SQL) {
			create = m.notValid
		}
		err := m.patiently(ctx, m.Target, patience, func() error { return create(ctx, t, o) })
		var pg *pgconn.PgError
		switch {
		case waiting.IsLockTimeout(err):
			return created, failed, err
		case err == nil:
			created++
		case errors.As(err, &pg) && (o.Type == "FK CONSTRAINT" && pg.Code == "42710" || hold.Is(o.Type) && isGone(pg)):
			// it was made by hand; or there is nothing to make it of
			if err := progress.SetObject(ctx, t, o.ID, "done"); err != nil {
				return created, failed, m.Target.Explain(err)
			}
		case !objects.Refused(err):
			return created, failed, m.Target.Explain(err)
		default:
			o.Error = err.Error()
			failed = append(failed, o)
			if err := progress.Fail(ctx, t, o.ID, err); err != nil {
				return created, failed, m.Target.Explain(err)
			}
		}
	}
	return created, failed, nil
}

// makeObject creates an object and records it in the same transaction.
func (m *Migration) makeObject(ctx context.Context, t *pgx.Conn, o progress.Object) error {
	return pgx.BeginFunc(ctx, t, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, o.SQL, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		return progress.SetObject(ctx, t, o.ID, "done")
	})
}

// isGone reports whether what was switched off was dropped meanwhile.
func isGone(pg *pgconn.PgError) bool {
	switch pg.Code {
	case "42704", "42P01", "3F000": // the trigger or rule, its table, or the schema
		return true
	}
	return false
}

// Finish does what the application need not wait for: it validates the foreign keys, refreshes the
// materialized views, and analyzes the tables that changed. It opens the target first, if that was
// not done.
func (m *Migration) Finish(ctx context.Context, timeout time.Duration) error {
	if err := m.Open(ctx, nil, timeout); err != nil {
		return err
	}
	t, err := m.target(ctx)
	if err != nil {
		return err
	}
	defer t.Close(ctx)
	stream, err := m.stream(ctx, t)
	if err != nil {
		return err
	}
	return m.step(ctx, t, stream.ID, "finish", func() (string, error) {
		left, err := m.retry(ctx, t, stream.ID, false, timeout)
		if err != nil {
			return "", err
		}
		if slices.ContainsFunc(left, func(o progress.Object) bool { return o.Phase == progress.PhaseCutover }) {
			if _, _, err := m.deferred(ctx, t, stream.ID, progress.PhaseCutover, 0); err != nil {
				return "", err
			}
		}
		valid, invalid, err := m.validate(ctx, t, stream.ID)
		if err != nil {
			return "", err
		}
		views, stale, err := m.refresh(ctx, t)
		if err != nil {
			return "", err
		}
		if err := m.analyze(ctx, t); err != nil {
			return "", err
		}
		// Event triggers come last: they are about all that was done until here.
		if _, _, err := m.deferred(ctx, t, stream.ID, progress.PhaseFinish, 0); err != nil {
			return "", err
		}
		text := fmt.Sprintf("%s validated, %s refreshed, tables analyzed", count.Of(valid, "foreign key"),
			count.Of(views, "materialized view"))
		failed, err := progress.Failed(ctx, t, stream.ID)
		if err != nil {
			return "", m.Target.Explain(err)
		}
		if len(invalid) > 0 {
			return "", fault.New(fault.Failed, "%s %s not hold on the target: %s",
				count.Of(len(invalid), "foreign key"), count.Word(len(invalid), "does", "do"),
				strings.Join(invalid, "; ")).
				WithHint("They are enforced for new rows. Find the rows without a parent, then: ALTER TABLE … VALIDATE CONSTRAINT …")
		}
		if len(stale) > 0 {
			return "", fault.New(fault.Failed, "%d materialized views could not be refreshed: %s", len(stale), strings.Join(stale, "; ")).
				WithHint("They have what they had when the full load ended. Mend the cause, then run finish again; or DROP MATERIALIZED VIEW …")
		}
		if len(failed) > 0 {
			text += fmt.Sprintf("; %s missing, see pgsluice.deferred", count.Of(len(failed), "object"))
			if err := m.warnFailed(ctx, t, failed); err != nil {
				return "", err
			}
		}
		return text, nil
	})
}

// exec executes a statement on the open target, as soon as no lock of the application's stands in
// its way.
func (m *Migration) exec(ctx context.Context, t *pgx.Conn, sql string) error {
	return m.patiently(ctx, m.Target, 0, func() error {
		_, err := t.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
		return err
	})
}

// refresh refreshes the materialized views that have data, those that others are made of first. It
// returns how many, and those that could not be.
func (m *Migration) refresh(ctx context.Context, t *pgx.Conn) (refreshed int, stale []string, err error) {
	rows, err := t.Query(ctx, `WITH RECURSIVE d(oid, depth) AS (
			SELECT oid, 1 FROM pg_catalog.pg_class WHERE relkind = 'm' AND relispopulated
			UNION ALL SELECT r.ev_class, d.depth + 1 FROM d JOIN pg_catalog.pg_depend p ON p.refobjid = d.oid AND p.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND p.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
			JOIN pg_catalog.pg_rewrite r ON r.oid = p.objid WHERE r.ev_class <> d.oid AND d.depth < 100)
		SELECT d.oid::pg_catalog.regclass::pg_catalog.text FROM d JOIN pg_catalog.pg_class c ON c.oid = d.oid WHERE c.relkind = 'm' AND c.relispopulated GROUP BY d.oid ORDER BY pg_catalog.max(d.depth), 1`)
	if err != nil {
		return 0, nil, m.Target.Explain(err)
	}
	views, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return 0, nil, m.Target.Explain(err)
	}
	for _, v := range views {
		err := m.exec(ctx, t, "REFRESH MATERIALIZED VIEW "+v)
		var pg *pgconn.PgError
		switch {
		case errors.As(err, &pg) && !t.IsClosed():
			stale = append(stale, fmt.Sprintf("%s: %v", v, err))
		case err != nil:
			return refreshed, stale, m.Target.Explain(err)
		default:
			refreshed++
		}
	}
	return refreshed, stale, nil
}

// analyze analyzes all tables. One that cannot be is not worth a failed cutover: a partition may be
// a foreign table whose server is not within reach, or an expression that statistics are kept of
// fails for some rows.
func (m *Migration) analyze(ctx context.Context, t *pgx.Conn) error {
	rows, err := t.Query(ctx, `SELECT c.oid::pg_catalog.regclass::pg_catalog.text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'pgsluice') ORDER BY 1`)
	if err != nil {
		return m.Target.Explain(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return m.Target.Explain(err)
	}
	for _, name := range tables {
		err := m.exec(ctx, t, "ANALYZE "+name)
		var pg *pgconn.PgError
		switch {
		case errors.As(err, &pg) && !t.IsClosed():
			m.Log.Warn(fmt.Sprintf("could not analyze %s: %v", name, err))
		case err != nil:
			return m.Target.Explain(err)
		}
	}
	return nil
}
