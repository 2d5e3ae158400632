package steps

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

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
	f, err := judge(ctx, s, o)
	if err == nil && o.Check {
		return fencing.WarnReturning(ctx, s)
	}
	if err != nil {
		return err
	}
	defer f.release(ctx)
	return f.close(ctx)
}

// A fence is one that can be put up: its conditions are met.
type fence struct {
	*session.Session
	trust   []string
	stamp   string    // of the source's catalogs when they were compared
	counted string    // the tables to count again
	proof   *pgx.Conn // the session that has proved the fence; nil: none, or handed over
}

// judge checks the conditions for closing the source, before anything is closed.
func judge(ctx context.Context, s *session.Session, o FenceOptions) (*fence, error) {
	f := &fence{Session: s, trust: o.Trust}
	var err error
	if !o.Check && !s.Stream.Ended {
		// Before the comparison: what is changed after it is not in the stamp.
		if f.stamp, err = inventory.Stamp(ctx, s.OnSource); err != nil {
			return nil, s.Source.Explain(err)
		}
	}
	f.counted, err = requireAll(ctx, s, o)
	return f, err
}

// close closes the source, and proves it.
func (f *fence) close(ctx context.Context) error {
	err := f.Step(ctx, "fence", func(*pgx.Batch) (string, error) { return f.put(ctx) })
	if err != nil {
		f.release(ctx)
		return errors.Join(err, neverClosed(ctx, f.Session))
	}
	return nil
}

func (f *fence) release(ctx context.Context) {
	if f.proof != nil {
		_ = f.proof.Close(ctx)
	}
	f.proof = nil
}

// neverClosed removes the record of a fence that has failed before it closed anything.
func neverClosed(ctx context.Context, s *session.Session) error {
	if s.OnSource.IsClosed() || s.OnTarget.IsClosed() {
		return nil // the next unfence finds out
	}
	if f, _, err := slot.GetFence(ctx, s.OnSource); err != nil || f != nil {
		return nil
	}
	_, err := progress.ForgetSteps(ctx, s.OnTarget, s.Stream.ID, "fence")
	return s.Target.Explain(err)
}

// put closes the source for all sessions, and proves it.
func (f *fence) put(ctx context.Context) (string, error) {
	record, err := closeSource(ctx, f.Session)
	if err != nil {
		return "", err
	}
	// A new session takes several round trips. Meanwhile the others are ended.
	var proving errgroup.Group
	n, left, err := endSessions(ctx, f.Session, f.trust, func() {
		proving.Go(func() error { return f.prove(ctx) })
	})
	var is string
	if err == nil {
		is, err = connecting(ctx, f.Session, record)
		err = f.Source.Explain(err)
	}
	if err == nil {
		// If the source's catalogs have not changed since, open need not compare them again.
		err = f.Target.Explain(progress.SetStamp(ctx, f.OnTarget, f.Stream.ID, "fence", f.stamp, f.counted, largeObjects(ctx, f.Session)))
	}
	if e := proving.Wait(); err == nil {
		err = e
	}
	if err != nil {
		return "", err
	}
	// A session may have prepared a transaction before it was ended.
	if err := requireNone(ctx, f.Session); err != nil {
		return "", err
	}
	if len(left) > 0 {
		f.Log.Warn("these sessions are trusted not to write, and were not ended: " + fencing.Describe(left))
	}
	return fmt.Sprintf("database %q %s, %s ended", f.Stream.Key.Database, is, count.Of(n, "session")), nil
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

// prove opens a session like any client and tries to write.
func (f *fence) prove(ctx context.Context) error {
	c, err := f.Connect(ctx, f.Source)
	if err != nil {
		return err
	}
	// One transaction, which leaves nothing behind, whatever happens.
	_, err = c.Exec(ctx, "CREATE SCHEMA pgsluice_fence_test; ROLLBACK", pgx.QueryExecModeSimpleProtocol)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "25006" {
		if f.proof = c; c.IsClosed() { // its snapshot may be needed
			f.proof, err = f.Connect(ctx, f.Source)
			return err
		}
		return nil
	}
	_ = c.Close(ctx)
	return fault.New(fault.Config, "the fence does not hold: a new session on the source can still write").
		WithDetail("A write should have failed as in a read-only transaction. The result was: %v.", err)
}
