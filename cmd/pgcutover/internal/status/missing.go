package status

import (
	"context"
	"strings"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/ledger"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/missing"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// A MissingStatus is the ledger as part of a status.
type MissingStatus struct {
	// objects that the target lacks or defines differently, without the allowed ones
	Count   int       `json:"count"`
	Allowed int       `json:"allowed"` // the number of allowed objects
	At      time.Time `json:"at"`      // as of when; the comparison is not always repeated
	// at the time of the status, nothing had changed that the comparison was made from
	Current bool          `json:"current"`
	Lines   []ledger.Line `json:"lines"`
}

const (
	// share limits the load on the servers: comparing may take 1/share of the time.
	share = 30
	// many is the number of tables above which a comparison takes longer than a status may.
	many = 1000
)

// A comparer compares the schemas of many tables beside a repeated status.
type comparer struct {
	running chan struct{} // closed when the comparison has ended
	began   time.Time
	took    time.Duration
}

// compare starts a comparison, unless one is running or has ended not long ago. The next status
// finds its result where comparisons are kept. What is wrong, the status itself says.
func (c *comparer) compare(ctx context.Context, m *session.Migration) {
	if c.running != nil {
		select {
		case <-c.running:
		default:
			return
		}
		if time.Since(c.began) < share*c.took {
			return
		}
	}
	own := *m
	running := make(chan struct{})
	c.running, c.began = running, time.Now()
	go func() {
		defer close(running)
		s, err := own.Begin(ctx)
		if err != nil {
			return
		}
		defer s.Close(ctx)
		_, _ = missing.Kept(ctx, s, new(missing.Known))
		c.took = time.Since(c.began)
	}()
}

// exact reports whether a program asks for what a comparison finds, and not only when it was made.
func exact(field string) bool {
	return field == "missing" || strings.HasPrefix(field, "missing.") && field != "missing.at" && field != "missing.current"
}

// A look is when a status looked for differences, and how long that took.
type look struct {
	began time.Time
	took  time.Duration
	stale bool // the last comparison is not current, or there was none
}

// holds reports whether it is too early to look again for the differences of a status.
func (st *Status) holds() bool { return st != nil && time.Since(st.look.began) < share*st.look.took }

// findMissing adds the differences between both sides. With many tables, it adds those of the last
// comparison, unless the field that is asked for needs an exact answer. A repeated status looks
// only from time to time.
func (st *Status) findMissing(ctx context.Context, s *session.Session, field string, known *missing.Known, last *Status) error {
	if last.holds() {
		st.NotThere, st.look = last.NotThere, last.look
		return nil
	}
	began := time.Now()
	find := missing.Kept
	if len(known.Tables) > many && !exact(field) {
		find = missing.Last
	}
	r, err := find(ctx, s, known)
	if err != nil {
		return err
	}
	st.look = look{began: began, took: time.Since(began), stale: !r.Current && s.Stream.LoadStatus != "loading"}
	if !r.Compared {
		return nil
	}
	left := len(ledger.Blocking(r.Lines))
	if r.Lines == nil {
		r.Lines = []ledger.Line{}
	}
	st.NotThere = &MissingStatus{Count: left, Allowed: len(r.Lines) - left, At: began.Add(-r.Age).UTC(), Current: r.Current, Lines: r.Lines}
	return nil
}
