package apply

import (
	"context"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/format"
)

// twoPhase tracks prepared transactions. A prepared transaction is in progress from its prepare
// until its commit-prepared or rollback-prepared, however it was sent. A transaction between begin
// and prepare looks like an ordinary one until the prepare arrives. So twoPhase keeps the changes
// of such a transaction that would be skipped, until the transaction's end arrives: a transaction
// that was prepared before the position, or before a table's snapshot, may be committed after it.
type twoPhase struct {
	gids map[string]*transaction
	kept plan.Log // skipped changes of the open transaction
	lost bool     // the skipped changes were too large to keep
}

// maxKept limits the size of kept changes, in bytes.
const maxKept = 4 << 20

// keep keeps a change that would be skipped.
func (p *inProgress) keep(rec format.Record) {
	k := &p.twoPhase
	if k.kept.Len() > maxKept || p.huge {
		k.lost = true
		k.kept.Clear()
	}
	if k.lost {
		return
	}
	switch r := rec.(type) {
	case *format.Insert:
		k.kept.Insert(p.tx.xid, p.tables[r.Relation], r.New)
	case *format.Update:
		k.kept.Update(p.tx.xid, p.tables[r.Relation], r.Old, r.New)
	case *format.Delete:
		k.kept.Delete(p.tx.xid, p.tables[r.Relation], r.Old)
	case *format.Truncate:
		op := &plan.TruncateOp{RestartIdentity: r.RestartIdentity}
		for _, id := range r.Relations {
			op.Tables = append(op.Tables, p.tables[id])
		}
		k.kept.Truncate(p.tx.xid, op)
	case *format.DDL:
		k.kept.DDL(p.tx.xid, r)
	}
}

func (k *twoPhase) clear() {
	k.kept.Clear()
	k.lost = false
}

// prepare takes the end of a transaction that a later record commits or rolls back.
func (p *inProgress) prepare(ctx context.Context, r *format.Prepare) error {
	if p.gids == nil {
		p.gids = make(map[string]*transaction)
	}
	gid := string(r.GID)
	if p.gids[gid] != nil {
		return p.refuse(ctx, fault.New(fault.Data, "transaction %q is prepared twice", gid))
	}
	t := p.live[r.XID]
	if p.tx.state != closed {
		if t != nil {
			return p.refuse(ctx, fault.New(fault.Data, "transaction %d is both prepared and in progress", r.XID))
		}
		t = &transaction{xid: r.XID}
		if err := p.add(ctx, t); err != nil {
			return err
		}
		if err := p.setAside(ctx, t); err != nil {
			return err
		}
	}
	t.prepared.gid, t.prepared.lsn = gid, r.PrepareLSN
	p.gids[gid] = t
	return nil
}

// setAside turns the open transaction into one in progress.
func (p *inProgress) setAside(ctx context.Context, t *transaction) error {
	f := p.follower
	t.prepared.lost = p.lost
	if !p.lost {
		t.log.Append(&p.kept)
	}
	p.twoPhase.clear()
	t.prepared.skip = f.cur.Skip
	switch f.tx.state {
	case skipped:
	case inPart:
		if err := p.settle(); err != nil {
			return err
		}
		if err := f.flush(); err != nil {
			return err
		}
		if err := p.do(func(ctx context.Context, _ *plan.Group) error { return p.applier.SetAside(ctx, t.xid) }); err != nil {
			return err
		}
		if err := p.await(); err != nil {
			return err
		}
		t.ahead, t.prepared.altered = true, f.tx.altered
		p.ahead++
	default:
		t.log.Open(t.xid, f.cur)
	}
	f.cur.Begin(0)
	f.cur.Rollback()
	f.cur.Skip = false
	f.tx = openTransaction{}
	p.size += t.log.Size()
	p.block = t
	defer func() { p.block = nil }()
	return p.logged(ctx, t.log.Size())
}

// commitPrepared commits a prepared transaction.
func (p *inProgress) commitPrepared(ctx context.Context, r *format.CommitPrepared) error {
	t := p.gids[string(r.GID)]
	delete(p.gids, string(r.GID))
	switch {
	case t == nil && r.EndLSN <= p.position:
		p.seen = r.EndLSN
		return p.meet(progress.Transaction{XID: r.XID, CommitLSN: r.CommitLSN, EndLSN: r.EndLSN, Time: r.Time})
	case t == nil:
		return p.refuse(ctx, fault.New(fault.Data, "prepared transaction %q is committed, but was not prepared in this stream", r.GID))
	case t.prepared.lost && r.EndLSN > p.position:
		return p.refuse(ctx, fault.New(fault.Failed,
			"cannot apply prepared transaction %q: it was prepared before the target's applied LSN %v, committed after it, and is too large to keep",
			r.GID, p.position).
			WithHint("Let the program that writes the stream send it in blocks (stream-start), or as an ordinary transaction when it commits."))
	case t.prepared.skip && t.ahead: // its changes are in pgsluice.conflicts already
	case t.prepared.skip:
		p.SkipLSN = append(p.SkipLSN, r.CommitLSN)
	}
	return p.takeStreamCommit(ctx, &format.StreamCommit{XID: t.xid, CommitLSN: r.CommitLSN, EndLSN: r.EndLSN, Time: r.Time})
}

func (p *inProgress) rollbackPrepared(ctx context.Context, r *format.RollbackPrepared) error {
	t := p.gids[string(r.GID)]
	delete(p.gids, string(r.GID))
	if t == nil { // it was rolled back before it reached this stream
		return nil
	}
	return p.forget(ctx, t)
}
