package receive

import (
	"fmt"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/format"
)

// A source that goes back in time (a restored backup, a standby that was behind when it was
// promoted) writes other transactions at LSNs that the stream has passed. They must not be mistaken
// for the old ones. So each session first checks the source's timelines and the end of its WAL. It
// then reads the last transaction written once more, compares it and drops it.

// sameHistory checks that the source has the history that was written.
func (r *Receiver) sameHistory(id *slot.Identity) error {
	if r.position == 0 {
		return nil
	}
	if id.At < r.position {
		return r.parted(fmt.Sprintf("The source's WAL ends at LSN %v, but changes up to LSN %v have been read", id.At, r.position))
	}
	if r.Timeline == 0 || r.Timeline == id.Timeline {
		return nil
	}
	h := format.Header{History: id.History}
	switch end, ok := h.EndOf(r.Timeline); {
	case ok && r.position > end:
		return r.parted(fmt.Sprintf("The source is on timeline %d. Its timeline %d ended at LSN %v, but changes of that timeline up to LSN %v have been read",
			id.Timeline, r.Timeline, end, r.position))
	case !ok && (len(id.History) > 0 || id.Timeline < r.Timeline):
		return r.parted(fmt.Sprintf("The source is on timeline %d, which does not descend from timeline %d. Changes of timeline %[2]d up to LSN %[3]v have been read",
			id.Timeline, r.Timeline, r.position))
	}
	return nil
}

func (r *Receiver) parted(why string) error {
	e := fault.New(fault.Unavailable,
		"the source has gone back in time: changes that were read from it are missing").
		WithDetail("%s.", why)
	return e.WithHint("Check that --source leads to the right server. If it does, the target needs a new full load. %s", slot.Anew(r.Slot))
}

// resume returns where a session starts, and the transaction that must arrive first, if the slot
// goes back that far.
func (r *Receiver) resume() (from format.LSN, must format.StreamCommit) {
	if r.Last.EndLSN == 0 || r.start >= r.Last.EndLSN {
		return r.position, must
	}
	if r.plugin == slot.TestDecoding { // its commit LSN is not known exactly
		return r.start, r.Last
	}
	return r.Last.CommitLSN, r.Last
}

func describe(xid uint32, commit format.LSN, at format.Time) string {
	return fmt.Sprintf("transaction %d with commit LSN %v, committed at %s", xid, commit, at.Time().UTC().Format(time.RFC3339Nano))
}

func (s *session) notMet(instead string) error {
	if s.must.EndLSN != 0 {
		instead += "; expected " + describe(s.must.XID, s.must.CommitLSN, s.must.Time)
	}
	return s.parted("The source sent " + instead)
}

// meetBegin is meet for a transaction's begin record, so that no record of a wrong transaction is
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

// meet checks a complete transaction, and reports whether it is the one that had to arrive again.
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

// meetSkipped rejects a transaction between the last one written and the position: there was none.
func (s *session) meetSkipped(t format.StreamCommit) error {
	if s.Last.EndLSN != 0 && t.CommitLSN >= s.Last.EndLSN && t.CommitLSN < s.position {
		return s.notMet(describe(t.XID, t.CommitLSN, t.Time) + "; expected none there")
	}
	return nil
}

// meetPosition checks a position up to which the server has sent everything.
func (s *session) meetPosition(lsn format.LSN) error {
	if s.must.EndLSN == 0 || lsn < s.must.EndLSN {
		return nil
	}
	return s.notMet(fmt.Sprintf("no more transactions up to LSN %v", lsn))
}

// hides reports whether to leave out a transaction's blocks because it is the one that must arrive
// again. If it is another transaction with the same xid, meet notices at its end.
func (s *session) hides(xid uint32) bool { return s.must.EndLSN != 0 && xid == s.must.XID }
