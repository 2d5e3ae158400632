package apply

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/write"
	"github.com/pgsluice/pgsluice/format"
)

// inProgress keeps the transactions that the stream carries in blocks, before it is known whether
// they commit. Small transactions stay in memory. A large transaction is written to the target
// ahead of its commit, on its own session. If that is not possible, the transaction is spilled to a
// table on the target, and read back when it commits.
type inProgress struct {
	*follower
	twoPhase
	live   map[uint32]*transaction
	block  *transaction // the transaction whose block is open
	size   int          // bytes in all logs
	ahead  int          // number of transactions written ahead
	replay plan.Replay
	// again has the tables that were looked up again because the open transaction changed the
	// schema.
	again map[*plan.Table]*plan.Table
	due   due
	// spilling is set while the writer may be spilling a piece of a transaction that is not ahead.
	spilling bool
	// gone has the transactions whose spilled pieces are of no use any more.
	gone      map[uint32]bool
	goneBytes int
	swept     time.Time // when such pieces were last removed
	// early has the relations that were looked up within a block, before its schema changes.
	early map[uint32]bool

	seen     format.LSN // how far the stream has been read; later commits have higher commit LSNs
	snapshot format.LSN // the newest LSN at which a table was loaded
}

// A transaction is a transaction in progress on the source.
type transaction struct {
	xid      uint32
	log      plan.Log
	aborted  map[uint32]bool // subtransactions that were rolled back
	subs     map[uint32]bool // subtransactions that have a savepoint
	prepared preparation

	ahead   bool // a part of it is written
	held    bool // no more of it is written ahead; the writer sets this
	spilled bool // pieces of it are spilled
	bytes   int  // size of the pieces that may be spilled
	read    bool // pieces has all that was spilled
	pieces  [][]byte
}

// A preparation is what is known about a prepared transaction.
type preparation struct {
	gid     string // empty: not prepared
	lsn     format.LSN
	lost    bool // its skipped changes were not kept
	skip    bool // record the transaction instead of applying it
	altered bool // the part that is written ahead changes the schema
}

// errHold means that a piece cannot be written ahead.
var errHold = errors.New("to be held until the commit")

const (
	// pieceSize is the size at which a transaction's log is written.
	pieceSize = 1 << 20
	// maxLogs limits the logs of all transactions in progress together.
	maxLogs = 8 << 20
)

func (p *inProgress) start(ctx context.Context, f *follower) error {
	*p = inProgress{follower: f, live: make(map[uint32]*transaction),
		again: make(map[*plan.Table]*plan.Table), early: make(map[uint32]bool), gone: make(map[uint32]bool)}
	for _, lsn := range f.snapshots {
		p.snapshot = max(p.snapshot, lsn)
	}
	return p.clear(ctx)
}

// record takes a record that is in a block, or that concerns transactions in progress.
func (p *inProgress) record(ctx context.Context, rec format.Record) error {
	switch r := rec.(type) {
	case *format.Insert, *format.Update, *format.Delete:
		if p.huge {
			return p.alone(ctx, rec)
		}
		before := p.block.log.Size()
		logChange(&p.block.log, rec, p.tables)
		return p.logged(ctx, before)
	case *format.Truncate:
		op := &plan.TruncateOp{RestartIdentity: r.RestartIdentity}
		for _, id := range r.Relations {
			op.Tables = append(op.Tables, p.tables[id])
		}
		before := p.block.log.Size()
		p.block.log.Truncate(r.XID, op)
		return p.logged(ctx, before)
	case *format.Relation:
		if err := p.catchUp(ctx); err != nil {
			return err
		}
		p.early[r.ID] = true
		return p.relation(ctx, r)
	case *format.StreamStart:
		if t := p.live[r.XID]; t != nil && t.prepared.gid != "" {
			return p.refuse(ctx, fault.New(fault.Data, "transaction %d has a block after it was prepared", r.XID))
		}
		if p.live[r.XID] == nil {
			if err := p.add(ctx, &transaction{xid: r.XID}); err != nil {
				return err
			}
		}
		p.block = p.live[r.XID]
	case *format.StreamStop:
		p.block = nil
	case *format.StreamCommit:
		return p.takeStreamCommit(ctx, r)
	case *format.StreamAbort:
		return p.abort(ctx, r)
	case *format.DDL:
		if err := write.Alterable(r); err != nil {
			return p.refuse(ctx, err)
		}
		before := p.block.log.Size()
		p.block.log.DDL(r.XID, r)
		return p.logged(ctx, before)
	case *format.Prepare:
		return p.prepare(ctx, r)
	case *format.CommitPrepared:
		return p.commitPrepared(ctx, r)
	case *format.RollbackPrepared:
		return p.rollbackPrepared(ctx, r)
	case *format.Message:
	case *format.Unknown:
		p.heard(r)
	default:
		return fault.New(fault.Data, "cannot apply a %v record", rec.Kind())
	}
	return nil
}

// logged writes or spills logs that have become too large.
func (p *inProgress) logged(ctx context.Context, before int) error {
	p.size += p.block.log.Size() - before
	if p.block.log.Size() >= pieceSize {
		if err := p.catchUp(ctx); err != nil {
			return err
		}
		if p.block.ahead || p.mayAhead() {
			return p.write(p.block)
		}
	}
	if p.size < maxLogs {
		return nil
	}
	if err := p.catchUp(ctx); err != nil {
		return err
	}
	var pieces []write.Piece
	for _, t := range slices.SortedFunc(maps.Values(p.live),
		func(a, b *transaction) int { return cmp.Compare(b.log.Size(), a.log.Size()) }) {
		switch {
		case p.size < maxLogs/2:
		case t.ahead:
			if err := p.write(t); err != nil {
				return err
			}
		case t.log.Size() > 0:
			pieces = append(pieces, p.putAway(t))
		}
	}
	if len(pieces) == 0 {
		return nil
	}
	return p.do(func(ctx context.Context, _ *plan.Group) error { return p.applier.Spill(ctx, pieces...) })
}

func (p *inProgress) unlog(t *transaction) []byte {
	p.size -= t.log.Size()
	return t.log.Take()
}

// mayAhead reports whether another transaction may be written ahead. It must be certain that the
// transaction's changes are not on the target yet, not in a table's snapshot, and not to be
// skipped.
func (p *inProgress) mayAhead() bool {
	return p.stream.Ahead && !p.stream.Citus && len(p.SkipLSN) == 0 && p.ahead < write.MaxAhead && !p.block.spilled &&
		p.seen >= p.position && p.seen >= p.snapshot
}

// write writes a transaction's log ahead of its commit. Everything that committed before is written
// first. If the target refuses a piece, that is not an error yet: a transaction that rolls back on
// the source can arrive with gaps, because the server stops decoding it when it notices the
// rollback. The piece and all later ones are held back until the transaction commits.
func (p *inProgress) write(t *transaction) error {
	if err := p.settle(); err != nil {
		return err
	}
	piece := p.unlog(t)
	t.bytes += len(piece)
	g := p.take()
	err := error(nil)
	if !t.held {
		err = p.savepoints(t, g).Add(g, piece)
	}
	if t.held || err != nil {
		g.Reset()
		p.idle = append(p.idle, g)
		t.held, t.spilled, p.spilling = true, true, true
		return p.do(func(ctx context.Context, _ *plan.Group) error {
			return p.applier.Spill(ctx, write.Piece{XID: t.xid, Data: piece})
		})
	}
	g.Fold()
	if !t.ahead {
		t.ahead = true
		p.ahead++
	}
	return p.send(job{group: g, do: func(ctx context.Context, g *plan.Group) error {
		done, err := p.applier.Ahead(ctx, t.xid, g)
		if err != nil || done {
			return err
		}
		t.held, t.spilled = true, true
		return p.applier.Spill(ctx, write.Piece{XID: t.xid, Data: piece})
	}})
}

// savepoints sets up p.replay to read pieces into a group, with a savepoint where a subtransaction
// begins.
func (p *inProgress) savepoints(t *transaction, g *plan.Group) *plan.Replay {
	p.replay.Sub = func(sub uint32) bool {
		if t.aborted[sub] {
			return false
		}
		if sub != t.xid && !t.subs[sub] {
			if t.subs == nil {
				t.subs = make(map[uint32]bool)
			}
			t.subs[sub] = true
			g.AddSavepoint(sub)
		}
		return true
	}
	p.replay.Table = func(tab *plan.Table) (*plan.Table, error) { return tab, tab.Problem }
	// The tables that follow may have been looked up before this schema change.
	p.replay.DDL = func(*format.DDL) (*plan.Group, error) { return nil, errHold }
	return &p.replay
}

// commit commits a transaction. Everything that committed before has been committed.
func (p *inProgress) commit(ctx context.Context, t *transaction, r *format.StreamCommit) error {
	if err := p.meet(progress.Transaction{XID: r.XID, CommitLSN: r.CommitLSN, EndLSN: r.EndLSN, Time: r.Time}); err != nil {
		return err
	}
	p.seen = r.EndLSN
	if r.EndLSN <= p.position { // it is already applied
		return p.forget(ctx, t)
	}
	if t.ahead && t.prepared.gid != "" && slices.Contains(p.SkipLSN, r.CommitLSN) {
		return p.refuse(ctx, fault.New(fault.Failed,
			"cannot skip the prepared transaction by its commit LSN %v: it is on the target already, ahead of its commit",
			r.CommitLSN).
			WithHint("Name the LSN at which it was prepared: pgapply --skip-lsn %v", t.prepared.lsn))
	}
	var why refusal
	p.whole(ctx, t, r.CommitLSN, &why)
	var err error
	if t.ahead {
		p.tx = openTransaction{state: ahead, xid: t.xid, commit: r.CommitLSN}
		err = p.commitAhead(ctx, t, r)
	} else {
		err = p.commitPieces(ctx, t, r.CommitLSN)
	}
	switch {
	case why.table != nil:
		return p.stuck(ctx, why.table)
	case err != nil && err == why.statement:
		return p.refuse(ctx, err)
	case err != nil:
		return err
	}
	if err := p.forget(ctx, t); err != nil || p.position == r.EndLSN {
		return err
	}
	return p.committed(ctx, r.XID, r.CommitLSN, r.EndLSN, r.Time)
}

// A refusal is why a transaction cannot be applied: a table that cannot take its changes, or the
// error of a statement.
type refusal struct {
	table     *plan.Table
	statement error
}

// whole sets up p.replay to read all pieces of a committed transaction into p.cur.
func (p *inProgress) whole(ctx context.Context, t *transaction, commit format.LSN, why *refusal) {
	clear(p.again)
	p.replay.Sub = func(sub uint32) bool { return !t.aborted[sub] }
	p.replay.Table = func(tab *plan.Table) (_ *plan.Table, err error) {
		if tab.Snapshot > commit {
			return nil, nil
		}
		if p.tx.altered {
			if p.again[tab] == nil {
				if p.again[tab], err = p.mapper.Map(ctx, tab.Relation); err != nil {
					return nil, p.Server.Explain(err)
				}
			}
			tab = p.again[tab]
		}
		if tab.Problem != nil {
			why.table = tab
		}
		return tab, tab.Problem
	}
	p.replay.DDL = func(d *format.DDL) (*plan.Group, error) {
		var done bool
		if done, why.statement = p.included(ctx, d); done || why.statement != nil {
			return p.cur, why.statement
		}
		if why.statement = p.renamed(d); why.statement != nil && !p.cur.Skip {
			return nil, why.statement
		}
		clear(p.again)
		err := p.alter(d)
		return p.cur, err
	}
}

// commitPieces reads the pieces of a transaction that was not written ahead into groups.
func (p *inProgress) commitPieces(ctx context.Context, t *transaction, commit format.LSN) error {
	if err := p.open(t.xid, commit); err != nil {
		return err
	}
	return p.pieces(ctx, t, func(piece []byte, lent bool) error {
		if lent {
			return p.follower.alone(func(g *plan.Group) error { return p.replay.Add(g, piece) })
		}
		if err := p.replay.Add(p.cur, piece); err != nil {
			return err
		}
		return p.room()
	})
}

// commitAhead writes the rest of a transaction that was written ahead, and commits it.
func (p *inProgress) commitAhead(ctx context.Context, t *transaction, r *format.StreamCommit) error {
	if err := p.settle(); err != nil {
		return err
	}
	flush := func() error {
		g := p.cur
		g.Fold()
		p.cur = p.take()
		p.cur.Begin(r.CommitLSN)
		if err := p.send(job{group: g,
			do: func(ctx context.Context, g *plan.Group) error {
				return p.applier.FlushAhead(ctx, t.xid,
					g)
			}}); err != nil {
			return err
		}
		return p.await()
	}
	p.replay.DDL = func(d *format.DDL) (*plan.Group, error) {
		if err := p.renamed(d); err != nil {
			return nil, err
		}
		if err := flush(); err != nil {
			return nil, err
		}
		clear(p.again)
		p.tx.altered = true
		p.cur.AddDDL(d)
		err := flush()
		return p.cur, err
	}
	p.cur.Begin(r.CommitLSN)
	if err := p.pieces(ctx, t, func(piece []byte, lent bool) error {
		p.cur.Lend = lent
		err := p.replay.Add(p.cur, piece)
		p.cur.Lend = false
		if err != nil {
			p.cur.Rollback()
			return err
		}
		return flush()
	}); err != nil {
		return err
	}
	p.cur.Begin(0)
	t.ahead = false
	p.ahead--
	p.position = r.EndLSN
	altered := p.tx.altered || t.prepared.altered
	p.tx = openTransaction{}
	whole := plan.Transaction{XID: t.xid, CommitLSN: r.CommitLSN, EndLSN: r.EndLSN, Time: r.Time}
	if err := p.do(func(ctx context.Context, _ *plan.Group) error {
		return p.applier.CommitAhead(ctx, whole)
	}); err != nil || !altered {
		return err
	}
	return p.seeAltered(ctx)
}

// pieces calls do with everything that is left of a transaction, in order: the spilled pieces, then
// the log.
func (p *inProgress) pieces(ctx context.Context, t *transaction, do func(piece []byte, lent bool) error) error {
	if err := p.readBack(ctx, t, do); err != nil {
		return err
	}
	if t.log.Size() == 0 {
		return nil
	}
	return do(p.unlog(t), false)
}

func (p *inProgress) abort(ctx context.Context, r *format.StreamAbort) error {
	t := p.live[r.XID]
	if r.SubXID == r.XID {
		return p.forget(ctx, t)
	}
	if t.aborted == nil {
		t.aborted = make(map[uint32]bool)
	}
	t.aborted[r.SubXID] = true
	if !t.subs[r.SubXID] {
		return nil
	}
	return p.do(func(ctx context.Context, _ *plan.Group) error { return p.applier.AbortAhead(ctx, r.XID, r.SubXID) })
}

// forget removes what is left of a transaction.
func (p *inProgress) forget(ctx context.Context, t *transaction) error {
	if p.live[t.xid] == t {
		delete(p.live, t.xid)
	}
	p.unlog(t)
	t.pieces = nil
	if t.ahead {
		p.ahead--
		if err := p.do(func(ctx context.Context, _ *plan.Group) error { return p.applier.AbortAhead(ctx, t.xid, t.xid) }); err != nil {
			return err
		}
		if err := p.await(); err != nil { // the writer may be spilling a piece
			return err
		}
	}
	if !t.spilled {
		return nil
	}
	p.gone[t.xid] = true
	if p.goneBytes += t.bytes; len(p.gone) < mostGone && p.goneBytes < mostGoneBytes {
		return nil
	}
	return p.sweep(ctx)
}

// drop forgets all transactions in progress, and reports whether any of them was written ahead.
func (p *inProgress) drop(ctx context.Context) (written bool, err error) {
	if err := p.await(); err != nil { // the writer may be spilling a piece
		return false, err
	}
	spilled := len(p.gone) > 0
	for _, t := range p.live {
		spilled = spilled || t.spilled
	}
	written = p.ahead > 0
	p.live, p.block, p.size, p.ahead = make(map[uint32]*transaction), nil, 0, 0
	p.due = due{}
	clear(p.gone)
	clear(p.gids)
	p.twoPhase.clear()
	if spilled {
		err = p.clear(ctx)
	}
	return written, err
}

// clear removes what an earlier run or an earlier stream spilled.
func (p *inProgress) clear(ctx context.Context) error {
	_, err := p.control.Exec(ctx, "DELETE FROM pgsluice.spill WHERE stream_id = $1", p.stream.ID)
	return p.Server.Explain(err)
}
