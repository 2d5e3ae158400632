package missing

import (
	"context"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/objects"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Retry tries again to create the objects that the load could not create, and returns those that
// still fail. With quick set, it creates only objects that take no time, because the application is
// waiting. For each object it waits at most patience for locks of other sessions; 0 means no limit.
func Retry(ctx context.Context, s *session.Session, quick bool, patience time.Duration) ([]progress.Object, error) {
	failed, err := progress.Failed(ctx, s.OnTarget, s.Stream.ID)
	if err != nil || len(failed) == 0 {
		return nil, s.Target.Explain(err)
	}
	want := objects.Any
	if quick {
		want = objects.Quick
	}
	n, err := objects.Retry(ctx, s.Target, s.Stream, want,
		func(do func() error) error { return s.Patiently(ctx, s.Target, patience, do) })
	if err != nil {
		return nil, err
	}
	if n > 0 {
		s.Log.Info(count.Of(n, "object") + " created now that the load could not create")
	}
	failed, err = progress.Failed(ctx, s.OnTarget, s.Stream.ID)
	return failed, s.Target.Explain(err)
}
