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

// A source goes back in time if it is a restored backup, or a promoted standby that was behind. It
// then writes new transactions at LSNs that the target has passed. pgapply must not mistake them
// for transactions that it has applied. pgapply checks three things: the source's timeline history,
// how far the source's WAL was at a given time, and the last applied transaction. A stream that
// begins before the end of that transaction must have it again, unchanged.

// clockSlack is how much later than the target's position a header must be for its WAL position to
// prove anything. A commit becomes durable some time after its time stamp.
const clockSlack = time.Second

// A history is what the source's history must match.
type history struct {
	last progress.Transaction // the newest transaction that was read
	must progress.Transaction // the transaction that must come again; zero: none
	// limit is the LSN after which transactions belong to a history that the source does not have.
	// 0: there are none.
	limit format.LSN
}

// sameHistory compares a header with what is stored about the source.
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

// timeline compares the header's timeline with the stored one. reach is how far the target has
// followed the stored timeline. If the stream is of an earlier timeline, limit is where that
// timeline ended.
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
	if end, ok := before.EndOf(h.Timeline); ok { // the stream is of an earlier timeline
		return end, nil
	}
	if len(h.History) > 0 || h.Timeline < was.Timeline {
		return 0, parted(stream,
			fmt.Sprintf("it is on timeline %d, which does not descend from timeline %d, whose changes the target has up to LSN %v",
				h.Timeline, was.Timeline, reach))
	}
	return 0, nil // there is no evidence
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

// parted returns the error for a source that lacks changes that the target has.
func parted(stream *progress.Stream, why string) error {
	return fault.New(fault.Unavailable, "source and target have diverged: the source has gone back in time").
		WithDetail("%s", "Seen in the stream: "+why+".").
		WithHint("Nothing was applied. If the right source is connected, the target needs a new full load. %s", slot.Anew(stream.Key.Slot))
}

// meetBegin makes the checks of meet that need only the begin record, so that pgapply writes
// nothing of a wrong transaction.
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
	if t.EndLSN > f.position { // otherwise it was applied, or a load included it
		f.past.last = t
	}
	return nil
}

// meetSkipped refuses a transaction after the last one and before the position, because the source
// had none there.
func (f *follower) meetSkipped(t progress.Transaction) error {
	if f.past.last.EndLSN != 0 && t.CommitLSN >= f.past.last.EndLSN && t.CommitLSN < f.position {
		return parted(f.stream, fmt.Sprintf("%v, where there was none", t))
	}
	return nil
}

// meetPosition checks an LSN up to which the stream has every change.
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
