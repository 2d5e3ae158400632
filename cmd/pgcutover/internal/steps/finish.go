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
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
)

// Open makes the target fit for the application's writes: sequences stand where the source's stand, foreign keys and triggers that were deferred
// are created (foreign keys as NOT VALID, which takes no time and holds for all that is written from now on), and nothing more is
// applied. It needs a fenced and drained source. For a lock of others it waits no longer than timeout.
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
	c, err := m.source(ctx)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	if err := m.checkSource(ctx, c, t, stream); err != nil {
		return err
	}
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
	if err := m.requireNothingMissing(ctx, c, t, stream, allow); err != nil {
		return err
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
		if _, err := m.retry(ctx, t, stream.ID, true); err != nil {
			return "", err
		}
		// From here on the application relies on what it has, and on what the server's settings promise of it.
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

// deferred creates the objects that were left for a phase of the cutover. Foreign keys are created NOT VALID: they hold for what is written from now on, and
// nobody waits for the rows that are there to be looked at, which Finish does.
func (m *Migration) deferred(ctx context.Context, t *pgx.Conn, stream int32, phase progress.Phase, patience time.Duration) (created int, failed []progress.Object, err error) {
	list, err := progress.Pending(ctx, t, stream, phase, "", "")
	if err != nil {
		return 0, nil, m.Target.Explain(err)
	}
	if _, err := t.Exec(ctx, "SET check_function_bodies = off; SET synchronous_commit = off"); err != nil {
		return 0, nil, m.Target.Explain(err)
	}
	for _, o := range list {
		state, sqls := "done", []string{o.SQL}
		if o.Type == "FK CONSTRAINT" && !strings.Contains(o.SQL, "NOT VALID") {
			if state, sqls, err = m.notValid(ctx, t, o); err != nil {
				return created, failed, err
			}
		}
		err := m.patiently(ctx, m.Target, patience, func() error {
			return pgx.BeginFunc(ctx, t, func(tx pgx.Tx) error {
				for _, sql := range sqls {
					if _, err := tx.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
						return err
					}
				}
				return progress.SetObject(ctx, t, o.ID, state)
			})
		})
		var pg *pgconn.PgError
		switch {
		case waiting.IsLockTimeout(err):
			return created, failed, err
		case err == nil, errors.As(err, &pg) && pg.Code == "42710" && o.Type == "FK CONSTRAINT":
			created++ // or it was, by a run that was interrupted
		case errors.As(err, &pg) && hold.Is(o.Type) && isGone(pg):
			if err := progress.SetObject(ctx, t, o.ID, "done"); err != nil {
				return created, failed, m.Target.Explain(err)
			}
		case !errors.As(err, &pg):
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

// isGone reports whether what was switched off was dropped meanwhile.
func isGone(pg *pgconn.PgError) bool {
	switch pg.Code {
	case "42704", "42P01", "3F000": // the trigger or rule, its table, or the schema
		return true
	}
	return false
}

// addConstraint is where pg_dump's statement for a constraint goes on behind the table's name.
const addConstraint = "\n    ADD CONSTRAINT "

// notValid returns the statements that create a foreign key as NOT VALID, and the state that the object is in then. A partitioned table cannot have
// such a constraint, but its partitions can; Finish makes the one of the whole of theirs.
func (m *Migration) notValid(ctx context.Context, t *pgx.Conn, o progress.Object) (state string, sqls []string, err error) {
	head, constraint, ok := strings.Cut(o.SQL, addConstraint)
	if !ok {
		return "done", []string{o.SQL}, nil
	}
	constraint = addConstraint + strings.TrimRight(constraint, "; \n") + " NOT VALID;"
	leaves, err := m.leaves(ctx, t, o)
	if err != nil {
		return "", nil, m.Target.Explain(err)
	}
	if leaves == nil {
		return "done", []string{head + constraint}, nil
	}
	for _, leaf := range leaves {
		sqls = append(sqls, "ALTER TABLE ONLY "+leaf+constraint)
	}
	return "running", sqls, nil
}

// leaves returns the partitions that have rows of the partitioned table of an object; nil if it is an ordinary table.
func (m *Migration) leaves(ctx context.Context, t *pgx.Conn, o progress.Object) ([]string, error) {
	var kind string
	var oid uint32
	err := t.QueryRow(ctx, "SELECT c.oid, c.relkind::pg_catalog.text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
		o.Schema, o.Table).Scan(&oid, &kind)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && kind != "p" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	rows, err := t.Query(ctx, `WITH RECURSIVE d(oid) AS (SELECT $1::pg_catalog.oid UNION ALL SELECT i.inhrelid FROM d JOIN pg_catalog.pg_inherits i ON i.inhparent = d.oid)
		SELECT d.oid::pg_catalog.regclass::pg_catalog.text FROM d JOIN pg_catalog.pg_class c ON c.oid = d.oid WHERE c.relkind = 'r' ORDER BY 1`, oid)
	if err != nil {
		return nil, err
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if list == nil {
		list = []string{}
	}
	return list, err
}

// Finish does what the application need not wait for: it validates the foreign keys, refreshes the materialized views, and analyzes the tables that
// changed. It opens the target first, if that was not done.
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
		left, err := m.retry(ctx, t, stream.ID, false)
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
		text := fmt.Sprintf("%s validated, %s refreshed, tables analyzed", count.Of(valid, "foreign key"), count.Of(views, "materialized view"))
		failed, err := progress.Failed(ctx, t, stream.ID)
		if err != nil {
			return "", m.Target.Explain(err)
		}
		if len(invalid) > 0 {
			return "", fault.New(fault.Failed, "%s %s not hold on the target: %s", count.Of(len(invalid), "foreign key"), count.Word(len(invalid), "does", "do"), strings.Join(invalid, "; ")).
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

// exec executes a statement on the open target, as soon as no lock of the application's stands in its way.
func (m *Migration) exec(ctx context.Context, t *pgx.Conn, sql string) error {
	return m.patiently(ctx, m.Target, 0, func() error {
		_, err := t.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
		return err
	})
}

// validate validates the foreign keys that are not, and then makes those of partitioned tables of their partitions'.
func (m *Migration) validate(ctx context.Context, t *pgx.Conn, stream int32) (valid int, invalid []string, err error) {
	// What was NOT VALID on the source has that in its definition, and stays so.
	rows, err := t.Query(ctx, `SELECT k.conname, k.conrelid::pg_catalog.regclass::pg_catalog.text FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
		WHERE k.contype = 'f' AND NOT k.convalidated AND EXISTS (SELECT FROM pgsluice.deferred d WHERE d.stream_id = $1 AND d.type = 'FK CONSTRAINT'
			AND d.definition !~ 'NOT VALID' AND d.state IN ('done', 'running') AND right(d.name, pg_catalog.length(k.conname) + 1) = ' ' || k.conname) ORDER BY 2, 1`, stream)
	if err != nil {
		return 0, nil, m.Target.Explain(err)
	}
	type key struct{ Name, Table string }
	keys, err := pgx.CollectRows(rows, pgx.RowToStructByPos[key])
	if err != nil {
		return 0, nil, m.Target.Explain(err)
	}
	for _, k := range keys {
		err := m.exec(ctx, t, "ALTER TABLE ONLY "+k.Table+" VALIDATE CONSTRAINT "+pgx.Identifier{k.Name}.Sanitize())
		var pg *pgconn.PgError
		switch {
		case errors.As(err, &pg) && pg.Code == "23503":
			invalid = append(invalid, fmt.Sprintf("%s of %s: %s", k.Name, k.Table, pg.Detail))
		case err != nil:
			return valid, invalid, m.Target.Explain(err)
		default:
			valid++
		}
	}
	if len(invalid) > 0 {
		return valid, invalid, nil
	}
	// With valid ones on all partitions, the server takes them for the constraint of the whole, and looks at no row.
	list, err := progress.Pending(ctx, t, stream, progress.PhaseCutover, "", "")
	if err != nil {
		return valid, nil, m.Target.Explain(err)
	}
	for _, o := range list {
		if o.Type != "FK CONSTRAINT" || o.Error != "" {
			continue
		}
		if err := m.exec(ctx, t, o.SQL); err != nil {
			return valid, nil, m.Target.Explain(err)
		}
		if err := progress.SetObject(ctx, t, o.ID, "done"); err != nil {
			return valid, nil, m.Target.Explain(err)
		}
	}
	return valid, nil, nil
}

// refresh refreshes the materialized views that have data, those that others are made of first. It returns how many, and those that could not be.
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

// analyze analyzes all tables. One that cannot be is not worth a failed cutover: a partition may be a foreign table whose server is not within reach, or
// an expression that statistics are kept of fails for some rows.
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
