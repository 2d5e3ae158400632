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

// A reader is whoever reads the slot and applies what it gets, or nobody.
type reader struct {
	*session.Session
	looked time.Time // when we last looked, and
	seen   time.Time // when somebody was at work then
	who    string    // what was seen, in words
	// patience is how long nobody may be at work, and later the same from when somebody has been
	// seen.
	patience, later time.Duration
	known           time.Time // of the last error that had been recorded when somebody was at work
}

// look looks once a second, and returns an error if nobody has been at work for too long.
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
	hint := fmt.Sprintf("Start continuous sync: scripts/sync %s", r.Slot)
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
				strings.TrimSpace(f.Hint+" After you correct the cause: scripts/sync "+r.Slot))
		}
	}
	if time.Since(r.seen) > r.patience {
		return fault.New(fault.Config, "%s, so the target cannot catch up", r.who).WithHint("%s", hint)
	}
	return nil
}

// remember notes which errors are known.
func (r *reader) remember(ctx context.Context) error {
	list, err := progress.Failures(ctx, r.OnTarget, r.Stream.ID)
	if err == nil && len(list) > 0 {
		r.known = list[0].At
	}
	return r.Target.Explain(err)
}

// ended returns what has ended continuous sync since somebody was at work, if scripts/sync does not
// start it again after that; nil: nothing is known of that kind.
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
		// its stream has not begun, or was cut: by what has ended pgdecode
		f = last["pgdecode"]
	}
	if f == nil || f.Status == int(fault.TryAgain) {
		return nil, nil
	}
	return f, nil
}
