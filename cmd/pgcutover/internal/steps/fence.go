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
	"github.com/pgsluice/pgsluice/cmd/internal/identity"
	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
)

// Fence stops all writing to the source's database and keeps it stopped: it makes the database
// read-only for all sessions that begin from now on, ends those that are there, and proves it by
// trying to write. It refuses to as long as something is missing on the target that allow does not
// name.
func (m *Migration) Fence(ctx context.Context, allow []string) error {
	t, err := m.target(ctx)
	if err != nil {
		return err
	}
	defer t.Close(ctx)
	stream, err := m.stream(ctx, t)
	if err != nil {
		return err
	}
	c, err := m.sourceOf(ctx, t, stream)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	if err := m.checkFence(ctx, c); err != nil {
		return err
	}
	if err := m.usable(ctx, c, stream); err != nil {
		return err
	}
	if err := m.answers(ctx, t); err != nil {
		return err
	}
	if !stream.Ended && (m.OnlyLook || !m.AllowOrphans) {
		if err := m.requireParents(ctx, c, t, stream, allow); err != nil {
			return err
		}
	}
	if m.OnlyLook {
		return nil
	}
	stamp := ""
	if !stream.Ended {
		if err := m.requireLoaded(stream); err != nil {
			return err
		}
		if stamp, err = inventory.Stamp(ctx, c); err != nil {
			return m.Source.Explain(err)
		}
		if err := m.requireNothingMissing(ctx, c, t, stream, allow, once); err != nil {
			return err
		}
	}
	if err := m.step(ctx, t, stream.ID, "fence", func() (string, error) {
		db := pgx.Identifier{stream.Key.Database}.Sanitize()
		if err := readWrite(ctx, c, "ALTER DATABASE "+db+" SET default_transaction_read_only = on"); err != nil {
			return "", denied(m.Source.Explain(err), "The role must own the source's database.")
		}
		n, err := m.endSessions(ctx, c)
		if err != nil {
			return "", err
		}
		if err := m.proveReadOnly(ctx); err != nil {
			return "", err
		}
		// Once more: a session may have prepared one before it was ended.
		if err := m.checkPrepared(ctx, c); err != nil {
			return "", err
		}
		return fmt.Sprintf("database %q of the source is read-only, %s ended", stream.Key.Database, count.Of(n, "session")), nil
	}); err != nil {
		return err
	}
	// As long as the source's catalogs stay as they were, open need not compare again.
	return m.Target.Explain(progress.SetStamp(ctx, t, stream.ID, "fence", stamp))
}

// denied adds a hint to an error of privileges.
func denied(err error, hint string) error {
	var f *fault.Error
	if errors.As(err, &f) && f.Status == fault.Permission && f.Hint == "" {
		f.Hint = hint
	}
	return err
}

// checkFence refuses to begin if something would get past the fence: a role whose own setting
// allows it to write.
func (m *Migration) checkFence(ctx context.Context, c *pgx.Conn) error {
	rows, err := c.Query(ctx, `SELECT r.rolname FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
		WHERE s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
		AND EXISTS (SELECT FROM pg_catalog.unnest(s.setconfig) x WHERE x ~ '^default_transaction_read_only=(off|false|no|0)')`)
	if err != nil {
		return m.Source.Explain(err)
	}
	roles, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return m.Source.Explain(err)
	}
	if len(roles) > 0 {
		return fault.New(fault.Config,
			"the fence would not hold: these roles have default_transaction_read_only = off: %s",
			strings.Join(roles, ", ")).
			WithHint("On the source: ALTER ROLE … RESET default_transaction_read_only (or … IN DATABASE … RESET …)")
	}
	return m.checkPrepared(ctx, c)
}

// usable makes sure that the slot still has what the target lacks: to close the source would be in
// vain.
func (m *Migration) usable(ctx context.Context, c *pgx.Conn, stream *progress.Stream) error {
	if stream.Ended || stream.Key.Slot == "" {
		return nil
	}
	info, err := slot.Get(ctx, c, stream.Key.Slot)
	if err != nil {
		return m.Source.Explain(err)
	}
	return info.Usable(stream.Key.Slot, stream.Key.Database)
}

// checkPrepared refuses to go on if there are prepared transactions: they can be committed in a
// database that is read-only.
func (m *Migration) checkPrepared(ctx context.Context, c *pgx.Conn) error {
	rows, err := c.Query(ctx,
		"SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database() ORDER BY prepared")
	if err != nil {
		return m.Source.Explain(err)
	}
	gids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return m.Source.Explain(err)
	}
	if len(gids) > 0 {
		return fault.New(fault.Config, "the fence would not hold: there are prepared transactions on the source: %s", some(gids)).
			WithHint("COMMIT PREPARED or ROLLBACK PREPARED each of them.")
	}
	return nil
}

// others are the sessions that might write: clients of this database, except ourselves and those
// that only read the slot.
const others = `FROM pg_catalog.pg_stat_activity WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid() AND backend_type IN ('client backend', 'parallel worker')
	AND backend_start < $1 AND application_name NOT IN ('pgcutover', 'pgdecode')`

// endSessions ends the sessions that began before the database became read-only, and waits until
// they are gone.
func (m *Migration) endSessions(ctx context.Context, c *pgx.Conn) (ended int, err error) {
	var since time.Time
	// New sessions are read-only from here on. The setting takes effect when its transaction is
	// visible, which it is to us.
	if err := c.QueryRow(ctx, "SELECT pg_catalog.clock_timestamp()").Scan(&since); err != nil {
		return 0, m.Source.Explain(err)
	}
	seen := make(map[int32]bool)
	var left []string
	done, err := poll(ctx, 10*time.Second, func() (bool, error) {
		rows, err := c.Query(ctx,
			"SELECT pid, pg_catalog.format('process %s, user %s, %s', pid, usename, coalesce(nullif(application_name, ''), 'no application name')) "+
				others, since)
		if err != nil {
			return false, m.Source.Explain(err)
		}
		left = left[:0]
		var pids []int32
		var pid int32
		var text string
		if _, err := pgx.ForEachRow(rows, []any{&pid, &text}, func() error {
			left = append(left, text)
			if !seen[pid] {
				pids = append(pids, pid)
			}
			return nil
		}); err != nil {
			return false, m.Source.Explain(err)
		}
		for _, pid := range pids {
			seen[pid] = true
			if _, err := c.Exec(ctx, "SELECT pg_catalog.pg_terminate_backend($1)", pid); err != nil {
				return false, denied(m.Source.Explain(err),
					"The role needs membership in pg_signal_backend; sessions of superusers only a superuser may end.")
			}
		}
		return len(left) == 0, nil
	})
	if err != nil {
		return 0, err
	}
	if !done {
		return 0, fault.New(fault.TryAgain, "sessions on the source do not end: %s", strings.Join(left, "; ")).
			WithHint("The database stays read-only for new sessions. Run fence again, or undo it: pgcutover unfence --slot %s", m.Slot)
	}
	return len(seen), nil
}

// proveReadOnly opens a session as any client does and tries to write.
func (m *Migration) proveReadOnly(ctx context.Context) error {
	c, err := m.source(ctx)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	tx, err := c.Begin(ctx)
	if err != nil {
		return m.Source.Explain(err)
	}
	_, err = tx.Exec(ctx, "CREATE SCHEMA pgsluice_fence_test")
	_ = tx.Rollback(ctx)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "25006" {
		return nil
	}
	return fault.New(fault.Config, "the fence does not hold: a new session on the source can still write").
		WithDetail("Writing should have failed as in a read-only transaction; the result was: %v.", err)
}

// Unfence lets the source's database be written to again. It leaves one alone that is not fenced.
func (m *Migration) Unfence(ctx context.Context) error {
	c, err := m.source(ctx)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	var db string
	if err := c.QueryRow(ctx, "SELECT pg_catalog.current_database()").Scan(&db); err != nil {
		return m.Source.Explain(err)
	}
	fenced, err := isFenced(ctx, c)
	if err != nil {
		return m.Source.Explain(err)
	}
	// The target need not be there for this.
	t, stream := m.known(ctx)
	if t != nil {
		defer t.Close(ctx)
	}
	if !fenced && !m.begun(ctx, t, stream) {
		m.Log.Info(fmt.Sprintf("unfence: database %q of the source is not fenced", db))
		return nil
	}
	if err := readWrite(ctx, c, "ALTER DATABASE "+pgx.Identifier{db}.Sanitize()+" RESET default_transaction_read_only"); err != nil {
		return denied(m.Source.Explain(err), "The role must own the source's database.")
	}
	// Sessions that began in between are read-only, and would stay so.
	if _, err := m.endSessions(ctx, c); err != nil {
		return err
	}
	m.Log.Info(fmt.Sprintf("unfence: database %q of the source can be written to again", db))
	if stream == nil {
		return nil
	}
	if stream.Ended {
		m.Log.Warn("the target was opened: from now on the two go different ways")
	}
	gone, err := t.Exec(ctx,
		"DELETE FROM pgsluice.cutover WHERE stream_id = $1 AND (step IN ('fence', 'drain') OR step = 'open' AND NOT $2)",
		stream.ID, stream.Ended)
	if err == nil && gone.RowsAffected() > 0 && !stream.Ended {
		return m.holdAgain(ctx, t, stream)
	}
	return m.Target.Explain(err)
}

// known returns the target and the migration's state there, or nil for what cannot be had.
func (m *Migration) known(ctx context.Context) (*pgx.Conn, *progress.Stream) {
	t, err := m.target(ctx)
	if err != nil {
		m.Log.Warn(err.Error())
		return nil, nil
	}
	stream, err := m.stream(ctx, t)
	if err != nil {
		return t, nil
	}
	return t, stream
}

// begun reports whether the target knows of a fence: one that is no more was being taken down when
// that was interrupted.
func (m *Migration) begun(ctx context.Context, t *pgx.Conn, stream *progress.Stream) bool {
	if stream == nil {
		return false
	}
	list, err := progress.Steps(ctx, t, stream.ID)
	return err == nil && slices.ContainsFunc(list, func(s progress.Step) bool { return s.Name == "fence" })
}

// isFenced reports whether new sessions of the source's database are read-only.
func isFenced(ctx context.Context, c *pgx.Conn) (fenced bool, err error) {
	return identity.Fenced(ctx, c)
}

// Drain writes a mark into the source's WAL and waits until the target has applied everything
// before it: then nothing is pending. It needs the fence, without which something would be pending
// again at once.
func (m *Migration) Drain(ctx context.Context, timeout time.Duration) error {
	t, err := m.target(ctx)
	if err != nil {
		return err
	}
	defer t.Close(ctx)
	stream, err := m.stream(ctx, t)
	if err != nil {
		return err
	}
	c, err := m.source(ctx)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	if stream.Ended {
		m.Log.Info("drain: the target is open, and has had everything since")
		return nil
	}
	if err := m.checkSource(ctx, c, t, stream); err != nil {
		return err
	}
	fenced, err := isFenced(ctx, c)
	if err != nil {
		return m.Source.Explain(err)
	}
	if !fenced {
		return fault.New(fault.Config, "the source is not fenced: what is drained now would not be all").
			WithHint("First: pgcutover fence --slot %s", m.Slot)
	}
	return m.step(ctx, t, stream.ID, "drain", func() (string, error) {
		mark, err := slot.Mark(ctx, c, "drain "+m.Slot)
		if err != nil {
			return "", m.Source.Explain(err)
		}
		if err := m.await(ctx, c, t, stream.ID, mark, timeout); err != nil {
			return "", err
		}
		return fmt.Sprintf("the target has everything up to the mark at LSN %v, 0 changes are pending", mark), nil
	})
}
