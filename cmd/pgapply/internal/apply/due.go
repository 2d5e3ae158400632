package apply

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgsluice/pgsluice/format"
)

// A commit of a spilled transaction waits for those that follow it, so that one query reads the
// pieces of many transactions back. It waits while the stream brings only blocks and further
// commits: whatever else depends on the order of commits calls catchUp first, and so does a pause
// of the input.

const (
	// mostDue limits how many commits wait.
	mostDue = 1000
	// mostDueBytes limits what one query reads back. A larger transaction is read piece by piece.
	mostDueBytes = 1 << 20
	// mostGone limits of how many transactions pieces stay that are of no use any more.
	mostGone = 100000
	// mostGoneBytes limits the size of such pieces.
	mostGoneBytes = 64 << 20
	// sweepEvery is how often such pieces are removed when the input pauses.
	sweepEvery = time.Second
)

// due has the commits that wait, in order.
type due struct {
	commits []dueCommit
	size    int // bytes of their pieces and logs
}

type dueCommit struct {
	*transaction
	record format.StreamCommit
}

// takeStreamCommit takes the commit of a transaction in progress.
func (p *inProgress) takeStreamCommit(ctx context.Context, r *format.StreamCommit) error {
	t := p.live[r.XID]
	size := t.bytes + t.log.Size()
	if t.ahead || size > mostDueBytes || !t.spilled && len(p.due.commits) == 0 {
		if err := p.catchUp(ctx); err != nil {
			return err
		}
		return p.commit(ctx, t, r)
	}
	delete(p.live, t.xid)
	if t.spilled { // another transaction may get the XID before the pieces are read
		p.gone[t.xid] = true
	}
	p.due.commits = append(p.due.commits, dueCommit{t, *r})
	if p.due.size += size; p.due.size < mostDueBytes && len(p.due.commits) < mostDue {
		return nil
	}
	return p.catchUp(ctx)
}

// add adds a transaction in progress. If an earlier one had the same XID, its pieces are removed.
func (p *inProgress) add(ctx context.Context, t *transaction) error {
	p.live[t.xid] = t
	if !p.gone[t.xid] {
		return nil
	}
	return p.sweep(ctx)
}

// catchUp commits what waits.
func (p *inProgress) catchUp(ctx context.Context) error {
	commits := p.due.commits
	if len(commits) == 0 {
		return nil
	}
	p.due = due{}
	if err := p.readDue(ctx, commits); err != nil {
		return err
	}
	for i := range commits {
		if err := p.commit(ctx, commits[i].transaction, &commits[i].record); err != nil {
			return err
		}
	}
	return nil
}

// readDue reads the spilled pieces of transactions back, in one round trip.
func (p *inProgress) readDue(ctx context.Context, commits []dueCommit) error {
	var spilled []*transaction
	var xids []int64
	for _, c := range commits {
		if c.spilled {
			spilled = append(spilled, c.transaction)
			xids = append(xids, int64(c.xid))
		}
	}
	if len(xids) == 0 {
		return nil
	}
	if p.spilling {
		if err := p.await(); err != nil {
			return err
		}
		p.spilling = false
	}
	// The subquery cannot be merged with the rest, so each transaction is an index scan: the
	// planner has no statistics. The mode makes it plan for the size that the table has now.
	rows, err := p.control.Query(ctx, `SELECT x.n, s.data FROM pg_catalog.unnest($2::bigint[]) WITH ORDINALITY x (xid, n),
		LATERAL (SELECT piece, data FROM pgsluice.spill WHERE stream_id = $1 AND xid = x.xid OFFSET 0) s ORDER BY x.n, s.piece`,
		pgx.QueryExecModeExec, p.stream.ID, xids)
	if err != nil {
		return p.Server.Explain(err)
	}
	var n int64
	var piece pgtype.DriverBytes
	_, err = pgx.ForEachRow(rows, []any{&n, &piece}, func() error {
		t := spilled[n-1]
		t.pieces = append(t.pieces, slices.Clone(piece))
		return nil
	})
	for _, t := range spilled {
		t.read = true
	}
	return p.Server.Explain(err)
}

// readBack calls do with what was spilled of a transaction.
func (p *inProgress) readBack(ctx context.Context, t *transaction, do func(piece []byte, lent bool) error) error {
	if !t.ahead && !t.spilled { // the writer does not use the transaction
		return nil
	}
	j := &joiner{do: do}
	if t.read {
		for _, piece := range t.pieces {
			if err := j.add(piece); err != nil {
				return err
			}
		}
		return nil
	}
	if err := p.await(); err != nil || !t.spilled { // the writer may be spilling a piece
		return err
	}
	rows, err := p.control.Query(ctx, "SELECT data FROM pgsluice.spill WHERE stream_id = $1 AND xid = $2 ORDER BY piece",
		p.stream.ID, int64(t.xid))
	if err != nil {
		return p.Server.Explain(err)
	}
	var piece pgtype.DriverBytes
	var failed error
	_, err = pgx.ForEachRow(rows, []any{&piece}, func() error {
		failed = j.add(piece)
		return failed
	})
	if failed != nil {
		return failed
	}
	return p.Server.Explain(err)
}

// pause catches up while there is nothing to read.
func (p *inProgress) pause(ctx context.Context) error {
	if err := p.catchUp(ctx); err != nil || len(p.gone) == 0 || time.Since(p.swept) < sweepEvery {
		return err
	}
	return p.sweep(ctx)
}

// sweep removes the pieces that are of no use any more.
func (p *inProgress) sweep(ctx context.Context) error {
	if err := p.catchUp(ctx); err != nil || len(p.gone) == 0 {
		return err
	}
	if err := p.await(); err != nil { // the writer may be spilling a piece
		return err
	}
	xids := make([]int64, 0, len(p.gone))
	for xid := range p.gone {
		xids = append(xids, int64(xid))
	}
	clear(p.gone)
	p.goneBytes, p.swept = 0, time.Now()
	if len(p.live) == 0 {
		return p.clear(ctx)
	}
	_, err := p.control.Exec(ctx, `DELETE FROM pgsluice.spill WHERE ctid = ANY (ARRAY(SELECT s.ctid FROM pg_catalog.unnest($2::bigint[]) x (xid),
		LATERAL (SELECT ctid FROM pgsluice.spill WHERE stream_id = $1 AND xid = x.xid OFFSET 0) s))`,
		pgx.QueryExecModeExec, p.stream.ID, xids)
	return p.Server.Explain(err)
}
