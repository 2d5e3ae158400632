package steps

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// atWork adds to a status who is at work on the target, who was, and why it ended.
func (m *Migration) atWork(ctx context.Context, t *pgx.Conn, s *Status, stream *progress.Stream) error {
	loading, applying, err := progress.AtWork(ctx, t, stream.ID)
	if err != nil {
		return m.Target.Explain(err)
	}
	s.Applying = applying
	if stream.LoadStatus == "loading" && !loading {
		s.Load = "interrupted"
	}
	if loading || applying {
		s.Active = s.At
	}
	for _, t := range s.Tables {
		for _, at := range []*time.Time{t.Started, t.Loaded, t.Changed} {
			if at != nil && at.After(s.Active) {
				s.Active = at.UTC()
			}
		}
	}
	if s.Failures, err = progress.Failures(ctx, t, stream.ID); err != nil {
		return m.Target.Explain(err)
	}
	s.universal()
	return nil
}

// universal puts the times into UTC, as programs are to have them, wherever they run.
func (s *Status) universal() {
	times := []*time.Time{s.AppliedTime}
	for i := range s.Tables {
		t := &s.Tables[i]
		times = append(times, t.Started, t.Loaded, t.Changed)
	}
	for i := range s.Cutover {
		times = append(times, &s.Cutover[i].Started, s.Cutover[i].Finished)
	}
	for i := range s.Failures {
		times = append(times, &s.Failures[i].At)
	}
	for _, t := range times {
		if t != nil {
			*t = t.UTC()
		}
	}
}

// local writes a time for people: in their zone, which it names.
func local(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }

// standing says how a migration stands and what to type, unless whoever is at work does what there
// is to do.
func (m *Migration) standing(h *head, s *Status) {
	state, next := "how it stands is not known", ""
	if s.State != nil {
		state = *s.State
	}
	slot := ""
	if s.Slot != "" {
		slot = " --slot " + text.Shell(s.Slot)
	}
	switch state {
	case "interrupted":
		state += fmt.Sprintf(", nobody has loaded since %s", local(s.Active))
		next = "pgextract" + slot + " --resume | pgapply"
	case "stopped":
		if s.Slots == nil || s.Slots.Active {
			break
		}
		state += fmt.Sprintf(", nobody has applied changes since %s", local(s.Active))
		next = "scripts/sync " + text.Shell(s.Slot)
	case "fenced", "drained":
		next = "scripts/cutover " + text.Shell(s.Slot) + "; to give the source back to the application instead: pgcutover unfence" + slot
	case "complete":
		switch {
		case s.Slot == "":
		case finished(s.Cutover, "finish"):
			next = "pgcutover cleanup" + slot + ", when the old primary is not needed any more"
		default:
			next = "pgcutover finish" + slot
		}
	}
	h.line("slot\t%s of database %s: %s", s.Slot, s.Database, state)
	if next != "" {
		h.line("next\t%s", next)
	}
}

// failures says why programs have ended, as long as that matters.
func (m *Migration) failures(h *head, s *Status) {
	if s.Open {
		return
	}
	for _, f := range s.Failures {
		h.line("last error\t%s of %s, status %d: %s", f.Program, local(f.At), f.Status, f.Message)
		if f.Hint != "" {
			h.line("\t%s", f.Hint)
		}
	}
}
