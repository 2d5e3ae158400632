package missing

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/ledger"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// RequireNothing refuses to continue while the ledger is not empty. allow lists the ids of lines to
// accept from now on.
func RequireNothing(ctx context.Context, s *session.Session, allow []string, patience time.Duration) (*Result, error) {
	if _, err := Retry(ctx, s, true, patience); err != nil {
		return nil, err
	}
	r, err := current(ctx, s)
	if err != nil {
		return nil, err
	}
	if err := r.require(ctx, s, allow); err != nil {
		return r, err
	}
	// finish, which does not see the source, must not report them as missing.
	return r, s.Target.Explain(progress.Settle(ctx, s.OnTarget, s.Stream.ID, r.settled))
}

// RequireNow is RequireNothing for a rehearsal: it changes nothing. It does not try again what
// failed, and accepts the lines in allow this time only.
func RequireNow(ctx context.Context, s *session.Session, allow []string) error {
	r, err := settled(ctx, s)
	if err != nil {
		return err
	}
	for i := range r.Lines {
		r.Lines[i].Allowed = r.Lines[i].Allowed || slices.Contains(allow, r.Lines[i].ID)
	}
	return r.require(ctx, s, nil)
}

// RequireCarried is RequireNothing for the tables alone: it refuses to continue while one of them
// does not reach the target completely. It does not compare the schemas.
func RequireCarried(ctx context.Context, s *session.Session, allow []string) error {
	r := new(Result)
	if err := r.notCarried(ctx, s, new(Known)); err != nil {
		return err
	}
	if err := r.allow(ctx, s); err != nil {
		return err
	}
	return r.require(ctx, s, allow)
}

// require refuses to continue while a line is left that is not allowed.
func (r *Result) require(ctx context.Context, s *session.Session, allow []string) error {
	if err := accept(ctx, s, r.Lines, allow); err != nil {
		return err
	}
	left := ledger.Blocking(r.Lines)
	if len(left) == 0 {
		return nil
	}
	return refusal(s.Slot, left)
}

// RequireCreated refuses to remove the state of a migration while that state is the only list of
// the objects still to be created on the target.
func RequireCreated(ctx context.Context, s *session.Session) error {
	for _, phase := range []progress.Phase{progress.PhaseCutover, progress.PhaseFinish} {
		list, err := progress.Pending(ctx, s.OnTarget, s.Stream.ID, phase, "", "")
		if err != nil {
			return s.Target.Explain(err)
		}
		for _, o := range list {
			if o.Error == "" {
				return fault.New(fault.Config, "the cutover is not finished: %v does not exist on the target yet", &o).
					WithHint("First: pgcutover finish --slot %[1]s. To remove its record anyway: pgcutover cleanup --slot %[1]s --force", s.Slot)
			}
		}
	}
	failed, err := progress.Failed(ctx, s.OnTarget, s.Stream.ID)
	if err != nil || len(failed) == 0 {
		return s.Target.Explain(err)
	}
	r, err := Compare(ctx, s)
	if err != nil {
		return err
	}
	left := ledger.Blocking(r.Lines)
	if len(left) == 0 {
		return nil
	}
	e := refusal(s.Slot, left)
	e.Hint += fmt.Sprintf(". To remove the list all the same: pgcutover cleanup --slot %s --force", s.Slot)
	return e
}

func refusal(slot string, left []ledger.Line) *fault.Error {
	names := make([]string, len(left))
	for i, l := range left {
		names[i] = text.Sprintf("%s  %s %s: %s", l.ID, l.Kind, l.Name, l.Cause)
	}
	const most = 20
	detail := strings.Join(names[:min(most, len(names))], "\n")
	if n := len(names) - most; n > 0 {
		detail += fmt.Sprintf("\nand %s", count.Of(n, "other"))
	}
	return fault.New(fault.Config, "the target lacks %s of the source, or has %s with differences",
		count.Of(len(left), "object"), count.Word(len(left), "it", "them")).WithDetail("%s", detail).
		WithHint("To see the remedy of each: pgcutover missing --slot %s (--sql prints the statements). To accept an object as it is: --allow-missing ID", slot)
}

// accept records the lines with these ids as allowed and marks them.
func accept(ctx context.Context, s *session.Session, lines []ledger.Line, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	record := make(map[string]string)
	for i := range lines {
		if l := &lines[i]; slices.Contains(ids, l.ID) {
			l.Allowed = true
			record[l.ID] = fmt.Sprintf("%s %s: %s", l.Kind, l.Name, l.Cause)
			s.Log.Warn(text.Sprintf("accepted: %s %s: %s", l.Kind, l.Name, l.Cause))
		}
	}
	for _, id := range ids {
		if record[id] == "" {
			s.Log.Info(fmt.Sprintf("--allow-missing %s: nothing with this ID is missing", id))
		}
	}
	return s.Target.Explain(progress.Allow(ctx, s.OnTarget, s.Stream.ID, record))
}
