package write

import (
	"context"
	"strconv"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
)

// countEvery is how often the table counters are written. They are for people; a crash loses the
// counts since the last write.
const countEvery = time.Second

// count adds a group's changes to the pending counts, or subtracts them if sign is negative.
func (a *Applier) count(g *plan.Group, sign int64) {
	if g.Skip {
		return
	}
	for t, n := range g.Counts {
		a.countTable(t, n, sign)
	}
}

func (a *Applier) countTable(t *plan.Table, n *plan.Counts, sign int64) {
	if a.counting[t] == nil {
		a.counting[t] = new(plan.Counts)
	}
	a.counting[t].Add(n, sign)
}

func (a *Applier) writeCounts(b *pgwire.Batch, s *session) {
	if len(a.counting) == 0 {
		return
	}
	var text [4][]string
	var nums [4][]uint64
	// A table that the stream has described again has two plan.Tables, but one row on the target.
	at := make(map[string]int)
	for t, c := range a.counting {
		n, ok := at[t.QualifiedName()]
		if !ok {
			n = len(at)
			at[t.QualifiedName()] = n
			for i, s := range []string{t.Schema, t.Name, t.Relation.Schema, t.Relation.Name} {
				text[i] = append(text[i], s)
				nums[i] = append(nums[i], 0)
			}
		}
		for i, x := range []uint64{c.Inserts, c.Updates, c.Deletes, c.Truncates} {
			nums[i][n] += x
		}
	}
	b.Bind(s.name(b, progress.Count), 9, func(i int) bool { return i > 0 })
	b.String(strconv.Itoa(int(a.stream.ID)))
	for _, l := range text {
		b.Array(25)
		for _, s := range l {
			b.Elem([]byte(s))
		}
		b.CloseArray()
	}
	for _, l := range nums {
		b.Array(20)
		for _, n := range l {
			b.IntElem(int64(n), 8)
		}
		b.CloseArray()
	}
	b.Execute()
}

// countLane is count for what was written in a lane's open transaction.
func (a *Applier) countLane(l *lane, sign int64) {
	for _, sub := range l.subs {
		for t, n := range sub.counts {
			a.countTable(t, n, sign)
		}
	}
}

// countRange counts changes first to next-1 of a group.
func (a *Applier) countRange(g *plan.Group, first, next int32) {
	if g.Skip {
		return
	}
	for i := first; i < next; i++ {
		countOp(g, i, func(t *plan.Table, n plan.Counts) { a.countTable(t, &n, 1) })
	}
}

// countOp calls count for each table that a change of a group changes.
func countOp(g *plan.Group, i int32, count func(*plan.Table, plan.Counts)) {
	op, t := g.Op(i)
	switch op.Kind {
	case plan.OpInsert:
		count(t, plan.Counts{Inserts: 1})
	case plan.OpUpdate:
		count(t, plan.Counts{Updates: 1})
	case plan.OpDelete:
		count(t, plan.Counts{Deletes: 1})
	case plan.OpTruncate:
		for _, t := range g.Truncate(op).Tables {
			count(t, plan.Counts{Truncates: 1})
		}
	}
}

// Uncounted reports whether counts are overdue because no commit has written them.
func (a *Applier) Uncounted(now time.Time) bool {
	return len(a.counting) > 0 && now.Sub(a.counted) >= countEvery
}

// LastCounts writes the pending counts when nothing more is applied. It rolls back an open
// transaction. It ignores errors, because the target may be gone.
func (a *Applier) LastCounts(ctx context.Context) {
	if len(a.counting) == 0 {
		return
	}
	a.closed()
	if a.undo(ctx, "ROLLBACK") == nil {
		_ = a.Sync(ctx)
	}
}
