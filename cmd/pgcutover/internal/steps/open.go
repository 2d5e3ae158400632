package steps

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/missing"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Open makes the target ready for the application's writes. It sets the sequences to the source's
// values, creates the deferred foreign keys and triggers, and stops sync for good. It creates the
// foreign keys as NOT VALID, which takes no time and applies to all new rows. Open needs a fenced
// and drained source. It waits at most timeout for locks of other sessions.
func Open(ctx context.Context, m *session.Migration, allow []string, timeout time.Duration) error {
	s, err := m.BeginTarget(ctx)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	if err := s.Exclusive(ctx); err != nil {
		return err
	}
	if !s.Stream.Ended { // else the source is not needed
		if err := s.OpenSource(ctx); err != nil {
			return err
		}
	}
	return open(ctx, s, allow, timeout)
}

func open(ctx context.Context, s *session.Session, allow []string, timeout time.Duration) error {
	if s.Stream.Ended {
		return openBefore(ctx, s)
	}
	done, err := drained(ctx, s)
	if err != nil {
		return err
	}
	r := &rest{Session: s, drain: session.Done(done, "drain"), free: make(chan struct{})}
	if err := session.Beside(func() error { return r.begin(ctx) }, func() error { return answers(ctx, s) }); err != nil {
		return err
	}
	// Fence has compared the schemas. Skip the slow comparison: nobody can write at this point.
	var same bool
	if err := session.Beside(func() (err error) {
		defer close(r.free)
		if err := sameLargeObjects(ctx, s, r.drain); err != nil {
			return err
		}
		same, err = asFenced(ctx, s, done)
		return err
	}, func() error { return r.wait(ctx, timeout) }); err != nil {
		return err
	}
	if err := counted(ctx, s, done); err != nil {
		return err
	}
	if !same {
		if _, err := missing.RequireNothing(ctx, s, allow, timeout); err != nil {
			return err
		}
	} else if err := asCounted(ctx, s, done, allow); err != nil {
		return err
	}
	back, err := beginBack(ctx, s)
	if err != nil {
		return err
	}
	if err := s.Step(ctx, "open", func(*pgx.Batch) (string, error) { return openTarget(ctx, s, done, timeout) }); err != nil {
		return err
	}
	if err := handedOver(ctx, s); err != nil || back == nil {
		return err
	}
	return s.Source.Explain(progress.ResumeBack(ctx, s.OnSource, back.ID))
}

// drained checks that the target has every change from before the fence, and returns the recorded
// steps.
func drained(ctx context.Context, s *session.Session) ([]progress.Step, error) {
	done, id, err := fenced(ctx, s)
	if d := session.Done(done, "drain"); err == nil && (id == "" || d == nil || d.FenceID != id) {
		err = fault.New(fault.Config, "the source is not fenced and drained, so the target may lack changes").
			WithHint("First: pgcutover fence --slot %s, and pgcutover drain --slot %s", s.Slot, s.Slot)
	}
	return done, err
}

// asFenced reports whether the source's schema has not changed since the fence compared it.
func asFenced(ctx context.Context, s *session.Session, done []progress.Step) (bool, error) {
	f := session.Done(done, "fence")
	if f == nil || f.Stamp == "" {
		return false, nil
	}
	stamp, err := inventory.Stamp(ctx, s.OnSource)
	return stamp == f.Stamp, s.Source.Explain(err)
}

// openTarget makes the target the primary, and returns what it did.
func openTarget(ctx context.Context, s *session.Session, done []progress.Step, timeout time.Duration) (string, error) {
	var n int
	if err := s.Patiently(ctx, s.Target, timeout, func() (err error) {
		n, err = sequences(ctx, s, done)
		return err
	}); err != nil {
		return "", err
	}
	created, failed, err := deferred(ctx, s, progress.PhaseCutover, timeout)
	if err != nil {
		return "", err
	}
	if _, err := missing.Retry(ctx, s, true, timeout); err != nil {
		return "", err
	}
	// Best effort: if the target is lost later, unfence still knows that it was opened.
	if err := slot.SetOpened(ctx, s.OnSource); err != nil {
		s.Log.Warn("could not record on the source that the target is open: " + err.Error())
	}
	if err := handOver(ctx, s, session.Done(done, "drain")); err != nil {
		return "", err
	}
	for _, o := range failed {
		s.Log.Warn(fmt.Sprintf("could not create %v: %s", &o, o.Error))
	}
	text := fmt.Sprintf("%s set, %d foreign keys and triggers created; the target is open", count.Of(n, "sequence"), created)
	if len(failed) > 0 {
		text += fmt.Sprintf("; %d could not be created", len(failed))
	}
	return text, nil
}
