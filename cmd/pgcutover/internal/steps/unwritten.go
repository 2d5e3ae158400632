package steps

import (
	"context"
	"fmt"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/watch"
)

// unwritten looks for the last time whether anybody has written to the source, since without the
// slot nobody can tell any more. It refuses to drop the slot if somebody has, and nobody has
// accepted it.
func (r *remains) unwritten(ctx context.Context, force bool) error {
	for _, x := range r.streams {
		if !x.Ended {
			continue
		}
		s := r.Of(x)
		if left, err := s.Left(ctx); err != nil {
			return err
		} else if left { // the source is the primary again
			continue
		}
		info, err := slot.Get(ctx, s.OnSource, s.Slot)
		if err != nil {
			return s.Source.Explain(err)
		}
		found, err := watch.Once(ctx, s, watch.Patience)
		if err != nil {
			return err
		}
		err = found.Err(s.Slot)
		switch {
		case err == nil:
			s.Log.Info(fmt.Sprintf("cleanup: nobody has written to the source since it was drained at %s", found.Since.Local().Format("2006-01-02 15:04:05 MST")))
		case force, info == nil && found.Result == watch.Unknown: // an earlier cleanup has dropped it
			s.Log.Warn(err.Error())
		default:
			return refused(err)
		}
	}
	return nil
}

// refused turns what a look has found into a condition that cleanup stops at.
func refused(err error) error {
	if f, ok := err.(*fault.Error); ok && f.Status == fault.Failed {
		e := *f
		e.Status = fault.Config
		return &e
	}
	return err
}
