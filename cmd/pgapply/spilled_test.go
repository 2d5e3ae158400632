package main_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/format"
)

const counters = "CREATE TABLE t (a text PRIMARY KEY, b text); INSERT INTO t VALUES ('last', '')"

// manyInProgress returns a stream with n transactions in progress at once, which are too large for
// memory. They end in another order than they began: every tenth rolls back. All of them set the
// row "last". other writes what is between the ends.
func manyInProgress(t testing.TB, n int, other func(s *scribe, i int)) (stream []byte, last string) {
	s := newScribe(t)
	s.write(relation("a", "b"))
	pad := strings.Repeat("x", 500)
	for i := range n {
		s.block(uint32(i+1), true, insert(strconv.Itoa(i), pad))
		s.write(&format.StreamStart{XID: uint32(i + 1)}, &format.Update{Relation: 1, XID: uint32(i + 1),
			New: format.Tuple{format.TextValue([]byte("last")), format.TextValue([]byte(strconv.Itoa(i)))}}, &format.StreamStop{})
	}
	for k, i := range rand.New(rand.NewPCG(1, 2)).Perm(n) {
		if i%10 == 3 {
			s.write(&format.StreamAbort{XID: uint32(i + 1), SubXID: uint32(i + 1)})
			continue
		}
		s.commit(uint32(i + 1))
		last = strconv.Itoa(i)
		other(s, k)
	}
	return s.end(), last
}

// Spilled transactions are read back many at a time, and still committed one after the other: in
// order with what comes between them, and exactly once if the stream is cut.
func TestSpilledInBulk_P3(t *testing.T) {
	t.Parallel()
	const n = 20000
	b := newBench(t)
	b.target.Exec(counters)
	whole, last := manyInProgress(t, n, func(s *scribe, k int) {
		switch {
		case k%2000 == 7: // an ordinary transaction
			s.transaction(insert(fmt.Sprintf("between %d", k), "1"))
		case k%2000 == 1007: // another one in progress, which has an earlier one's XID
			s.block(uint32(n+1), true, insert(fmt.Sprintf("between %d", k), "2"))
			s.commit(uint32(n + 1))
		case k%2000 == 1507:
			s.block(uint32(n+k+2), true, insert("never", ""))
		}
	})
	cut := len(whole) * 99 / 100
	b.apply(whole[:cut], 65)
	b.apply(whole, 0)
	b.want("SELECT count(*) FILTER (WHERE a ~ '^\\d'), count(*) FILTER (WHERE a ~ '^between'), max(b) FILTER (WHERE a = 'last') FROM t",
		fmt.Sprintf("%d\t%d\t%s", n*9/10, bytes.Count(whole, []byte("between ")), last))
	b.want("SELECT count(*) FROM pgsluice.spill", "0")
	b.want(fmt.Sprintf("SELECT xact_commit < %d FROM pg_stat_database WHERE datname = current_database()", n/10), "t")
}

// BenchmarkSpilled applies 100,000 transactions that were spilled.
func BenchmarkSpilled(b *testing.B) {
	stream, last := manyInProgress(b, 100000, func(*scribe, int) {})
	for range b.N {
		b.StopTimer()
		target := newBench(b)
		target.target.Exec(counters)
		b.StartTimer()
		target.apply(stream, 0)
		b.StopTimer()
		target.want("SELECT count(*), max(b) FILTER (WHERE a = 'last') FROM t", "90001\t"+last)
	}
}
