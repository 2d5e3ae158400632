package steps

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/fencing"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/missing"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// requireAll checks every condition for closing the source, and returns the tables to count again.
// It reports all conditions that are not met at once, each with its remedy.
func requireAll(ctx context.Context, s *session.Session, o FenceOptions) (counted string, err error) {
	look, err := fencing.LookAt(ctx, s.OnSource, nil)
	if err != nil {
		return "", s.Source.Explain(err)
	}
	conditions := []func() error{
		func() error { return notAnothers(ctx, s) },
		func() error { return fencing.RequireRights(ctx, s) },
		look.NoneExempt,
		look.NoSubscription,
		func() error { return fencing.RequireEndable(ctx, s, o.Trust) },
		look.NonePrepared,
		func() error { return usable(ctx, s) },
		func() error { return answers(ctx, s) },
	}
	if !s.Stream.Ended {
		if o.Check || !o.AllowOrphans {
			conditions = append(conditions, func() error { return missing.RequireParents(ctx, s, o.AllowOrphans, o.Allow) })
		}
		conditions = append(conditions, func() error { return requireLoaded(s) }, func() error { return nobodyWrote(ctx, s, o) }, func() error {
			switch {
			case o.Rehearse:
				return missing.RequireNow(ctx, s, o.Allow)
			case o.Check:
				return missing.RequireCarried(ctx, s, o.Allow)
			}
			r, err := missing.RequireNothing(ctx, s, o.Allow, once)
			if err == nil {
				counted = r.Unchanged
			}
			return err
		})
	}
	var unmet []*fault.Error
	for _, holds := range conditions {
		err := holds()
		var f *fault.Error
		switch {
		case err == nil:
		case !errors.As(err, &f) || ctx.Err() != nil || waiting.IsLockTimeout(err) || pgdial.Lost(err) || s.OnSource.IsClosed() || s.OnTarget.IsClosed():
			return "", err
		default:
			unmet = append(unmet, f)
		}
	}
	switch len(unmet) {
	case 0:
		return counted, nil
	case 1:
		return "", unmet[0]
	}
	return "", together(unmet)
}

// notAnothers refuses a source that another migration has closed. A fence over that one would erase
// that the source is not the primary any more, and that nothing may reopen it.
func notAnothers(ctx context.Context, s *session.Session) error {
	record, isClosed, err := slot.GetFence(ctx, s.OnSource)
	if err == nil && record == nil && isClosed {
		s.Log.Warn(fencing.FrozenText, "hint", fencing.FrozenHint)
	}
	if err != nil || record == nil {
		return s.Source.Explain(err)
	}
	done, err := progress.Steps(ctx, s.OnTarget, s.Stream.ID)
	if err == nil && !s.Owns(record, done) {
		return s.Anothers(record)
	}
	return s.Target.Explain(err)
}

// together makes one error of several conditions that are not met.
func together(unmet []*fault.Error) error {
	gravest := []fault.Status{fault.TryAgain, fault.Permission, fault.Config, fault.Unavailable}
	rank := 0
	var list []string
	for i, f := range unmet {
		rank = max(rank, slices.Index(gravest, f.Status))
		lines := fmt.Sprintf("%d. %v", i+1, f)
		if f.Detail != "" {
			lines += "\n" + f.Detail
		}
		if f.Hint != "" {
			lines += "\n" + f.Hint
		}
		list = append(list, strings.ReplaceAll(lines, "\n", "\n   "))
	}
	return fault.New(gravest[rank], "%d conditions for closing the source are not met", len(unmet)).
		WithDetail("%s", strings.Join(list, "\n")).
		WithHint("Each condition is followed by its remedy. Nothing was closed.")
}
