package write

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/format"
)

// A lane is a session that writes changes. It may have one open transaction, which it writes in
// pieces.
type lane struct {
	s     *session
	list  []int32
	bad   error // why the batch cannot be written, such as a value that no array can carry
	order []keyed

	// skipLocked is true while another session of pgapply may have locked one of several equal rows
	// of a table without a key.
	skipLocked bool

	onConflict string        // StopOnConflict, Skip or Overwrite
	stream     int32         // the stream's id, for rows in schema pgsluice
	slot       string        // for messages
	conflicts  *atomic.Int64 // how many changes were recorded
	loaded     format.LSN    // the newest snapshot that a table was loaded from
	log        *slog.Logger

	open bool
	subs []subtransaction // of the open transaction; the first one stands for the transaction
	// tables whose deferrable unique keys are checked when the transaction is complete
	whole map[*plan.Table]bool

	// Other people's code has run in the session, so it is replaced when the transaction ends.
	tainted bool
}

// A subtransaction is what was written in the open transaction since its beginning, or since the
// savepoint of a subtransaction, and before the next savepoint.
type subtransaction struct {
	xid     uint32 // 0: the transaction itself
	changes uint64
	counts  map[*plan.Table]*plan.Counts
}

// savepoint returns the name of a subtransaction's savepoint.
func savepoint(sub uint32) string { return "pgsluice_" + strconv.FormatUint(uint64(sub), 10) }

// ways returns the ways to write a group in one round trip, in the order to try them.
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
	l.subs, l.whole = append(l.subs[:0], subtransaction{}), make(map[*plan.Table]bool)
	return nil
}

// piece writes a group of a transaction that continues, without committing it. If the target
// refuses the group, the transaction is as it was before.
func (l *lane) piece(ctx context.Context, g *plan.Group) (refused, err error) {
	if err := l.begin(ctx); err != nil {
		return nil, err
	}
	if g.Len() == 0 {
		return nil, nil
	}
	for _, how := range l.ways(g) {
		b := l.s.conn.Batch(ctx)
		b.Do("SAVEPOINT pgsluice")
		how(b, g)
		if !hasSavepoints(g) { // releasing it would release them
			b.Do("RELEASE SAVEPOINT pgsluice")
		}
		r, err := l.run(b)
		if err != nil {
			return nil, err
		}
		if refused = r.Err; refused == nil {
			l.written(g)
			return nil, nil
		}
		if err := l.undo(ctx, "ROLLBACK TO SAVEPOINT pgsluice"); err != nil {
			return nil, err
		}
	}
	return refused, nil
}

// flush is piece for a transaction that has committed on the source. It returns a refusal as an
// error that names the change. The transaction has then failed.
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
	l.written(g)
	return nil
}

// written counts the changes of a piece, for each of its subtransactions.
func (l *lane) written(g *plan.Group) {
	if g.Skip {
		return
	}
	if !hasSavepoints(g) {
		sub := &l.subs[len(l.subs)-1]
		sub.changes += uint64(g.Len())
		for t, n := range g.Counts {
			sub.count(t, *n)
		}
	} else {
		for i := range int32(g.Len()) {
			if op, _ := g.Op(i); op.Kind == plan.OpSavepoint {
				l.subs = append(l.subs, subtransaction{xid: uint32(op.New)})
				continue
			}
			sub := &l.subs[len(l.subs)-1]
			sub.changes++
			countOp(g, i, sub.count)
		}
	}
	for t := range g.Counts {
		if len(t.Deferrable) > 0 {
			l.whole[t] = true
		}
	}
}

func hasSavepoints(g *plan.Group) bool {
	for _, step := range g.Steps() {
		for _, i := range step.Ops {
			if op, _ := g.Op(i); op.Kind == plan.OpSavepoint {
				return true
			}
		}
	}
	return false
}

func (s *subtransaction) count(t *plan.Table, n plan.Counts) {
	if s.counts == nil {
		s.counts = make(map[*plan.Table]*plan.Counts)
	}
	if s.counts[t] == nil {
		s.counts[t] = new(plan.Counts)
	}
	s.counts[t].Add(&n, 1)
}

// writeWholeChecks looks for duplicates in the deferrable unique keys of all tables that the open
// transaction has changed.
func (l *lane) writeWholeChecks(b *pgwire.Batch) {
	for t := range l.whole {
		for _, k := range t.Deferrable {
			b.Do(t.CheckUniqueWhole(k))
		}
	}
}

// closed resets the lane after its open transaction has ended.
func (l *lane) closed() {
	l.open, l.whole, l.subs = false, nil, nil
}

// rollback rolls back the open transaction, if there is one.
func (l *lane) rollback(ctx context.Context) error {
	if !l.open {
		return nil
	}
	l.closed()
	return l.undo(ctx, "ROLLBACK")
}

// rollbackTo undoes a subtransaction if any of it was written. This also removes the savepoints
// that were set after its own, and forgets what was counted since.
func (l *lane) rollbackTo(ctx context.Context, sub uint32) error {
	i := slices.IndexFunc(l.subs, func(s subtransaction) bool { return s.xid == sub })
	if i < 0 {
		return nil
	}
	l.subs = l.subs[:i]
	return l.s.exec(ctx, "ROLLBACK TO SAVEPOINT "+savepoint(sub))
}

// run sends a batch. The result holds a statement's error.
func (l *lane) run(b *pgwire.Batch) (*pgwire.Result, error) {
	r, err := b.Run()
	if err != nil {
		return nil, l.s.server.Explain(err)
	}
	if l.bad != nil {
		r.Err, l.bad = l.bad, nil
	}
	return r, nil
}

// undo rolls back a refused batch. It forgets all prepared statements, because it does not know
// which ones the server has prepared.
func (l *lane) undo(ctx context.Context, sql string) error {
	if err := l.s.exec(ctx, sql); err != nil {
		return err
	}
	return l.s.forget(ctx)
}
