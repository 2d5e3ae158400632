package apply

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/target"
)

// A writer writes groups to the target in a goroutine of its own, one after the other, and reports the positions that have become
// durable. While it writes one group, the next one is decoded and folded: a group is what arrived in the meantime.
type writer struct {
	applier *target.Applier
	report  *reporter
	work    chan job
	free    chan *plan.Group // groups that have been written, empty again: the writer is idle
	failed  chan struct{}    // closed when err is set
	err     error
	ended   chan struct{} // closed when a cutover has ended the stream
}

// A job is something to do, in order, and the group that it is done with.
type job struct {
	group *plan.Group
	do    func(context.Context, *plan.Group) error
	sync  bool // tell at once what has become durable
}

func newWriter(ctx context.Context, a *target.Applier, r *reporter) *writer {
	w := &writer{applier: a, report: r, work: make(chan job), free: make(chan *plan.Group, 1), failed: make(chan struct{}), ended: make(chan struct{})}
	w.free <- new(plan.Group)
	go w.run(ctx)
	return w
}

const (
	// pollEvery is how often the target is asked whether it has flushed what was committed. Its WAL writer does so by itself, by default
	// five times a second.
	pollEvery = 100 * time.Millisecond
	// flushAfter is when we stop relying on that.
	flushAfter = time.Second
	// lookEvery is how often the target is asked while there is nothing to write.
	lookEvery = time.Second
)

func (w *writer) run(ctx context.Context) {
	var waiting, asked time.Time
	ended := false
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for {
		var err error
		select {
		case j, ok := <-w.work:
			if !ok {
				return
			}
			err = j.do(ctx, j.group)
			if err == nil {
				w.report.durable(w.applier)
				if j.sync {
					w.report.flush()
				}
				j.group.Reset()
				w.free <- j.group
			}
		case now := <-poll.C:
			switch {
			case !w.applier.Waiting():
				waiting = time.Time{}
				// Nothing is written, but a cutover may end the stream, or the target go away.
				if now.Sub(asked) > lookEvery {
					asked = now
					err = w.applier.Poll(ctx)
				}
			case waiting.IsZero():
				waiting = now
				err = w.applier.Poll(ctx)
			case now.Sub(waiting) > flushAfter:
				waiting = time.Time{}
				err = w.applier.Sync(ctx)
			default:
				err = w.applier.Poll(ctx)
			}
			if err == nil {
				w.report.durable(w.applier)
				w.report.flush()
			}
		}
		if err != nil {
			w.err = err
			close(w.failed)
			return
		}
		if !ended && w.applier.Ended() {
			ended = true
			close(w.ended)
		}
	}
}

// A reporter prints a line on standard output for each position that has become durable, ten times a second at most.
type reporter struct {
	out     io.Writer // nil: nothing is printed
	pending target.Position
	printed time.Time
}

func (r *reporter) durable(a *target.Applier) {
	if p, ok := a.Durable(); ok {
		r.pending = p
	}
	if time.Since(r.printed) >= pollEvery {
		r.flush()
	}
}

// flush prints what is pending. A reader that went away is no reason to stop: what counts is on the target.
func (r *reporter) flush() {
	if r.out == nil || r.pending.LSN == 0 {
		return
	}
	_, _ = fmt.Fprintf(r.out, "applied\t%v\t%s\n", r.pending.LSN, r.pending.Time.Time().Format("2006-01-02T15:04:05.000000Z"))
	r.pending = target.Position{}
	r.printed = time.Now()
}

// ended tells whoever reads the positions that nothing is applied any more.
func (r *reporter) ended() {
	if r.out != nil {
		_, _ = fmt.Fprintln(r.out, "ended")
	}
}
