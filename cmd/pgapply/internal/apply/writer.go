package apply

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/write"
)

// A writer writes groups to the target in its own goroutine, and reports the positions that have
// become durable. While it writes, the follower decodes and folds the next group, so a group has
// whatever arrived in the meantime. With several jobs, the writer writes that many groups in
// parallel if they do not change the same rows. It still commits them in the source's order.
type writer struct {
	applier *write.Applier
	report  *reporter
	jobs    int
	work    chan job
	// free has the groups that were written, empty again. There are as many of them as jobs.
	free   chan *plan.Group
	failed chan struct{} // closed when err is set
	err    error
	ended  chan struct{} // closed when a cutover has ended the stream

	drafts []*write.Draft // in commit order
	asked  time.Time
}

// A job is a task for the writer, and the group for that task. Jobs run in order.
type job struct {
	group *plan.Group
	do    func(context.Context, *plan.Group) error // nil: apply the group
	sync  bool                                     // report at once what has become durable
}

func newWriter(ctx context.Context, a *write.Applier, r *reporter, jobs int) *writer {
	w := &writer{applier: a, report: r, jobs: jobs, work: make(chan job), free: make(chan *plan.Group, jobs),
		failed: make(chan struct{}), ended: make(chan struct{})}
	for range jobs {
		w.free <- new(plan.Group)
	}
	go w.run(ctx)
	return w
}

const (
	// pollEvery is how often the writer asks the target whether it has flushed the commits. The
	// target's WAL writer flushes by itself, by default five times a second.
	pollEvery = 100 * time.Millisecond
	// flushAfter is when the writer stops relying on the WAL writer, and makes the target flush.
	flushAfter = time.Second
	// lookEvery is how often the writer polls the target while there is nothing to write.
	lookEvery = time.Second
)

func (w *writer) run(ctx context.Context) {
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	ended := false
	for {
		var err error
		var first <-chan struct{}
		if len(w.drafts) > 0 {
			first = w.drafts[0].Done
		}
		select {
		case j, ok := <-w.work:
			if !ok {
				return
			}
			err = w.take(ctx, j)
		case <-first:
			err = w.commitFirst(ctx)
		case now := <-poll.C:
			err = w.poll(ctx, now)
		}
		if err != nil {
			w.applier.LastCounts(ctx)
			w.err = err
			close(w.failed)
			return
		}
		if !ended && w.applier.Ended() {
			ended = true
			w.applier.LastCounts(ctx)
			close(w.ended)
		}
	}
}

// take does a job.
func (w *writer) take(ctx context.Context, j job) error {
	if j.do == nil && w.jobs > 1 && !w.applier.Open() && j.group.Apart() {
		for n := len(w.drafts); n > 0 && w.meets(j.group); n = len(w.drafts) {
			if err := w.commitFirst(ctx); err != nil {
				return err
			}
		}
		j.group.Keys()
		d, err := w.applier.Draft(ctx, j.group)
		if err == nil {
			w.drafts = append(w.drafts, d)
		}
		return err
	}
	for len(w.drafts) > 0 {
		if err := w.commitFirst(ctx); err != nil {
			return err
		}
	}
	do := j.do
	if do == nil {
		do = w.applier.Apply
	}
	if err := do(ctx, j.group); err != nil {
		return err
	}
	w.done(j.group)
	if j.sync {
		w.report.flush()
	}
	return nil
}

func (w *writer) meets(g *plan.Group) bool {
	return slices.ContainsFunc(w.drafts, func(d *write.Draft) bool { return g.Meets(d.Group) })
}

// commitFirst commits the first draft. If the target has refused the draft, commitFirst writes all
// drafts again, one after the other.
func (w *writer) commitFirst(ctx context.Context) error {
	d := w.drafts[0]
	done, err := w.applier.Commit(ctx, d)
	if err != nil {
		return err
	}
	if done {
		w.drafts = w.drafts[1:]
		w.done(d.Group)
		return nil
	}
	for _, d := range w.drafts {
		if err := w.applier.Drop(ctx, d); err != nil {
			return err
		}
	}
	for _, d := range w.drafts {
		if err := w.applier.Apply(ctx, d.Group); err != nil {
			return err
		}
		w.done(d.Group)
	}
	w.drafts = nil
	return nil
}

// done empties a group and gives it back.
func (w *writer) done(g *plan.Group) {
	w.report.durable(w.applier)
	g.Reset()
	w.free <- g
}

// poll asks the target how far it has flushed the commits.
func (w *writer) poll(ctx context.Context, now time.Time) (err error) {
	switch since, some := w.applier.Waiting(); {
	case !some && w.applier.Uncounted(now):
		err = w.applier.Sync(ctx)
	case !some:
		// Even if nothing is written, a cutover may end the stream, or the target may go away.
		if now.Sub(w.asked) > lookEvery {
			w.asked = now
			err = w.applier.Poll(ctx)
		}
	case !since.IsZero() && now.Sub(since) > flushAfter:
		err = w.applier.Sync(ctx)
	default:
		err = w.applier.Poll(ctx)
	}
	if err == nil {
		w.report.durable(w.applier)
		w.report.flush()
	}
	return err
}

// A reporter prints durable positions, one per line, on standard output, at most ten times a
// second.
type reporter struct {
	out io.Writer // nil: nothing is printed
	// id identifies the stream of the positions: the migration's token and the target's identifier.
	id      string
	pending write.Position
	printed time.Time
}

func (r *reporter) durable(a *write.Applier) {
	if p, ok := a.Durable(); ok {
		r.pending = p
	}
	if time.Since(r.printed) >= pollEvery {
		r.flush()
	}
}

// flush prints the pending position. If the reader has gone away, pgapply continues: the position
// that counts is on the target.
func (r *reporter) flush() {
	if r.out == nil || r.pending.LSN == 0 {
		return
	}
	at := "" // unknown
	if t := r.pending.Time; t != 0 {
		at = t.Time().Format("2006-01-02T15:04:05.000000Z")
	}
	_, _ = fmt.Fprintf(r.out, "applied\t%v\t%s\t%s\n", r.pending.LSN, at, r.id)
	r.pending = write.Position{}
	r.printed = time.Now()
}

// of sets the stream whose positions are printed next.
func (r *reporter) of(s *progress.Stream) { r.id = s.Source.Token + "." + s.TargetID }

// ended tells the reader of the positions that pgapply applies nothing more.
func (r *reporter) ended() {
	if r.out != nil {
		_, _ = fmt.Fprintf(r.out, "ended\t%s\n", r.id)
	}
}
