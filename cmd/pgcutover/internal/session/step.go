package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// Step runs one step of the cutover and records its times on the target.
func (s *Session) Step(ctx context.Context, name string, do func() (detail string, err error)) error {
	if err := progress.StepBegins(ctx, s.OnTarget, s.Stream.ID, name); err != nil {
		return s.Target.Explain(err)
	}
	began := time.Now()
	detail, err := do()
	if err != nil {
		return err
	}
	if err := progress.StepEnds(ctx, s.OnTarget, s.Stream.ID, name, detail); err != nil {
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
