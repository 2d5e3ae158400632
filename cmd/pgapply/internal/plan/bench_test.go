package plan_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/format"
)

// BenchmarkFold is about what pgbench's TPC-B transactions cost: three updates, of which those of
// tellers and branches meet the same rows again and again, and an insert into a table without a
// key.
func BenchmarkFold(b *testing.B) {
	accounts, tellers := spec("pgbench_accounts", "aid* bid abalance filler", nil).Table,
		spec("pgbench_tellers", "tid* bid tbalance filler", nil).Table
	branches, history := spec("pgbench_branches", "bid* bbalance filler", nil).Table,
		spec("pgbench_history", "tid bid aid delta mtime filler", nil).Table
	const scale = 50
	type change struct {
		table *plan.Table
		new   format.Tuple
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	changes := make([]change, 0, 4*10_000)
	filler := fmt.Sprintf("%84s", "")
	for range cap(changes) / 4 {
		aid, tid, bid, delta := 1+rnd.IntN(100_000*scale), 1+rnd.IntN(10*scale), 1+rnd.IntN(scale), rnd.IntN(10_000)-5000
		row := func(values ...any) (t format.Tuple) {
			for _, v := range values {
				if v == nil {
					t = append(t, format.Value{})
				} else {
					t = append(t, format.Value{Kind: format.Text, Data: fmt.Append(nil, v)})
				}
			}
			return t
		}
		changes = append(changes, change{accounts, row(aid, bid, delta, filler)}, change{tellers, row(tid, bid, delta, nil)},
			change{branches, row(bid, delta, nil)}, change{history, row(tid, bid, aid, delta, "2025-06-01 12:34:56.789012", nil)})
	}
	for _, size := range []int{1, 10, 100, 5000} { // transactions in a group
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.ReportAllocs()
			g := new(plan.Group)
			n, lsn := 0, format.LSN(0)
			for b.Loop() { // a transaction
				lsn++
				g.Begin(lsn)
				for range 4 {
					c := &changes[n%len(changes)]
					n++
					if c.table == history {
						g.Insert(c.table, c.new)
					} else {
						g.Update(c.table, nil, c.new)
					}
				}
				g.Commit(7, lsn, lsn+1, 0)
				if len(g.Transactions) == size {
					g.Reset()
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/change")
		})
	}
}
