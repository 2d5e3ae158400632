package write

import (
	"context"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
)

// A lane is a session that changes are written on. It may have one open transaction, which is
// written in pieces.
type lane struct {
	s     *session
	list  []int32
	bad   error // a value that no array can carry
	order []keyed

	// skipLocked is true while others of our sessions may have locked one of several equal rows of
	// a table without a key.
	skipLocked bool

	onConflict string        // StopOnConflict, Skip or Overwrite
	stream     int32         // the stream's id, for what is recorded
	conflicts  *atomic.Int64 // how many changes were recorded

	open    bool
	flushed uint64 // changes of the open transaction so far
	counts  map[*plan.Table]*plan.Counts
	// has deferrable unique keys that are to be checked when the transaction is complete
	whole map[*plan.Table]bool
	subs  []uint32 // subtransactions whose savepoints are set, in order

	// code of others has run in the session: it is renewed when the transaction has ended
	tainted bool
}

// savepoint names the savepoint of a subtransaction.
func savepoint(sub uint32) string { return "pgsluice_" + strconv.FormatUint(uint64(sub), 10) }

// ways are the two ways to write a group in one round trip.
func (l *lane) ways(g *plan.Group) []func(*pgwire.Batch, *plan.Group) {
	if g.Skip {
		return []func(*pgwire.Batch, *plan.Group){l.writeSkipped}
	}
	return []func(*pgwire.Batch, *plan.Group){l.writeFolded, l.writeSingly}
}

// begin opens a transaction if none is open.
func (l *lane) begin(ctx context.Context) error {
	if l.open {
		return nil
	}
	if err := l.s.exec(ctx, "BEGIN"); err != nil {
		return err
	}
	l.open = true
	l.counts, l.whole = make(map[*plan.Table]*plan.Counts), make(map[*plan.Table]bool)
	return nil
}

// piece writes what has been folded of a transaction that goes on, without committing it. If the
// target refuses that, the transaction is as it was before.
func (l *lane) piece(ctx context.Context, g *plan.Group) (refused, err error) {
	if err := l.begin(ctx); err != nil {
		return nil, err
	}
	if g.Len() == 0 {
		return nil, nil
	}
	var subs []uint32
	for _, step := range g.Steps() {
		for _, i := range step.Ops {
			if op, _ := g.Op(i); op.Kind == plan.OpSavepoint {
				subs = append(subs, uint32(op.New))
			}
		}
	}
	for _, how := range l.ways(g) {
		b := l.s.conn.Batch(ctx)
		b.Do("SAVEPOINT pgsluice")
		how(b, g)
		if len(subs) == 0 { // they would be released with it
			b.Do("RELEASE SAVEPOINT pgsluice")
		}
		r, err := l.run(b)
		if err != nil {
			return nil, err
		}
		if refused = r.Err; refused == nil {
			l.subs = append(l.subs, subs...)
			l.written(g, len(subs))
			return nil, nil
		}
		if err := l.undo(ctx, "ROLLBACK TO SAVEPOINT pgsluice"); err != nil {
			return nil, err
		}
	}
	return refused, nil
}

// flush is piece for a transaction that has committed on the source: a refusal is the error, which
// names the change. The transaction has then failed.
func (l *lane) flush(ctx context.Context, g *plan.Group) error {
	if recorded(g) {
		return l.alter(ctx, g)
	}
	refused, err := l.piece(ctx, g)
	if err != nil || refused == nil {
		return err
	}
	if err := l.careful(ctx, g, 0, int32(g.Len())); err != nil {
		return err
	}
	l.written(g, 0)
	return nil
}

// written counts a piece.
func (l *lane) written(g *plan.Group, savepoints int) {
	if g.Skip {
		return
	}
	l.flushed += uint64(g.Len() - savepoints)
	for t, n := range g.Counts {
		if l.counts[t] == nil {
			l.counts[t] = new(plan.Counts)
		}
		l.counts[t].Add(n, 1)
		if len(t.Deferrable) > 0 {
			l.whole[t] = true
		}
	}
}

// writeWholeChecks looks for equal rows in the deferrable unique keys of all tables that the open
// transaction has changed.
func (l *lane) writeWholeChecks(b *pgwire.Batch) {
	for t := range l.whole {
		for _, k := range t.Deferrable {
			b.Do(t.CheckUniqueWhole(k))
		}
	}
}

// closed notes that the open transaction has come to its end.
func (l *lane) closed() {
	l.open, l.flushed, l.counts, l.whole, l.subs = false, 0, nil, nil, l.subs[:0]
}

// rollback ends the open transaction, if there is one.
func (l *lane) rollback(ctx context.Context) error {
	if !l.open {
		return nil
	}
	l.closed()
	return l.undo(ctx, "ROLLBACK")
}

// rollbackTo undoes a subtransaction, if anything of it was written. Savepoints that were set after
// its own go with it.
func (l *lane) rollbackTo(ctx context.Context, sub uint32) error {
	i := slices.Index(l.subs, sub)
	if i < 0 {
		return nil
	}
	l.subs = l.subs[:i]
	return l.s.exec(ctx, "ROLLBACK TO SAVEPOINT "+savepoint(sub))
}

// run sends a batch; a statement's error is in the result.
func (l *lane) run(b *pgwire.Batch) (*pgwire.Result, error) {
	if l.bad != nil {
		b.Do("SELECT 1 OPERATOR(pg_catalog./) 0")
	}
	r, err := b.Run()
	if err != nil {
		return nil, l.s.server.Explain(err)
	}
	if l.bad != nil {
		r.Err, l.bad = l.bad, nil
	}
	return r, nil
}

// undo rolls a refused batch back. It is not known which statements the server has prepared, so all
// are forgotten.
func (l *lane) undo(ctx context.Context, sql string) error {
	if err := l.s.exec(ctx, sql); err != nil {
		return err
	}
	return l.s.forget(ctx)
}
