package status

import (
	"cmp"
	"context"
	"encoding/json"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
	"github.com/pgsluice/pgsluice/format"
)

// A WatchStatus is what pgcutover watch, or finish, has found when it last looked at the source.
type WatchStatus struct {
	Result   string     `json:"result"` // none (nobody has looked), clean, written, unknown
	At       *time.Time `json:"at"`
	LSN      format.LSN `json:"lsn"`          // it has looked up to here
	Accepted format.LSN `json:"accepted_lsn"` // before it, nobody has written, or it was accepted
	Detail   string     `json:"detail"`       // in words
	// as pgcutover watch --json prints it; null unless the result is written
	Report json.RawMessage `json:"report"`
}

// lastWatch returns the last look.
func lastWatch(ctx context.Context, s *session.Session) (*WatchStatus, error) {
	w, err := progress.GetWatch(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return nil, s.Target.Explain(err)
	}
	st := &WatchStatus{Result: cmp.Or(w.Result, "none"), LSN: w.LSN, Accepted: w.Accepted, Detail: w.Detail}
	if w.Result != "" {
		at := w.At.UTC()
		st.At = &at
	}
	if json.Valid([]byte(w.Written)) {
		st.Report = json.RawMessage(w.Written)
	}
	return st, nil
}

// written adds what was written to the source behind the target's back.
func (h *head) written(st *Status) {
	w := st.Written
	if w.At == nil {
		return
	}
	says := map[string]string{"clean": "not written", "written": "WRITTEN TO", "unknown": "unknown"}[w.Result]
	h.line("source is\t%s: %s, as of %s", says, w.Detail, local(*w.At))
	if w.Result != "clean" {
		h.line("\tTo look again: pgcutover watch --slot %s", st.Slot)
	}
}
