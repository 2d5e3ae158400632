package write

import (
	"context"
	"strconv"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
)

// countEvery is how often the counters of tables are written. They are for people; a crash loses
// what has been counted since.
const countEvery = time.Second

// count adds (or takes back) a group's changes to what is to be counted.
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
	// a table that was described again is two of ours, and one on the target
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

// countRange adds changes from first to before next of a group.
func (a *Applier) countRange(g *plan.Group, first, next int32) {
	if g.Skip {
		return
	}
	for i := first; i < next; i++ {
		op, t := g.Op(i)
		switch op.Kind {
		case plan.OpInsert:
			a.countTable(t, &plan.Counts{Inserts: 1}, 1)
		case plan.OpUpdate:
			a.countTable(t, &plan.Counts{Updates: 1}, 1)
		case plan.OpDelete:
			a.countTable(t, &plan.Counts{Deletes: 1}, 1)
		case plan.OpTruncate:
			for _, t := range g.Truncate(op).Tables {
				a.countTable(t, &plan.Counts{Truncates: 1}, 1)
			}
		}
	}
}

// Uncounted reports whether there are counts that should have been written by now: nothing comes
// that they could be written with.
func (a *Applier) Uncounted(now time.Time) bool {
	return len(a.counting) > 0 && now.Sub(a.counted) >= countEvery
}

// LastCounts writes what has been counted when nothing more is applied. An open transaction is
// rolled back. It may fail: the target may be gone.
func (a *Applier) LastCounts(ctx context.Context) {
	if len(a.counting) == 0 {
		return
	}
	a.closed()
	if a.undo(ctx, "ROLLBACK") == nil {
		_ = a.Sync(ctx)
	}
}
