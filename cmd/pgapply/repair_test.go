package main_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/format"
)

// A repair corrects rows and leaves the position alone. Each of its transactions is applied as a
// whole, and what does not fit is a conflict.
func TestRepair_H10(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	h := &format.Header{StreamKind: format.Load, SystemID: "1", Database: "d", Slot: "s", StartLSN: 0x1000,
		Load: &format.LoadInfo{Snapshot: "s1"}}
	b.apply(stream(t, slices.Concat([]format.Record{h, tableDDL("t", "a text PRIMARY KEY, b text"),
		relationOf(1, "t", "a", "b")}, copied(1, 1, 1, 1, "1\n2\n3\n"))...), 0)
	s := newScribe(t)
	s.write(relation("a", "b"))
	s.transaction(insert("4", "four"))
	b.apply(s.end(), 0)
	position := b.target.Query("SELECT applied_lsn, applied_time FROM pgsluice.streams")

	begin, commit := &format.Begin{XID: 1, Time: 7}, &format.Commit{Time: 7}
	update := func(a, to string) *format.Update {
		return &format.Update{Relation: 1, New: format.Tuple{format.TextValue([]byte(a)), format.TextValue([]byte(to))}}
	}
	remove := func(a string) *format.Delete {
		return &format.Delete{Relation: 1, Old: format.Tuple{format.TextValue([]byte(a)), {}}}
	}
	repair := func(records ...format.Record) []byte {
		h := &format.Header{StreamKind: format.Repair, SystemID: "1", Database: "d", Slot: "s"}
		return stream(t, slices.Concat([]format.Record{h, relation("a", "b")}, records)...)
	}
	good := repair(begin, update("1", "one"), remove("3"), commit, begin, insert("5", "five"), commit,
		&format.StreamStart{XID: 9, First: true},
		&format.Insert{Relation: 1, XID: 9, New: format.Tuple{format.TextValue([]byte("6")), {}}},
		&format.StreamStop{},
		&format.StreamCommit{XID: 9, Time: 7})
	b.apply(good, 0)
	const rows = "SELECT string_agg(a || coalesce(b, '-'), ' ' ORDER BY a) FROM t"
	b.want(rows, "1one 2- 4four 5five 6-")
	b.want("SELECT applied_lsn, applied_time FROM pgsluice.streams", position)

	// Not exactly once: it is applied again, and does not fit.
	b.apply(good, 1)
	b.apply(repair(begin, update("2", "two"), commit, begin, insert("7", ""), remove("nobody"), commit, begin, insert("8", ""), commit), 1)
	b.want(rows, "1one 2two 4four 5five 6-")
	b.apply(repair(begin, insert("7", ""), remove("nobody"), commit, begin, insert("8", ""), commit), 0, "--on-conflict", "skip")
	b.want(rows, "1one 2two 4four 5five 6- 7 8")
	b.apply(repair(begin, insert("8", "again"), commit, begin, insert("9", ""), commit), 0, "--skip-lsn", "0/1")
	b.want(rows, "1one 2two 4four 5five 6- 7 8 9")

	// The stream goes on where it was, and a repair of nothing in particular is one, too.
	s.write(&format.Header{StreamKind: format.Changes, SystemID: "1", Database: "d", Slot: "s", StartLSN: s.lsn + 8}, relation("a", "b"))
	s.transaction(insert("x", ""))
	b.apply(s.end(), 0)
	b.apply(stream(t, &format.Header{StreamKind: format.Repair}, relation("a", "b"), begin, remove("x"), commit), 0)
	b.want(rows, "1one 2two 4four 5five 6- 7 8 9")
	b.want("SELECT applied_lsn FROM pgsluice.streams WHERE slot = 's'", (s.lsn + 8).String())
	b.target.Exec("UPDATE pgsluice.streams SET ended_at = now()")
	b.apply(good, 78)
}

// A stream that names a slot which no server can have is refused before any message has the name in
// a command to be pasted.
func TestSlotInHeader(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, kind := range []string{format.Load, format.Changes} {
		errs := b.apply(stream(t, &format.Header{StreamKind: kind, SystemID: "1", Database: "d", Slot: "x; rm -rf ~ #", StartLSN: 1}), 65)
		if strings.Contains(errs, "--slot") || !strings.Contains(errs, `"x; rm -rf ~ #"`) {
			t.Error(errs)
		}
	}
	b.want("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgsluice'", "0")
}
