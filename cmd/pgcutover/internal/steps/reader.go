package steps

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// A reader watches whether the slot is read and the changes are applied.
type reader struct {
	*session.Session
	looked time.Time // the time of the last check
	seen   time.Time // the last check at which the slot was read and changes were applied
	who    string    // what the last check found, in words
	// patience limits how long the slot may go unread. later replaces patience once the slot has
	// been read.
	patience, later time.Duration
	known           time.Time // the time of the latest error recorded while the slot was read
}

// look checks once a second, and returns an error if the slot has gone unread for too long.
func (r *reader) look(ctx context.Context) error {
	if time.Since(r.looked) < time.Second {
		return nil
	}
	r.looked = time.Now()
	info, err := slot.Get(ctx, r.OnSource, r.Slot)
	if err != nil {
		return r.Source.Explain(err)
	}
	if info == nil {
		return fault.New(fault.Unavailable, "slot %q does not exist on the source", r.Slot).
			WithHint("Check --source and PGSLUICE_SOURCE. If they are right, the target needs a new full load. %s", slot.Anew(r.Slot))
	}
	if err := info.Lost(); err != nil {
		return err
	}
	applied, err := progress.IsApplied(ctx, r.OnTarget, r.Stream.ID)
	if err != nil {
		return r.Target.Explain(err)
	}
	hint := "Start continuous sync: " + r.Stream.Command("sync", "--reverse")
	switch {
	case info.Active && applied:
		r.who, r.seen, r.patience = "the slot is being read", r.looked, r.later
		return r.remember(ctx)
	case info.Active:
		r.who = fmt.Sprintf("slot %q is read, but nobody applies what is read", r.Slot)
		hint = "Apply it: pgapply <FILE if pgdecode --output keeps it. Otherwise stop that pgdecode first. " + hint
	default:
		r.who = fmt.Sprintf("nobody reads slot %q", r.Slot)
	}
	if !info.Active && r.patience > gone && time.Since(r.seen) > gone {
		f, err := r.ended(ctx)
		if err != nil {
			return err
		}
		if f != nil {
			return fault.New(fault.Config,
				"%s any more, so the target cannot catch up: %s has ended with status %d", r.who, f.Program,
				f.Status).
				WithDetail("Its message was: %s", f.Message).WithHint("%s",
				strings.TrimSpace(f.Hint+" After you correct the cause: "+r.Stream.Command("sync", "--reverse")))
		}
	}
	if time.Since(r.seen) > r.patience {
		return fault.New(fault.Config, "%s, so the target cannot catch up", r.who).WithHint("%s", hint)
	}
	return nil
}

// remember notes the time of the latest recorded error.
func (r *reader) remember(ctx context.Context) error {
	list, err := progress.Failures(ctx, r.OnTarget, r.Stream.ID)
	if err == nil && len(list) > 0 {
		r.known = list[0].At
	}
	return r.Target.Explain(err)
}

// ended returns the error that has ended continuous sync since the slot was last read. It returns
// nil if there is none, or if scripts/sync starts again after that error.
func (r *reader) ended(ctx context.Context) (*progress.Failure, error) {
	list, err := progress.Failures(ctx, r.OnTarget, r.Stream.ID)
	if err != nil {
		return nil, r.Target.Explain(err)
	}
	last := make(map[string]*progress.Failure)
	for i, f := range list {
		if f.At.After(r.known) {
			last[f.Program] = &list[i]
		}
	}
	f := last["pgapply"]
	if f == nil || f.Status == int(fault.Data) {
		// Its stream did not begin, or was cut off: the cause is pgdecode's error.
		f = last["pgdecode"]
	}
	if f == nil || f.Status == int(fault.TryAgain) {
		return nil, nil
	}
	return f, nil
}
