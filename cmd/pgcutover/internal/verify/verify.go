// Package verify compares every row of every table, and the large objects, of a drained source with
// those of the target.
package verify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Options choose what is compared and how it is reported.
type Options struct {
	Jobs          int      // number of tables compared at a time
	Rate          int      // rows that are read in a second on each side; 0: as many as possible
	OnlyDifferent bool     // do not print equal tables
	Snapshots     []string // of source and target, which other sessions hold; empty: Run takes its own
}

// A verification is one comparison of the two sides, each as of one snapshot.
type verification struct {
	*session.Session // OnSource is the session that holds the source's snapshot
	Options
	source, target *slot.Snapshot
	began          time.Time
	steps          []progress.Step // the steps recorded before the snapshots
	how            comparison
	pairs          []*pair
}

// Run compares every row of every table of the source, and the large objects, with those of the
// target. It reads one snapshot on each side. The source must be fenced and drained when the
// snapshots are taken: otherwise they are not of the same state. Run writes a line for each table,
// or only for those that differ. It fails with status Failed only if a table differs, so that
// nobody mistakes an incomplete comparison for a difference.
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

// run reports equal unless it has found a difference, even if it fails before it can tell.
func run(ctx context.Context, m *session.Migration, o Options) (equal bool, err error) {
	began := time.Now()
	s, err := m.BeginTarget(ctx)
	if err != nil {
		return true, err
	}
	defer s.Close(context.WithoutCancel(ctx))
	v := &verification{Session: s, Options: o, began: began}
	defer v.release(context.WithoutCancel(ctx))
	if err := v.hold(ctx); err != nil {
		return true, err
	}
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

// hold takes or imports a snapshot of each side. The recorded steps are read before: what is
// drained then is in the snapshots.
func (v *verification) hold(ctx context.Context) (err error) {
	if v.steps, err = progress.Steps(ctx, v.OnTarget, v.Stream.ID); err != nil {
		return v.Target.Explain(err)
	}
	names := append(v.Snapshots, "", "")
	return session.Beside(func() (err error) {
		v.source, err = v.take(ctx, v.Source, names[0])
		return err
	}, func() (err error) {
		v.target, err = v.take(ctx, v.Target, names[1])
		return err
	})
}

func (v *verification) take(ctx context.Context, server pgdial.Server, name string) (*slot.Snapshot, error) {
	c, err := server.Connect(ctx)
	if err != nil {
		return nil, err
	}
	s, err := slot.Take(ctx, server, c, name)
	if name != "" && slot.Gone(err) {
		return nil, fault.New(fault.TryAgain, "snapshot %s does not exist on the %s: %w", name, server.Side, err).
			WithHint("The cutover that held it has ended. Compare the rows as they are now: pgcutover verify --slot %s", v.Slot)
	}
	return s, err
}

func (v *verification) release(ctx context.Context) {
	for _, s := range []*slot.Snapshot{v.source, v.target} {
		if s != nil {
			s.Release(ctx)
		}
	}
}

// drained checks that the snapshots are of the same state.
func (v *verification) drained(ctx context.Context) error {
	if err := v.CheckSource(ctx); err != nil {
		return err
	}
	if v.Stream.Ended && len(v.Snapshots) == 0 {
		v.Log.Warn("the target is open; rows written to it since then differ from the source")
	}
	if is, err := v.Session.Drained(ctx, v.steps); err != nil {
		return err
	} else if !is {
		return fault.New(fault.Config, "the source is not fenced and drained, so a difference may be a change that is still on its way").
			WithHint("First: pgcutover fence --slot %s, and pgcutover drain --slot %s", v.Slot, v.Slot)
	}
	return nil
}

// compare sums all tables. Tables that the common query cannot read are summed in other ways.
func (v *verification) compare(ctx context.Context) error {
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
