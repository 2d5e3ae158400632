package session

import (
	"context"
	"slices"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
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

// Owns reports whether a fence's record on the source is of this migration: of its slot and, if a
// target was opened since, of this target. A slot of the same name may have led to another one.
func (s *Session) Owns(f *slot.Fence, done []progress.Step) bool {
	switch {
	case f == nil || f.Slot != s.Slot:
		return false
	case f.Opened == nil || s.Stream != nil && s.Stream.Ended:
		return true
	}
	// An open that failed at its last step has set it.
	return slices.ContainsFunc(done, func(x progress.Step) bool { return x.Name == "fence" && x.FenceID == f.ID })
}

// Anothers is the error for a source that has the record of a fence of another migration.
func (s *Session) Anothers(f *slot.Fence) *fault.Error {
	option := ""
	if f.Slot != "" {
		option = " --slot " + text.Shell(f.Slot)
	}
	if f.Opened != nil {
		return fault.New(fault.Config, "the source is no longer the primary: an earlier cutover, of slot %q, has opened its target in its place", f.Slot).
			WithHint("Migrate from that target. To give the source back nevertheless, and lose for its application what the target has taken since: pgcutover unfence%s --force", option)
	}
	return fault.New(fault.Config, "another cutover, of slot %q, has closed the source", f.Slot).
		WithHint("Finish that cutover, or give the source back to the application: pgcutover unfence%s", option)
}

// Left reports whether a cutover back has left the target: then its fence is in force there, and
// the source is the primary again.
func (s *Session) Left(ctx context.Context) (bool, error) {
	f, isClosed, err := slot.GetFence(ctx, s.OnTarget)
	return err == nil && isClosed && f != nil && f.Slot == slot.Back(s.Stream.Key.Slot) && f.Opened != nil, s.Target.Explain(err)
}
