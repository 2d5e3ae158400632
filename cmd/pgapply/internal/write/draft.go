package write

import (
	"context"

	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
)

// A Draft is a group that is written on its own session, beside other drafts, and not committed
// yet. Groups that change the same rows cannot be drafts at the same time. Other conflicts are
// possible: one group may free a unique value that another needs. The target then refuses one of
// them or makes it wait. In that case all drafts are rolled back and written one after the other.
type Draft struct {
	Group   *plan.Group
	Done    chan struct{} // closed when the target has answered
	lane    *lane
	refused error
	err     error
}

// draftSettings are for sessions that write beside others. No draft may wait long for a lock of a
// later draft.
const draftSettings = "SET lock_timeout = '2s'"

// Draft begins to write a group.
func (a *Applier) Draft(ctx context.Context, g *plan.Group) (*Draft, error) {
	d := &Draft{Group: g, Done: make(chan struct{})}
	if n := len(a.drafting); n > 0 {
		d.lane, a.drafting = a.drafting[n-1], a.drafting[:n-1]
	} else {
		s, err := newSession(ctx, a.s.server, a.log, a.stream, progress.Ahead)
		if err != nil {
			return nil, err
		}
		d.lane = &lane{s: s}
		if err := s.exec(ctx, draftSettings); err != nil {
			s.close()
			return nil, err
		}
	}
	go func() {
		defer close(d.Done)
		b := d.lane.s.conn.Batch(ctx)
		b.Do("BEGIN")
		d.lane.writeFolded(b, g)
		r, err := d.lane.run(b)
		if d.err = err; err == nil {
			d.refused = r.Err
		}
	}()
	return d, nil
}

// Commit waits for a draft and commits it. All earlier drafts must be committed already. Commit
// returns false if the target refuses the draft; the caller must then drop the draft.
func (a *Applier) Commit(ctx context.Context, d *Draft) (bool, error) {
	<-d.Done
	if d.err != nil || d.refused != nil {
		return false, d.err
	}
	g := d.Group
	a.count(g, 1)
	refused, err := a.commit(ctx, d.lane, func(*pgwire.Batch) {}, endOf(g))
	if err != nil {
		return false, err
	}
	if refused != nil {
		a.count(g, -1)
		return false, nil
	}
	a.drafting = append(a.drafting, d.lane)
	return true, nil
}

// Drop waits for a draft and rolls it back.
func (a *Applier) Drop(ctx context.Context, d *Draft) error {
	<-d.Done
	if d.err != nil {
		return d.err
	}
	if err := d.lane.undo(ctx, "ROLLBACK"); err != nil {
		return err
	}
	a.drafting = append(a.drafting, d.lane)
	return nil
}
