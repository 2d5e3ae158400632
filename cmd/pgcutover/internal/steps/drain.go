package steps

import (
	"context"
	"fmt"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Drain writes a mark into the source's WAL and waits until the target has applied everything
// before it. Then no change is pending. It needs a proved fence: without it, new changes would
// arrive at once. What it records counts for that fence only.
func Drain(ctx context.Context, m *session.Migration, timeout time.Duration) error {
	s, err := m.BeginTarget(ctx)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	if s.OnSource, err = m.Connect(ctx, m.Source); err != nil {
		return err
	}
	if err := s.Exclusive(ctx); err != nil {
		return err
	}
	if s.Stream.Ended {
		m.Log.Info("drain: the target is open; it has every change")
		return nil
	}
	if err := s.CheckSource(ctx); err != nil {
		return err
	}
	done, err := progress.Steps(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return m.Target.Explain(err)
	}
	id, err := s.FenceInForce(ctx, done)
	if err != nil {
		return err
	}
	if id == "" {
		return fault.New(fault.Config, "the source is not fenced, so draining it would not be complete").
			WithHint("First: pgcutover fence --slot %s", m.Slot)
	}
	return s.Step(ctx, "drain", func() (string, error) {
		mark, err := slot.Mark(ctx, s.OnSource, "drain "+m.Slot)
		if err != nil {
			return "", m.Source.Explain(err)
		}
		// While the target catches up.
		lobs := largeObjects(ctx, s)
		if err := sameLargeObjects(ctx, s, session.Done(done, "fence")); err != nil {
			return "", err
		}
		if err := await(ctx, s, mark, timeout); err != nil {
			return "", err
		}
		if err := progress.SetDrain(ctx, s.OnTarget, s.Stream.ID, id, mark, lobs); err != nil {
			return "", m.Target.Explain(err)
		}
		return fmt.Sprintf("the target has everything up to LSN %v, 0 changes are pending", mark), nil
	})
}
