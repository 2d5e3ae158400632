package session

import (
	"context"

	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
)

// FenceInForce returns the id of the fence that this migration has put up and proved, if it is
// still in force on the source. The id is empty if there is no such fence.
func (s *Session) FenceInForce(ctx context.Context, done []progress.Step) (id string, err error) {
	d, err := slot.GetDatabase(ctx, s.OnSource)
	if err != nil {
		return "", s.Source.Explain(err)
	}
	if f := Done(done, "fence"); f == nil || f.FenceID != d.InForce() {
		return "", nil
	}
	return d.InForce(), nil
}

// Drained reports whether the target has every change from before the fence that is in force. What
// was drained under an earlier fence does not count: the source took writes in between.
func (s *Session) Drained(ctx context.Context, done []progress.Step) (bool, error) {
	id, err := s.FenceInForce(ctx, done)
	d := Done(done, "drain")
	return id != "" && d != nil && d.FenceID == id, err
}

// Left reports whether a cutover back has left the target: then its fence is in force there, and
// the source is the primary again.
func (s *Session) Left(ctx context.Context) (bool, error) {
	f, isClosed, err := slot.GetFence(ctx, s.OnTarget)
	return err == nil && isClosed && f != nil && f.Slot == slot.Back(s.Stream.Key.Slot) && f.Opened != nil, s.Target.Explain(err)
}
