package steps

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/fencing"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// FenceOptions choose which checks Fence skips.
type FenceOptions struct {
	Check        bool     // only check whether the source can be closed
	Rehearse     bool     // check it as the fence does, without changing anything
	AllowOrphans bool     // close the source even if its rows may violate foreign keys
	Allow        []string // ids of ledger lines to accept
	Trust        []string // superusers whose idle sessions do not write
}

// once is the patience of callers that do not wait for locks: they start the whole step again.
const once = time.Nanosecond

// Fence stops all writes to the source's database. It closes the database for new sessions, ends
// the existing ones, and then proves the fence by trying to write. It refuses while a condition is
// not met, for example while the target lacks an object that is not allowed to be missing, and then
// closes nothing.
func Fence(ctx context.Context, m *session.Migration, o FenceOptions) error {
	s, err := m.Begin(ctx)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	if !o.Check {
		if err := s.Exclusive(ctx); err != nil {
			return err
		}
	}
	stamp := ""
	if !o.Check && !s.Stream.Ended {
		// Before the comparison: what is changed after it is not in the stamp.
		if stamp, err = inventory.Stamp(ctx, s.OnSource); err != nil {
			return m.Source.Explain(err)
		}
	}
	counted, err := requireAll(ctx, s, o)
	if err == nil && o.Check {
		return fencing.WarnReturning(ctx, s)
	}
	if err != nil {
		return err
	}
	if err := s.Step(ctx, "fence", func() (string, error) { return fence(ctx, s, o.Trust) }); err != nil {
		return errors.Join(err, neverClosed(ctx, s))
	}
	// If the source's catalogs have not changed since the fence, open need not compare them again.
	return m.Target.Explain(progress.SetStamp(ctx, s.OnTarget, s.Stream.ID, "fence", stamp, counted, largeObjects(ctx, s)))
}

// neverClosed removes the record of a fence that has failed before it closed anything.
func neverClosed(ctx context.Context, s *session.Session) error {
	if s.OnSource.IsClosed() || s.OnTarget.IsClosed() {
		return nil // the next unfence finds out
	}
	if f, isClosed, err := slot.GetFence(ctx, s.OnSource); err != nil || isClosed || f != nil {
		return nil
	}
	_, err := progress.ForgetSteps(ctx, s.OnTarget, s.Stream.ID, "fence")
	return s.Target.Explain(err)
}

// fence closes the source for all sessions, and proves it.
func fence(ctx context.Context, s *session.Session, trust []string) (string, error) {
	f, err := closeSource(ctx, s)
	if err != nil {
		return "", err
	}
	n, left, err := endSessions(ctx, s, trust)
	if err != nil {
		return "", err
	}
	if err := proveReadOnly(ctx, s); err != nil {
		return "", err
	}
	if err := requireNoWriters(ctx, s); err != nil {
		return "", err
	}
	// Check again: a session may have prepared a transaction before it was ended.
	if err := checkPrepared(ctx, s); err != nil {
		return "", err
	}
	is, err := connecting(ctx, s, f)
	if err != nil {
		return "", s.Source.Explain(err)
	}
	if len(left) > 0 {
		s.Log.Warn("these sessions are trusted not to write, and were not ended: " + fencing.Describe(left))
	}
	return fmt.Sprintf("database %q %s, %s ended", s.Stream.Key.Database, is, count.Of(n, "session")), nil
}

// requireLoaded refuses to continue while a load is running or unfinished: the ledger does not list
// the objects that the load has yet to create.
func requireLoaded(s *session.Session) error {
	if s.Stream.LoadStatus != "loading" {
		return nil
	}
	return fault.New(fault.Config, "the full load is not complete").
		WithHint("To wait for it: pgcutover wait loaded --slot %[1]s. If the load has stopped, stop sync and run: pgextract --slot %[1]s --resume | pgapply", s.Slot)
}

// usable checks that the slot still has the changes that the target lacks. Otherwise closing the
// source would be pointless.
func usable(ctx context.Context, s *session.Session) error {
	if s.Stream.Ended || s.Stream.Key.Slot == "" {
		return nil
	}
	info, err := slot.Get(ctx, s.OnSource, s.Stream.Key.Slot)
	if err != nil {
		return s.Source.Explain(err)
	}
	return info.Usable(s.Stream.Key.Slot, s.Stream.Key.Database)
}

// checkPrepared refuses to continue if prepared transactions exist: they can be committed even in a
// read-only database.
func checkPrepared(ctx context.Context, s *session.Session) error {
	rows, err := s.OnSource.Query(ctx,
		"SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database() ORDER BY prepared")
	if err != nil {
		return s.Source.Explain(err)
	}
	gids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return s.Source.Explain(err)
	}
	if len(gids) > 0 {
		return fault.New(fault.Config, "the fence would not hold: there are prepared transactions on the source: %s", count.Some(gids)).
			WithHint("End each of them on the source with COMMIT PREPARED or ROLLBACK PREPARED.")
	}
	return nil
}

// proveReadOnly opens a session like any client and tries to write.
func proveReadOnly(ctx context.Context, s *session.Session) error {
	c, err := s.Connect(ctx, s.Source)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	tx, err := c.Begin(ctx)
	if err != nil {
		return s.Source.Explain(err)
	}
	_, err = tx.Exec(ctx, "CREATE SCHEMA pgsluice_fence_test")
	_ = tx.Rollback(ctx)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "25006" {
		return nil
	}
	return fault.New(fault.Config, "the fence does not hold: a new session on the source can still write").
		WithDetail("A write should have failed as in a read-only transaction. The result was: %v.", err)
}
