package steps

import (
	"context"
	"fmt"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
)

// claim refuses to drop a slot that may not be the migration's of this target: that of a
// subscription, or that of a migration to another target, which would need a new full load.
func (r *remains) claim(ctx context.Context, info *slot.Info, force bool) error {
	if info == nil {
		return nil
	}
	names, err := slot.PublicationsOf(ctx, r.OnSource, r.Slot)
	if err != nil {
		return r.Source.Explain(err)
	}
	b, err := slot.GetBinding(ctx, r.OnSource, r.Slot, names)
	if err != nil {
		return r.Source.Explain(err)
	}
	known, err := r.known(ctx, b)
	if err != nil {
		return err
	}
	if err := ours(ctx, r.Session, info, known || len(names) > 0); err != nil {
		return err
	}
	elsewhere := b.Target != "" && !r.bound(b)
	switch {
	case known && !elsewhere:
		return nil
	case info.Active && (elsewhere || b == (slot.Binding{}) && len(names) < 2):
		// Even with force: whoever reads it needs it.
		return r.unclaimed(ctx, elsewhere, "Check --target and PGSLUICE_TARGET. To drop the slot nevertheless, end the program that reads it first. Then: pgcutover cleanup --slot %s --force", r.Slot)
	case force:
		return nil
	}
	return r.unclaimed(ctx, elsewhere, "Check --target and PGSLUICE_TARGET. If the slot is to be dropped nevertheless: pgcutover cleanup --slot %s --force", r.Slot)
}

// known reports whether the target has a record of a migration of this slot of this source.
func (r *remains) known(ctx context.Context, b slot.Binding) (bool, error) {
	for _, x := range r.streams {
		err := r.Of(x).CheckSource(ctx)
		switch {
		case err == nil && (b.Token == "" || x.Source.Token == "" || b.Token == x.Source.Token):
			return true, nil
		case err != nil && fault.StatusOf(err) != fault.Config:
			return false, err
		}
	}
	return r.bound(b), nil // the source's server has been upgraded
}

// bound reports whether the slot is bound to this target.
func (r *remains) bound(b slot.Binding) bool {
	for _, x := range r.streams {
		if b.Target != "" && b.Target == x.TargetID {
			return true
		}
	}
	return false
}

func (r *remains) unclaimed(ctx context.Context, elsewhere bool, hint string, args ...any) error {
	what := fmt.Sprintf("the target, %s, has no record of its migration", r.End(r.Target))
	if elsewhere {
		what = fmt.Sprintf("its changes go to another target than this one, %s", r.End(r.Target))
	}
	e := fault.New(fault.Config, "slot %q is not dropped: %s", r.Slot, what).WithHint(hint, args...)
	if reader, err := slot.GetReader(ctx, r.OnSource, r.Slot); err == nil && reader != nil {
		e.Detail = "It is being read by " + reader.Text + "."
	}
	return e
}

// removed says what was removed, and nothing else.
func (r *remains) removed() string {
	var what, from string
	if r.dropped {
		what = "slot"
	}
	if len(r.publications) > 0 {
		if r.dropped {
			what += " and "
		}
		what += "publications"
	}
	if what != "" {
		from = fmt.Sprintf("%s %q from the source", what, r.Slot)
	}
	switch {
	case len(r.streams) == 0:
		return from
	case from != "":
		from += ", and "
	}
	return from + "the state from the target"
}
