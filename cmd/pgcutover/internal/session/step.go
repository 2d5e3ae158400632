package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// Step runs one step of the cutover and records its times on the target. What do queues is executed
// in the transaction that records the end.
func (s *Session) Step(ctx context.Context, name string, do func(end *pgx.Batch) (detail string, err error)) error {
	if err := progress.StepBegins(ctx, s.OnTarget, s.Stream.ID, name); err != nil {
		return s.Target.Explain(err)
	}
	began := time.Now()
	var end pgx.Batch
	detail, err := do(&end)
	if err != nil {
		return err
	}
	progress.QueueStepEnds(&end, s.Stream.ID, name, detail, "")
	if err := s.OnTarget.SendBatch(ctx, &end).Close(); err != nil {
		return s.Target.Explain(err)
	}
	s.Log.Info(fmt.Sprintf("%s: %s (%v)", name, detail, time.Since(began).Round(time.Millisecond)))
	return nil
}

// Finished reports whether a step is finished.
func Finished(steps []progress.Step, name string) bool { return Done(steps, name) != nil }

// Done returns a finished step, or nil.
func Done(steps []progress.Step, name string) *progress.Step {
	for i := range steps {
		if steps[i].Name == name && steps[i].Finished != nil {
			return &steps[i]
		}
	}
	return nil
}

// Denied adds a hint to a permission error.
func Denied(err error, hint string) error {
	var f *fault.Error
	if errors.As(err, &f) && f.Status == fault.Permission && f.Hint == "" {
		f.Hint = hint
	}
	return err
}
