// Package verify compares every row of every table, and the large objects, of a drained source with
// those of the target.
package verify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Options choose what is compared and how it is reported.
type Options struct {
	Jobs          int    // number of tables compared at a time
	Rate          int    // rows that are read in a second on each side; 0: as many as possible
	OnlyDifferent bool   // do not print equal tables
	Ready         func() // called when the snapshots exist
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
// target. It reads one snapshot on each side, takes both at its start, and calls Ready when they
// exist. The source must be fenced and drained: otherwise the two snapshots are not of the same
// state. Run writes a line for each table, or only for those that differ. It fails with status
// Failed only if a table differs, so that nobody mistakes an incomplete comparison for a
// difference.
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
		(*verification).drained, (*verification).ready, (*verification).findPairs, (*verification).chooseHash, (*verification).compare,
	} {
		if err := step(v, ctx); err != nil {
			return true, err
		}
	}
	return v.report(ctx)
}

// hold takes a snapshot of each side. It connects before it waits for the drain, because the
// application waits for the snapshots.
func (v *verification) hold(ctx context.Context) error {
	var source, target *pgx.Conn
	err := bothSides(func() (err error) {
		source, err = v.Source.Connect(ctx)
		return err
	}, func() (err error) {
		target, err = v.Target.Connect(ctx)
		return err
	})
	// From here on, release closes the sessions.
	v.source, v.target = &slot.Snapshot{Keep: source}, &slot.Snapshot{Keep: target}
	if err != nil {
		return err
	}
	if err := v.waitDrained(ctx); err != nil {
		return err
	}
	return bothSides(func() error {
		s, err := slot.HoldIn(ctx, v.Source, source)
		if err == nil {
			v.source = s
		}
		return err
	}, func() error {
		s, err := slot.HoldIn(ctx, v.Target, target)
		if err == nil {
			v.target = s
		}
		return err
	})
}

// bothSides does something on each side at once, and returns the source's error first.
func bothSides(source, target func() error) error {
	failed := make(chan error, 1)
	go func() { failed <- target() }()
	err := source()
	if e := <-failed; err == nil {
		err = e
	}
	return err
}

func (v *verification) release(ctx context.Context) {
	for _, s := range []*slot.Snapshot{v.source, v.target} {
		if s != nil {
			s.Release(ctx)
		}
	}
}

// drainSoon is how long a verification that a cutover has started waits for its drain, which has
// the same limit.
const drainSoon = time.Minute

// waitDrained reads the recorded steps. What is drained then is in snapshots that are taken later.
// With Ready, the drain may still be at work.
func (v *verification) waitDrained(ctx context.Context) (err error) {
	for deadline := time.Now().Add(drainSoon); ; {
		if v.steps, err = progress.Steps(ctx, v.OnTarget, v.Stream.ID); err != nil {
			return v.Target.Explain(err)
		}
		f, d := session.Done(v.steps, "fence"), session.Done(v.steps, "drain")
		if v.Ready == nil || f == nil || d != nil && d.FenceID == f.FenceID || time.Now().After(deadline) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// drained checks that the snapshots are of the same state.
func (v *verification) drained(ctx context.Context) error {
	if err := v.CheckSource(ctx); err != nil {
		return err
	}
	if v.Stream.Ended {
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

// openSoon is how long ready waits for the target to be opened.
const openSoon = 3 * time.Second

// ready reports that the snapshots exist. The application waits for that in a cutover, so nothing
// that takes longer with more tables comes before it. Nor does the comparison compete with open for
// the servers: it begins when the target is open.
func (v *verification) ready(ctx context.Context) error {
	if v.Ready == nil {
		return nil
	}
	v.Ready()
	for open, deadline := v.Stream.Ended, time.Now().Add(openSoon); !open && time.Now().Before(deadline); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if err := v.OnTarget.QueryRow(ctx, "SELECT ended_at IS NOT NULL FROM pgsluice.streams WHERE stream_id = $1", v.Stream.ID).Scan(&open); err != nil {
			return v.Target.Explain(err)
		}
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
