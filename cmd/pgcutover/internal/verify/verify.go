// Package verify compares every row of every table, and large objects, of a drained source with the
// target's.
package verify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/identity"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Options say what is compared, and how it is reported.
type Options struct {
	Jobs          int    // tables at a time
	OnlyDifferent bool   // equal tables are not printed
	Ready         func() // called when the snapshots exist
}

// A verification is one comparison of the two sides, as of a snapshot of each.
type verification struct {
	*session.Session // OnSource is the session that holds the source's snapshot
	Options
	source, target *slot.Snapshot
	began          time.Time
	steps          []progress.Step // that had been taken before
	how            comparison
	pairs          []*pair
}

// Run compares every row of every table of the source, and large objects, with the target's, as of
// one snapshot on either side, which it takes at its beginning and announces by calling Ready. The
// source must be fenced and drained, or the two snapshots would not be of the same state. It writes
// a line for each table, or only for those that differ, and fails if one does: only then with
// status Failed, so that nobody takes what could not be compared for a difference.
func Run(ctx context.Context, m *session.Migration, o Options) error {
	equal, err := run(ctx, m, o)
	if err != nil && equal && fault.StatusOf(err) == fault.Failed {
		e := &fault.Error{Status: fault.Config, Err: fmt.Errorf("could not verify: %w", err)}
		var f *fault.Error
		if errors.As(err, &f) {
			e.Detail, e.Hint = f.Detail, f.Hint
		}
		return e
	}
	return err
}

// run reports equal unless it has found a difference, also where it fails before it can tell.
func run(ctx context.Context, m *session.Migration, o Options) (equal bool, err error) {
	began := time.Now()
	s, err := m.BeginTarget(ctx)
	if err != nil {
		return true, err
	}
	defer s.Close(context.WithoutCancel(ctx))
	v := &verification{Session: s, Options: o, began: began}
	// What is drained by now is in the snapshots.
	if v.steps, err = progress.Steps(ctx, s.OnTarget, s.Stream.ID); err != nil {
		return true, m.Target.Explain(err)
	}
	if v.source, err = slot.Hold(ctx, m.Source); err != nil {
		return true, err
	}
	defer v.source.Release(context.WithoutCancel(ctx))
	if v.target, err = slot.Hold(ctx, m.Target); err != nil {
		return true, err
	}
	defer v.target.Release(context.WithoutCancel(ctx))
	s.OnSource = v.source.Keep
	for _, step := range []func(*verification, context.Context) error{
		(*verification).drained, (*verification).findPairs, (*verification).chooseHash, (*verification).compare,
	} {
		if err := step(v, ctx); err != nil {
			return true, err
		}
	}
	return v.report(ctx)
}

// drained makes sure that the snapshots are of the same state.
func (v *verification) drained(ctx context.Context) error {
	if err := v.CheckSource(ctx); err != nil {
		return err
	}
	if v.Stream.Ended {
		v.Log.Warn("the target is open; rows written to it since then differ from the source")
	}
	fenced, err := identity.Fenced(ctx, v.OnSource)
	if err != nil {
		return v.Source.Explain(err)
	}
	if !fenced || !session.Finished(v.steps, "drain") {
		return fault.New(fault.Config, "the source is not fenced and drained, so a difference may be a change that is still on its way").
			WithHint("First: pgcutover fence --slot %s, and pgcutover drain --slot %s", v.Slot, v.Slot)
	}
	return nil
}

// compare sums all tables: those that cannot be read as others are, in other ways.
func (v *verification) compare(ctx context.Context) error {
	if v.Ready != nil {
		v.Ready()
	}
	if err := v.sumAll(ctx, v.pairs); err != nil {
		return err
	}
	if large := tooLarge(v.pairs); len(large) > 0 {
		if err := v.sumAll(ctx, large); err != nil {
			return err
		}
	}
	if rest := unplanned(v.pairs); len(rest) > 0 {
		return v.sumByCopy(ctx, rest)
	}
	return nil
}
