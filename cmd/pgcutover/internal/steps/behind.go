package steps

import (
	"context"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// No fence holds every session: a superuser's, or one that asks for a read-write transaction,
// passes it. What such a session writes behind the drain's mark is on its way to the target while
// open is at work.

// endStream ends the stream for good, if nothing was applied to the target since the drain, and
// records the position up to which the target has everything.
func endStream(ctx context.Context, s *session.Session, drain *progress.Step) error {
	final, err := progress.EndStream(ctx, s.OnTarget, s.Stream.ID, drain.Changes)
	if err != nil {
		return s.Target.Explain(err)
	}
	if final == 0 {
		return writtenBehind(s)
	}
	return s.Target.Explain(progress.SetLSN(ctx, s.OnTarget, s.Stream.ID, "open", final))
}

// writtenBehind refuses to open: the source is not at rest.
func writtenBehind(s *session.Session) error {
	return fault.New(fault.Config, "the source was written to behind the fence, after it was drained")
}
