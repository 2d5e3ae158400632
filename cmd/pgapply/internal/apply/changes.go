package apply

import (
	"context"
	"fmt"
	"slices"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/write"
	"github.com/pgsluice/pgsluice/format"
)

// record takes one record of a change stream.
func (f *follower) record(ctx context.Context, rec format.Record) error {
	if f.progress.block != nil {
		return f.progress.record(ctx, rec)
	}
	switch rec.(type) {
	case *format.Begin, *format.Relation, *format.Progress:
		if err := f.progress.catchUp(ctx); err != nil {
			return err
		}
	}
	switch r := rec.(type) {
	case *format.Insert:
		return f.insert(ctx, r)
	case *format.Update:
		return f.update(ctx, r)
	case *format.Delete:
		return f.delete(ctx, r)
	case *format.Begin:
		return f.takeBegin(r)
	case *format.Commit:
		return f.takeCommit(ctx, r)
	case *format.Truncate:
		return f.truncate(ctx, r)
	case *format.Relation:
		return f.relation(ctx, r)
	case *format.StreamStart, *format.StreamCommit, *format.StreamAbort, *format.Prepare, *format.CommitPrepared, *format.RollbackPrepared:
		return f.progress.record(ctx, rec)
	case *format.Progress:
		return f.takeProgress(r)
	case *format.DDL:
		return f.takeDDL(ctx, r)
	case *format.Message:
	case *format.Unknown:
		f.heard(r)
	default:
		return fault.New(fault.Data, "cannot apply a %v record", rec.Kind())
	}
	return nil
}

func (f *follower) insert(ctx context.Context, r *format.Insert) error {
	t, err := f.destination(ctx, r, r.Relation)
	if t == nil {
		return err
	}
	f.cur.Insert(t, r.New)
	return f.room()
}

func (f *follower) update(ctx context.Context, r *format.Update) error {
	t, err := f.destination(ctx, r, r.Relation)
	if t == nil {
		return err
	}
	f.cur.Update(t, r.Old, r.New)
	return f.room()
}

func (f *follower) delete(ctx context.Context, r *format.Delete) error {
	t, err := f.destination(ctx, r, r.Relation)
	if t == nil {
		return err
	}
	f.cur.Delete(t, r.Old)
	return f.room()
}

// destination returns the table of a changed row. It returns nil if the caller has nothing left to
// do: the change is skipped, or it is so large that destination has written it by itself.
func (f *follower) destination(ctx context.Context, rec format.Record, relation uint32) (*plan.Table, error) {
	t, err := f.table(ctx, relation)
	if t == nil {
		f.progress.keep(rec)
		return nil, err
	}
	if f.huge {
		return nil, f.alone(func(g *plan.Group) error { addChange(g, rec, t); return nil })
	}
	return t, nil
}

// takeBegin takes the begin of a transaction.
func (f *follower) takeBegin(r *format.Begin) error {
	if err := f.meetBegin(r); err != nil {
		return err
	}
	f.progress.twoPhase.clear()
	f.tx = openTransaction{state: skipped, xid: r.XID, commit: r.CommitLSN}
	if r.CommitLSN < f.position {
		return nil
	}
	return f.open(r.XID, r.CommitLSN)
}

// takeCommit takes the commit of the open transaction.
func (f *follower) takeCommit(ctx context.Context, r *format.Commit) error {
	if err := f.meet(progress.Transaction{XID: f.tx.xid, CommitLSN: r.CommitLSN, EndLSN: r.EndLSN, Time: r.Time}); err != nil {
		return err
	}
	f.progress.seen = r.EndLSN
	if f.tx.state != skipped {
		return f.committed(ctx, f.tx.xid, r.CommitLSN, r.EndLSN, r.Time)
	}
	if r.EndLSN > f.position {
		return f.refuse(ctx, fault.New(fault.Data,
			"the transaction with commit LSN %v and end LSN %v overlaps the target's applied LSN %v",
			r.CommitLSN, r.EndLSN, f.position))
	}
	f.tx = openTransaction{}
	return nil
}

// takeProgress takes a progress record: the stream has every change up to the record's LSN.
func (f *follower) takeProgress(r *format.Progress) error {
	if err := f.meetPosition(r.LSN); err != nil {
		return err
	}
	f.progress.seen = max(f.progress.seen, r.LSN)
	if r.LSN < f.position {
		return nil
	}
	f.position = r.LSN
	f.cur.Progress(r.LSN, r.Time)
	return f.offer()
}

// takeDDL takes a recorded statement.
func (f *follower) takeDDL(ctx context.Context, r *format.DDL) error {
	if f.tx.state == skipped {
		f.progress.keep(r)
		return nil
	}
	if err := write.Alterable(r); err != nil {
		return f.refuse(ctx, err)
	}
	if done, err := f.included(ctx, r); err != nil {
		return f.refuse(ctx, err)
	} else if done {
		f.progress.keep(r)
		return nil
	}
	if err := f.renamed(r); err != nil && !f.cur.Skip {
		return f.refuse(ctx, err)
	}
	return f.alter(r)
}

// open begins a transaction to apply. A transaction to skip gets its own group.
func (f *follower) open(xid uint32, commit format.LSN) error {
	f.tx = openTransaction{state: taken, xid: xid, commit: commit}
	if slices.Contains(f.SkipLSN, commit) {
		if err := f.settle(); err != nil {
			return err
		}
		f.cur.Skip = true
		f.Log.Warn(fmt.Sprintf("skipping the transaction with commit LSN %v; its changes are in pgsluice.conflicts", commit))
	}
	f.cur.Begin(commit)
	return nil
}

// committed completes the open transaction.
func (f *follower) committed(ctx context.Context, xid uint32, commit, end format.LSN, at format.Time) error {
	f.cur.Commit(xid, commit, end, at)
	altered := f.tx.altered
	f.tx = openTransaction{}
	f.position = end
	switch {
	case f.cur.Skip || altered:
		if err := f.settle(); err != nil || !altered {
			return err
		}
		return f.seeAltered(ctx)
	case f.expired():
		return errGiveUp
	}
	return f.offer()
}

// table returns the target table for changes of a relation, or nil if the change must be skipped.
func (f *follower) table(ctx context.Context, id uint32) (*plan.Table, error) {
	if f.tx.state == skipped {
		return nil, nil
	}
	t := f.tables[id]
	switch {
	case t.Snapshot > f.tx.commit:
		return nil, nil // the loaded rows include this transaction
	case t.Problem != nil:
		return nil, f.stuck(ctx, t)
	}
	return t, nil
}

func (f *follower) truncate(ctx context.Context, r *format.Truncate) error {
	op := &plan.TruncateOp{RestartIdentity: r.RestartIdentity}
	var left []uint32
	for _, id := range r.Relations {
		t, err := f.table(ctx, id)
		if err != nil {
			return err
		}
		if t != nil {
			op.Tables = append(op.Tables, t)
		} else {
			left = append(left, id)
		}
	}
	if len(left) > 0 {
		f.progress.keep(&format.Truncate{Relations: left, RestartIdentity: r.RestartIdentity})
	}
	if len(op.Tables) > 0 {
		f.cur.AddTruncate(op)
	}
	return nil
}
