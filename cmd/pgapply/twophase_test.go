package main_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/format"
)

// prepare writes a transaction as a whole up to its prepare.
func (s *scribe) prepare(gid string, xid uint32, records ...format.Record) {
	s.t.Helper()
	s.lsn += 0x100
	s.write(&format.Begin{CommitLSN: s.lsn, XID: xid})
	s.write(records...)
	s.write(&format.Prepare{GID: []byte(gid), XID: xid, PrepareLSN: s.lsn, EndLSN: s.lsn + 8})
}

func (s *scribe) commitPrepared(gid string, xid uint32) {
	s.t.Helper()
	s.lsn += 0x100
	s.write(&format.CommitPrepared{GID: []byte(gid), XID: xid, CommitLSN: s.lsn, EndLSN: s.lsn + 8})
}

func (s *scribe) rollbackPrepared(gid string, xid uint32) {
	s.t.Helper()
	s.lsn += 0x100
	s.write(&format.RollbackPrepared{GID: []byte(gid), XID: xid, PrepareEndLSN: s.lsn - 0x80, EndLSN: s.lsn + 8})
}

// many are inserts that are more than a group has room for.
func many(prefix string, n int) (list []format.Record) {
	for i := range n {
		list = append(list, insert(fmt.Sprintf("%s%d", prefix, i), strings.Repeat("x", 100<<10)))
	}
	return list
}

// Prepared transactions are applied when they are committed, however they were sent, wherever the
// stream is cut and however often it is applied.
func TestTwoPhase_H10(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	b := newBench(t)
	b.target.Exec("CREATE TABLE t (a text PRIMARY KEY, b text)")
	whole, at, lsn := twoPhaseStream(t, 30)
	for k, want := range []string{"1 2", "1 2 3", "1 2 3 large*30", "1 2 3 large*30 smaller", "1 2 3 blocks*3 large*30 last smaller"} {
		stream, status := whole, 0
		if k < len(at) {
			stream, status = whole[:at[k]], 65
		}
		for range 2 {
			b.apply(stream, status)
			b.want(`SELECT string_agg(x, ' ' ORDER BY x) FROM (SELECT CASE WHEN count(*) > 2 THEN regexp_replace(min(a), '\d+$', '') || '*' || count(*) ELSE min(a) END AS x
				FROM t GROUP BY CASE WHEN a ~ '^[a-z]' THEN regexp_replace(a, '\d+$', '') ELSE a END) v`, want)
		}
	}
	b.want("SELECT b FROM t WHERE a = 'smaller'", "newer")
	b.want("SELECT applied_lsn FROM pgsluice.streams", (lsn + 8).String())

	// All at once, and with several sessions; and with transactions that are written before their
	// prepare is there.
	for _, n := range []int{30, 150} {
		whole, at, _ := twoPhaseStream(t, n)
		for _, args := range [][]string{nil, {"--jobs", "3"}} {
			other := newBench(t)
			other.target.Exec("CREATE TABLE t (a text PRIMARY KEY, b text)")
			other.apply(whole, 0, args...)
			other.want("SELECT count(*), sum(length(b)) FROM t", fmt.Sprintf("%d\t%d", n+8, (n+3)*100<<10+len("newer")))
			other.apply(whole, 0, args...)
		}
		// One that is large and was prepared before the position, and is to be applied after it, is
		// not left out silently.
		other := newBench(t)
		other.target.Exec("CREATE TABLE t (a text PRIMARY KEY, b text)")
		other.apply(whole[:at[1]], 65)
		other.apply(whole, map[int]int{30: 0, 150: 1}[n])
		other.want("SELECT count(*) FROM t", map[int]string{30: "38", 150: "3"}[n])
	}
}

// twoPhaseStream returns a stream of prepared transactions, two of them with n rows, where it may
// be cut, and its last commit LSN.
func twoPhaseStream(t *testing.T, n int) (stream []byte, at []int, last format.LSN) {
	s := newScribe(t)
	cut := func() { at = append(at, len(s.flush())) }
	s.write(relation("a", "b"))
	s.transaction(insert("1", ""))
	s.prepare("small", 71, insert("small", ""), insert("gone", ""),
		&format.Delete{Relation: 1, Old: format.Tuple{format.TextValue([]byte("gone")), {}}},
		&format.Update{Relation: 1, New: format.Tuple{format.TextValue([]byte("small")), format.TextValue([]byte("new"))}},
		&format.Update{Relation: 1, Old: format.Tuple{format.TextValue([]byte("small")), {}},
			New: format.Tuple{format.TextValue([]byte("smaller")), {Kind: format.Unchanged}}})
	s.prepare("large", 72, many("large", n)...)
	s.prepare("never", 73, many("never", n)...)
	s.block(74, true, many("blocks", 3)...)
	s.transaction(insert("2", ""))
	s.block(74, false, insert("last", ""))
	s.write(&format.Prepare{GID: []byte("blocks"), XID: 74, PrepareLSN: s.lsn + 0x10, EndLSN: s.lsn + 0x18})
	s.prepare("open", 75, insert("open", "")) // until the stream ends
	cut()
	s.transaction(insert("3", ""))
	cut()
	s.commitPrepared("large", 72)
	cut()
	s.rollbackPrepared("never", 73)
	s.commitPrepared("small", 71)
	s.transaction(&format.Update{Relation: 1, New: format.Tuple{format.TextValue([]byte("smaller")), format.TextValue([]byte("newer"))}})
	cut()
	s.commitPrepared("blocks", 74)
	return s.end(), at, s.lsn
}

// What was prepared before a table's snapshot, and committed after it, is not in the snapshot.
func TestPreparedBeforeSnapshot_H10(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	h := &format.Header{StreamKind: format.Load, SystemID: "1", Database: "d", Slot: "s", StartLSN: 0x1180,
		Load: &format.LoadInfo{Snapshot: "s1"}}
	load := stream(t, append([]format.Record{h, tableDDL("t", "a text PRIMARY KEY"), relationOf(1, "t", "a")},
		copied(1, 1, 1, 1, "loaded\n")...)...)
	load = slices.Clone(load)
	b.apply(load, 0)
	// its part says 0/1000, which is before it
	b.want("SELECT applied_lsn FROM pgsluice.streams", "0/1180")
	s := newScribe(t)
	s.write(relation("a"))
	s.prepare("p", 71, insert("prepared"))
	s.transaction(insert("loaded too"))
	s.commitPrepared("p", 71)
	b.apply(s.end(), 0)
	b.want("SELECT string_agg(a, ' ' ORDER BY a) FROM t", "loaded loaded too prepared")
}

// What cannot be understood of two-phase commit is damage, and nothing after it is applied.
func TestTwoPhaseNonsense_H10(t *testing.T) {
	t.Parallel()
	for name, records := range map[string]func(*scribe){
		"not prepared":   func(s *scribe) { s.commitPrepared("p", 71) },
		"prepared twice": func(s *scribe) { s.prepare("p", 71, insert("2")); s.prepare("p", 72, insert("3")) },
		"a block after it": func(s *scribe) {
			s.prepare("p", 71, insert("2"))
			s.block(71, true, insert("4"))
		},
		"committed twice": func(s *scribe) {
			s.prepare("p", 71)
			s.commitPrepared("p", 71)
			s.commitPrepared("p", 71)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.target.Exec("CREATE TABLE t (a text PRIMARY KEY)")
			s := newScribe(t)
			s.write(relation("a"))
			s.transaction(insert("1"))
			records(s)
			s.transaction(insert("5"))
			if errs := b.apply(bytes.Clone(s.end()), 65); strings.Contains(errs, "goroutine") {
				t.Error(errs)
			}
			b.want("SELECT string_agg(a, ' ') FROM t", "1")
		})
	}
}
