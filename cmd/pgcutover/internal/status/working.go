package status

import (
	"context"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// atWork adds whether programs are loading or applying changes, when they last did, and why they
// exited.
func (st *Status) atWork(ctx context.Context, s *session.Session) error {
	loading, applying, err := progress.AtWork(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return s.Target.Explain(err)
	}
	st.Applying = applying
	if s.Stream.LoadStatus == "loading" && !loading {
		st.Load = "interrupted"
	}
	if loading || applying {
		st.Active = st.At
	}
	for i := range st.Tables {
		t := &st.Tables[i]
		if loading { // otherwise the server has rolled these rows back
			t.Rows, t.Bytes = t.Rows+t.CopyingRows, t.Bytes+t.CopyingBytes
		}
		for _, at := range []*time.Time{t.Started, t.Loaded, t.Changed} {
			if at != nil && at.After(st.Active) {
				st.Active = at.UTC()
			}
		}
	}
	if st.Failures, err = progress.Failures(ctx, s.OnTarget, s.Stream.ID); err != nil {
		return s.Target.Explain(err)
	}
	st.universal()
	return nil
}

// universal converts the times to UTC: programs read the same text in every time zone.
func (st *Status) universal() {
	times := []*time.Time{st.AppliedTime}
	for i := range st.Tables {
		t := &st.Tables[i]
		times = append(times, t.Started, t.Loaded, t.Changed)
	}
	for i := range st.Cutover {
		times = append(times, &st.Cutover[i].Started, st.Cutover[i].Finished)
	}
	for i := range st.Failures {
		times = append(times, &st.Failures[i].At)
	}
	for _, t := range times {
		if t != nil {
			*t = t.UTC()
		}
	}
}
