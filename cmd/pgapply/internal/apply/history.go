package apply

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/format"
)

// A source that goes back in time (a restored backup, a standby that was behind when it was
// promoted) writes other transactions at positions that the target has passed. They must not be
// taken for those that were applied already. Three things tell: the source's history of timelines;
// up to where its WAL was when its clock said what; and the last transaction that was applied,
// which a stream that begins before its end has to have again, exactly.

// clockSlack is how much later than the target's position a header has to be for its WAL position
// to prove anything: a commit takes a moment from its time stamp until it is durable.
const clockSlack = time.Second

// A history is what the source's must fit to.
type history struct {
	last progress.Transaction // the newest that was taken in
	must progress.Transaction // the one that has to come again; of none, it is zero
	// transactions behind it are of a history that the source does not have; 0: none are
	limit format.LSN
}

// sameHistory checks a header against what is remembered of the source.
func (f *follower) sameHistory(ctx context.Context, h *format.Header) error {
	var err error
	if f.past.limit, err = timeline(f.stream, h, max(f.position, f.progress.snapshot)); err != nil {
		return err
	}
	if applied := f.stream.AppliedTime; h.SourceLSN != 0 && h.SourceLSN < f.stream.Applied &&
		applied.Unix() > 0 && h.Created.Time().Sub(applied) > clockSlack {
		return parted(f.stream, fmt.Sprintf("at %s the source's WAL ended at LSN %v, and the target had what was at LSN %v before that, at %s",
			clock(h.Created.Time()), h.SourceLSN, f.stream.Applied, clock(applied)))
	}
	if f.past.must = (progress.Transaction{}); h.StartLSN < f.past.last.EndLSN {
		f.past.must = f.past.last
	}
	return f.remember(ctx, f.stream, h)
}

func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000Z") }

// timeline compares the source's timelines. Reach is how far the target has followed the remembered
// timeline. If the stream is of an earlier timeline, limit is where that one ended.
func timeline(stream *progress.Stream, h *format.Header, reach format.LSN) (limit format.LSN, err error) {
	was := stream.Source
	if h.Timeline == was.Timeline || h.Timeline == 0 || was.Timeline == 0 {
		return 0, nil
	}
	if end, ok := h.EndOf(was.Timeline); ok {
		if reach > end {
			return 0, parted(stream,
				fmt.Sprintf("it is on timeline %d now, and its timeline %d ended at LSN %v, while the target is at LSN %v of that one",
					h.Timeline, was.Timeline, end, reach))
		}
		return 0, nil
	}
	before := format.Header{History: was.History}
	if end, ok := before.EndOf(h.Timeline); ok { // a stream from before
		return end, nil
	}
	if len(h.History) > 0 || h.Timeline < was.Timeline {
		return 0, parted(stream,
			fmt.Sprintf("it is on timeline %d, which does not descend from timeline %d, whose changes the target has up to LSN %v",
				h.Timeline, was.Timeline, reach))
	}
	return 0, nil // nobody could tell
}

// remember stores what a header says about the source.
func (r *Run) remember(ctx context.Context, stream *progress.Stream, h *format.Header) error {
	was, now := stream.Source, stream.Source
	if h.Timeline > was.Timeline {
		now.Timeline, now.History = h.Timeline, h.History
	}
	if h.Token != "" {
		now.Token = h.Token
	}
	if now.Token == was.Token && now.Timeline == was.Timeline && slices.Equal(now.History, was.History) {
		return nil
	}
	stream.Source = now
	r.report.of(stream)
	return r.Server.Explain(progress.SetSource(ctx, r.control, stream.ID, now))
}

// parted is the error for a source that lacks changes that the target has.
func parted(stream *progress.Stream, why string) error {
	return fault.New(fault.Unavailable, "source and target have diverged: the source has gone back in time").
		WithDetail("%s", "Seen in the stream: "+why+".").
		WithHint("Nothing was applied. If the right source is connected, the target needs a new full load. %s", slot.Anew(stream.Key.Slot))
}

// meetBegin makes the checks of meet that need only a begin, so that nothing of a wrong transaction
// is written.
func (f *follower) meetBegin(b *format.Begin) error {
	if f.past.limit != 0 && b.CommitLSN >= f.past.limit && b.CommitLSN >= f.position {
		return f.behindLimit(b.CommitLSN)
	}
	if f.past.must.EndLSN == 0 || b.CommitLSN < f.past.must.CommitLSN ||
		b.CommitLSN == f.past.must.CommitLSN && b.XID == f.past.must.XID && b.Time == f.past.must.Time {
		return nil
	}
	return f.notMet(fmt.Sprintf("transaction %d with commit LSN %v, committed at %s", b.XID, b.CommitLSN, clock(b.Time.Time())))
}

// meet checks a complete transaction before it is applied.
func (f *follower) meet(t progress.Transaction) error {
	if f.past.limit != 0 && t.EndLSN > f.past.limit && t.CommitLSN >= f.position {
		return f.behindLimit(t.CommitLSN)
	}
	switch {
	case f.past.must.EndLSN != 0 && t == f.past.must:
		f.past.must = progress.Transaction{}
	case f.past.must.EndLSN != 0 && t.EndLSN >= f.past.must.EndLSN:
		return f.notMet(t.String())
	case f.past.must.EndLSN == 0:
		if err := f.meetSkipped(t); err != nil {
			return err
		}
	}
	if t.EndLSN > f.position { // else it has been applied, or a load has brought it
		f.past.last = t
	}
	return nil
}

// meetSkipped refuses a transaction behind the last one, and before the position: there was none.
func (f *follower) meetSkipped(t progress.Transaction) error {
	if f.past.last.EndLSN != 0 && t.CommitLSN >= f.past.last.EndLSN && t.CommitLSN < f.position {
		return parted(f.stream, fmt.Sprintf("%v, where there was none", t))
	}
	return nil
}

// meetPosition checks a position up to which the stream has had everything.
func (f *follower) meetPosition(lsn format.LSN) error {
	if f.past.must.EndLSN == 0 || lsn < f.past.must.EndLSN {
		return nil
	}
	return f.notMet(fmt.Sprintf("nothing more up to LSN %v", lsn))
}

func (f *follower) notMet(instead string) error {
	return parted(f.stream, fmt.Sprintf("%s, where the target has %v", instead, f.past.must))
}

func (f *follower) behindLimit(commit format.LSN) error {
	return parted(f.stream, fmt.Sprintf("a transaction with commit LSN %v, of a timeline that the source has left at LSN %v",
		commit, f.past.limit))
}
