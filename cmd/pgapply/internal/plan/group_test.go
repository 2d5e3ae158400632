package plan_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/format"
)

// A run takes transactions in and writes them, as a follower and its writer do.
type run struct {
	*testing.T
	*rand.Rand
	source    *source
	committed database // the source as of the last complete transaction
	folded    *target
	single    *target
	cur, next *plan.Group
	before    *[2]database // the targets before the open transaction was written in part
	want      expectation  // of cur
	open      expectation  // of the open transaction
	lsn       format.LSN
	ops       int
}

// An expectation is what a group must say about itself.
type expectation struct {
	lsns   []format.LSN // of each change's transaction
	counts map[*plan.Table]plan.Counts
}

func (e *expectation) add(o expectation) {
	e.lsns = append(e.lsns, o.lsns...)
	if e.counts == nil {
		e.counts = make(map[*plan.Table]plan.Counts)
	}
	for t, c := range o.counts {
		n := e.counts[t]
		e.counts[t] = plan.Counts{Inserts: n.Inserts + c.Inserts, Updates: n.Updates + c.Updates,
			Deletes: n.Deletes + c.Deletes, Truncates: n.Truncates + c.Truncates}
	}
}

// statement executes one more in the open transaction.
func (r *run) statement() {
	kind, tables, ok := r.source.statement(r.cur)
	if !ok {
		return
	}
	r.ops++
	one := expectation{lsns: []format.LSN{r.lsn}, counts: map[*plan.Table]plan.Counts{}}
	for _, t := range tables {
		switch kind {
		case plan.OpInsert:
			one.counts[t.Table] = plan.Counts{Inserts: 1}
		case plan.OpUpdate:
			one.counts[t.Table] = plan.Counts{Updates: 1}
		case plan.OpDelete:
			one.counts[t.Table] = plan.Counts{Deletes: 1}
		case plan.OpTruncate:
			one.counts[t.Table] = plan.Counts{Truncates: 1}
		}
	}
	r.open.add(one)
}

// write writes what is complete in cur, and what Fold has taken in, and empties it.
func (r *run) write() {
	g := r.cur
	if g.Len() != len(r.want.lsns) {
		r.Fatalf("the group has %d changes, want %d", g.Len(), len(r.want.lsns))
	}
	for i, lsn := range r.want.lsns {
		if got := g.CommitLSN(int32(i)); got != lsn {
			r.Fatalf("change %d is of transaction %v, want %v", i, got, lsn)
		}
	}
	got := make(map[*plan.Table]plan.Counts)
	for t, c := range g.Counts {
		got[t] = *c
	}
	if !maps.Equal(got, r.want.counts) && len(got)+len(r.want.counts) > 0 {
		r.Fatalf("counts are %v, want %v", got, r.want.counts)
	}
	if r.IntN(4) == 0 {
		r.diverge()
	}
	if err := r.folded.writeSteps(g); err != nil {
		r.Fatalf("folded: %v", err)
	}
	for i := range int32(g.Len()) {
		if err := r.single.writeOp(g, i); err != nil {
			r.Fatalf("change %d of %d by itself: %v", i, g.Len(), err)
		}
	}
	g.Reset()
	if g.Len()+g.Pending()+g.Size()+len(g.Steps())+len(g.Transactions)+len(g.Counts) != 0 || g.Ready() || g.OpenLSN != 0 {
		r.Fatalf("the group is not empty after Reset")
	}
	r.want = expectation{}
}

// diverge writes the group to a target that somebody else has written to. Folded or not, it must be
// refused, or not, and end the same.
func (r *run) diverge() {
	g := r.cur
	db := r.folded.db.clone()
	t := r.source.tables[r.IntN(len(r.source.tables))]
	if e := db[t][(&source{r.Rand, nil, db}).pick(t)]; e != nil && r.IntN(3) > 0 {
		_, _ = db.remove(t, t.keyOf(e.row))
	}
	if r.IntN(2) == 0 {
		_ = db.insert(t, r.source.row(t))
	}
	folded, single := newTarget(r.source.tables), newTarget(r.source.tables)
	folded.db, single.db = db.clone(), db.clone()
	var refused error
	for i := range int32(g.Len()) {
		if refused = single.writeOp(g, i); refused != nil {
			break
		}
	}
	err := folded.writeSteps(g)
	switch {
	case (err == nil) != (refused == nil):
		r.Fatalf("on the target\n%sone by one: %v\nfolded: %v", db, refused, err)
	case err == nil && folded.db.String() != single.db.String():
		r.Fatalf("from\n%sfolded, the target is\n%sone by one\n%s", db, folded.db, single.db)
	}
}

// handOver writes what is complete; the open transaction goes into the next group.
func (r *run) handOver() {
	pending, open := r.cur.Pending(), r.cur.OpenLSN
	r.cur.MoveOpen(r.next)
	if r.cur.Pending() != 0 || r.next.Pending() != pending || r.cur.OpenLSN != 0 || r.next.OpenLSN != open {
		r.Fatalf("MoveOpen moved %d of %d changes", r.next.Pending(), pending)
	}
	r.write()
	r.cur, r.next = r.next, r.cur
}

// flush writes the open transaction as far as it has come.
func (r *run) flush() {
	if len(r.cur.Transactions) > 0 {
		r.handOver()
	}
	if r.before == nil {
		r.before = &[2]database{r.folded.db.clone(), r.single.db.clone()}
	}
	open := r.cur.OpenLSN
	r.cur.Fold()
	r.want.add(r.open)
	r.open = expectation{}
	r.next.Begin(open)
	r.write()
	r.cur, r.next = r.next, r.cur
}

// rollback takes the open transaction back, as when the session breaks in the middle of it.
func (r *run) rollback() {
	r.source.db = r.committed.clone()
	r.cur.Rollback()
	r.open = expectation{}
	if r.before != nil {
		r.folded.db, r.single.db = r.before[0], r.before[1]
		r.before = nil
	}
}

func (r *run) commit() {
	end := r.lsn + 8
	r.cur.Commit(7, r.lsn, end, format.Time(r.lsn))
	r.want.add(r.open)
	r.open = expectation{}
	r.committed = r.source.db.clone()
	r.before = nil
	if !r.cur.Ready() || r.cur.EndLSN != end || r.cur.Pending() != 0 {
		r.Fatalf("after commit %v the group ends at %v", r.lsn, r.cur.EndLSN)
	}
}

func (r *run) compare() {
	r.Helper()
	want := r.committed.String()
	for name, d := range map[string]database{"folded": r.folded.db, "single": r.single.db} {
		if got := d.String(); got != want {
			r.Fatalf("%s, the target is\n%sthe source\n%s", name, got, want)
		}
	}
}

func TestModel(t *testing.T) {
	seeds := uint64(500)
	if pgtest.Full() {
		seeds = 10_000
	}
	if testing.Short() {
		seeds = 200
	}
	ops := 0
	for seed := range seeds {
		if !t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { ops += model(t, seed) }) {
			return
		}
	}
	t.Logf("%d changes", ops)
}

// model runs some transactions and returns how many changes they had.
func model(t *testing.T, seed uint64) int {
	rnd := rand.New(rand.NewPCG(seed, 7))
	tables := specs()
	// Few tables at a time: then much happens to each row.
	rnd.Shuffle(len(tables), func(i, j int) { tables[i], tables[j] = tables[j], tables[i] })
	tables = tables[:1+rnd.IntN(4)]
	r := &run{T: t, Rand: rnd, source: &source{rnd, tables, newDatabase(tables)}, folded: newTarget(tables), single: newTarget(tables),
		cur: new(plan.Group), next: new(plan.Group)}
	r.committed = r.source.db.clone()
	for range 30 {
		r.lsn += 16
		commit := r.lsn
		r.cur.Begin(commit)
		length := 1 + rnd.IntN(8)
		if rnd.IntN(8) == 0 {
			length = 100
		}
		aborted := false
		for range length {
			r.statement()
			switch n := rnd.IntN(100); {
			case n < 3:
				r.handOver()
			case n < 6:
				r.flush()
			case n < 7:
				r.rollback()
				aborted = true
			}
			if aborted {
				break
			}
		}
		if aborted {
			continue
		}
		r.commit()
		if rnd.IntN(3) == 0 {
			r.write()
			r.compare()
		}
	}
	r.write()
	r.compare()
	return r.ops
}
