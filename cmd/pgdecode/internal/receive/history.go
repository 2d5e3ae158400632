package receive

import (
	"fmt"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/format"
)

// A source that goes back in time (a restored backup, a standby that was behind when it was
// promoted) writes other transactions at positions that have been written to the stream. They must
// not be taken for those. So a new session begins with the last transaction that was written, and
// drops it when it comes again, exactly; and before that, the source's timelines and the end of its
// WAL are looked at.

// sameHistory checks that the source has what was written.
func (r *Receiver) sameHistory(id *slot.Identity) error {
	if r.position == 0 {
		return nil
	}
	if id.At < r.position {
		return r.parted(fmt.Sprintf("its WAL ends at LSN %v, and changes up to LSN %v have been read", id.At, r.position))
	}
	if r.Timeline == 0 || r.Timeline == id.Timeline {
		return nil
	}
	h := format.Header{History: id.History}
	switch end, ok := h.EndOf(r.Timeline); {
	case ok && r.position > end:
		return r.parted(fmt.Sprintf("it is on timeline %d now, its timeline %d ended at LSN %v, and changes of that one up to LSN %v have been read",
			id.Timeline, r.Timeline, end, r.position))
	case !ok && (len(id.History) > 0 || id.Timeline < r.Timeline):
		return r.parted(fmt.Sprintf("it is on timeline %d, which does not descend from timeline %d, whose changes up to LSN %v have been read",
			id.Timeline, r.Timeline, r.position))
	}
	return nil
}

func (r *Receiver) parted(why string) error {
	e := fault.New(fault.Unavailable,
		"the source has gone back in time: it does not have what was read from it").
		WithDetail("%s", "Seen there: "+why+".")
	return e.WithHint("Is it the right server? If so, the target needs a new full load. %s", slot.Anew(r.Slot))
}

// resume returns where a session begins, and the transaction that has to come first, if the slot
// goes back that far.
func (r *Receiver) resume() (from format.LSN, must format.StreamCommit) {
	if r.Last.EndLSN == 0 || r.start >= r.Last.EndLSN {
		return r.position, must
	}
	return r.Last.CommitLSN, r.Last
}

func describe(xid uint32, commit format.LSN, at format.Time) string {
	return fmt.Sprintf("transaction %d with commit LSN %v, committed at %s", xid, commit, at.Time().UTC().Format(time.RFC3339Nano))
}

func (s *session) notMet(instead string) error {
	if s.must.EndLSN != 0 {
		instead += ", where " + describe(s.must.XID, s.must.CommitLSN, s.must.Time) + " was"
	}
	return s.parted(instead)
}

// meetBegin is meet as far as a transaction's begin tells, so that nothing of one that is wrong is
// written.
func (s *session) meetBegin(b *format.Begin) error {
	if s.must.EndLSN != 0 {
		if b.CommitLSN < s.must.CommitLSN || b.CommitLSN == s.must.CommitLSN && b.XID == s.must.XID && b.Time == s.must.Time {
			return nil
		}
		return s.notMet(describe(b.XID, b.CommitLSN, b.Time))
	}
	return s.meetSkipped(format.StreamCommit{XID: b.XID, CommitLSN: b.CommitLSN, Time: b.Time})
}

// meet takes a transaction that has come to its end, and reports whether it is the one that was to
// come again.
func (s *session) meet(t format.StreamCommit) (again bool, err error) {
	switch {
	case s.must.EndLSN == 0:
		return false, s.meetSkipped(t)
	case t == s.must:
		s.must = format.StreamCommit{}
		s.reached.unproved.Store(false)
		return true, nil
	case t.EndLSN >= s.must.EndLSN || t.XID == s.must.XID:
		return false, s.notMet(describe(t.XID, t.CommitLSN, t.Time))
	}
	return false, nil
}

// meetSkipped refuses a transaction behind the last one that was written, and before the position:
// there was none.
func (s *session) meetSkipped(t format.StreamCommit) error {
	if s.Last.EndLSN != 0 && t.CommitLSN >= s.Last.EndLSN && t.CommitLSN < s.position {
		return s.notMet(describe(t.XID, t.CommitLSN, t.Time) + ", where there was none")
	}
	return nil
}

// meetPosition takes a position up to which the server has sent everything.
func (s *session) meetPosition(lsn format.LSN) error {
	if s.must.EndLSN == 0 || lsn < s.must.EndLSN {
		return nil
	}
	return s.notMet(fmt.Sprintf("nothing more up to LSN %v", lsn))
}

// hides reports whether blocks of a transaction are not to be written, because it is the one that
// comes again. Should it be another one with its number, then its end will tell.
func (s *session) hides(xid uint32) bool { return s.must.EndLSN != 0 && xid == s.must.XID }
