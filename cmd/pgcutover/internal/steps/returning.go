package steps

import (
	"context"
	"fmt"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/watch"
)

// nobodyWrote refuses to return to an old primary that somebody has written to since it was left,
// if nobody has accepted it: once it is the primary again, its watch ends.
func nobodyWrote(ctx context.Context, s *session.Session, o FenceOptions) error {
	w, err := leaving(ctx, s)
	if err != nil || w == nil {
		return err
	}
	info, err := slot.Get(ctx, w.OnSource, w.Slot)
	if err != nil {
		return s.Target.Explain(err)
	}
	if info == nil || info.Lost() != nil {
		s.Log.Warn(fmt.Sprintf("it cannot be told whether anybody has written to the target since it was left: slot %q is gone or lost. Compare the rows: pgcutover verify", w.Slot))
		return nil
	}
	apart, err := watch.KnowsPosition(ctx, w.OnSource, w.Slot, info)
	if err != nil {
		return s.Target.Explain(err)
	}
	if !apart {
		s.Log.Warn("it cannot be told whether anybody has written to the target since it was left: the publication does not carry pgsluice.streams. Compare the rows: pgcutover verify")
		return nil
	}
	_, isClosed, err := slot.GetFence(ctx, s.OnSource)
	if err != nil {
		return s.Source.Explain(err)
	}
	var r *watch.Report
	if o.Check && !o.Rehearse && !isClosed { // else nothing can be recorded there
		r, err = watch.Once(ctx, w, watch.Patience)
	} else {
		r, err = watch.See(ctx, w, watch.Patience)
	}
	if err != nil {
		return err
	}
	ends := "with PGSLUICE_SOURCE and PGSLUICE_TARGET as for the migration"
	if strings.HasSuffix(w.Slot, "_back") {
		ends = "with PGSLUICE_SOURCE and PGSLUICE_TARGET exchanged"
	}
	return r.Returning(w.Slot, ends)
}

// leaving returns the session of the cutover that has left the target, or nil: its target is the
// source, which is the primary now.
func leaving(ctx context.Context, s *session.Session) (*session.Session, error) {
	if s.Stream.BackOf == "" {
		return nil, nil
	}
	list, err := progress.Streams(ctx, s.OnSource, slot.Back(s.Slot))
	if fault.StatusOf(err) == fault.Permission {
		return nil, nil // the state is that of another role's migration
	}
	if err != nil {
		return nil, s.Source.Explain(err)
	}
	for _, x := range list {
		if w := turned(s, x); x.Ended && w.CheckSource(ctx) == nil {
			return w, nil
		}
	}
	return nil, nil
}
