package steps

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Drain writes a mark into the source's WAL and waits until the target has applied everything
// before it. Then no change is pending. It needs a proved fence: without it, new changes would
// arrive at once. What it records counts for that fence only.
func Drain(ctx context.Context, m *session.Migration, timeout time.Duration) error {
	s, err := m.Begin(ctx)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	if err := s.Exclusive(ctx); err != nil {
		return err
	}
	return drain(ctx, s, timeout)
}

func drain(ctx context.Context, s *session.Session, timeout time.Duration) error {
	if s.Stream.Ended {
		s.Log.Info("drain: the target is open; it has every change")
		return nil
	}
	done, id, err := fenced(ctx, s)
	if err != nil {
		return err
	}
	if id == "" {
		return fault.New(fault.Config, "the source is not fenced, so draining it would not be complete").
			WithHint("First: pgcutover fence --slot %s", s.Slot)
	}
	return s.Step(ctx, "drain", func(end *pgx.Batch) (string, error) {
		mark, err := slot.Mark(ctx, s.OnSource, "drain "+s.Slot)
		if err != nil {
			return "", s.Source.Explain(err)
		}
		// While the target catches up.
		lobs := largeObjects(ctx, s)
		if err := sameLargeObjects(ctx, s, session.Done(done, "fence")); err != nil {
			return "", err
		}
		if err := await(ctx, s, mark, timeout); err != nil {
			return "", err
		}
		progress.QueueDrain(end, s.Stream.ID, id, mark, lobs)
		return fmt.Sprintf("the target has everything up to LSN %v, 0 changes are pending", mark), nil
	})
}

// fenced returns the recorded steps, and the id of the fence that this migration has put up and
// proved, if it is in force.
func fenced(ctx context.Context, s *session.Session) (done []progress.Step, id string, err error) {
	var d *slot.Database
	err = session.Beside(func() (err error) {
		d, err = slot.GetDatabase(ctx, s.OnSource)
		return s.Source.Explain(err)
	}, func() (err error) {
		done, err = progress.Steps(ctx, s.OnTarget, s.Stream.ID)
		return s.Target.Explain(err)
	})
	if f := session.Done(done, "fence"); err != nil || f == nil || f.FenceID != d.InForce() {
		return done, "", err
	}
	return done, d.InForce(), nil
}
