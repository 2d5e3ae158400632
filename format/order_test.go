package format_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/format"
)

// The places where a record may stand, by the records that lead there. Relation 1 has two columns,
// relation 2 has none.
var places = map[string][]format.Record{
	"start":   nil,
	"load":    {loadHeader(), relationT(), relation0()},
	"part":    {loadHeader(), relationT(), relation0(), copyBegin(1)},
	"changes": {changeHeader(), relationT(), relation0()},
	"repair":  {&format.Header{StreamKind: format.Repair}, relationT(), relation0()},
	"tx":      {changeHeader(), relationT(), relation0(), &format.Begin{XID: 7, CommitLSN: 200}},
	"block":   {changeHeader(), relationT(), relation0(), &format.StreamStart{XID: 7, First: true}},
	"blocks":  {changeHeader(), relationT(), relation0(), &format.StreamStart{XID: 7, First: true}, &format.StreamStop{}},
	"end":     {changeHeader(), &format.End{Reason: format.Complete, Frames: 1}},
}

func loadHeader() *format.Header  { return &format.Header{StreamKind: format.Load} }
func relation0() *format.Relation { return &format.Relation{ID: 2, Schema: "public", Name: "nothing"} }

func copyBegin(part uint32) *format.CopyBegin {
	return &format.CopyBegin{Part: part, Relation: 1, Columns: []string{"a", "b"}, Format: format.CopyText,
		Index: uint64(part) + 1, Of: 1 << 20}
}

func pre(section string) *format.DDL { return &format.DDL{Section: section, SQL: "x"} }

// Every kind of record in every place: where it may stand. A place that is not named refuses it.
func TestOrderOfKinds(t *testing.T) {
	two := row("1", "2")
	tests := []struct {
		rec    format.Record
		places string
	}{
		// in an unfinished stream it continues it
		{changeHeader(), "start end changes tx block blocks"},
		{loadHeader(), "start end load part"},
		{&format.Header{StreamKind: format.Repair}, "start end repair"},
		{relationT(), "load part changes repair tx block blocks"},
		{pre(format.PreData), "load part"},
		{pre(format.PostData), "load part"},
		{pre(format.Change), "tx"},
		{&format.DDL{Section: format.Change, SQL: "x", XID: 8}, "block"},
		{copyBegin(2), "load part"},
		{copyBegin(1), "load"},
		{&format.CopyBegin{Part: 3, Relation: 99, Format: format.CopyText, Index: 1, Of: 1}, ""},
		// the one that is open
		{&format.CopyBegin{Part: 3, Relation: 1, Format: format.CopyText, Index: 2, Of: 1 << 20}, "load"},
		// and another cut
		{&format.CopyBegin{Part: 3, Relation: 1, Format: format.CopyText, Index: 1, Of: 2}, "load"},
		{&format.CopyData{Part: 1, Rows: 1, Data: []byte("x\n")}, "part"},
		{&format.CopyData{Part: 1, Data: make([]byte, 64<<10)}, "part"}, // written in another way
		{&format.CopyEnd{Part: 1}, "part"},
		{&format.CopyEnd{Part: 1, Rows: 1}, ""},
		{&format.CopyEnd{Part: 1, Bytes: 1}, ""},
		{&format.Sequence{Schema: "s", Name: "s"}, "load part"},
		{&format.Fingerprint{Class: "index", Name: "i"}, "load part"},
		{&format.LargeObject{OID: 1}, "load part"},
		{&format.Begin{XID: 9, CommitLSN: 300}, "changes blocks"},
		{&format.Begin{XID: 9}, "changes repair blocks"},
		{&format.Commit{CommitLSN: 200, EndLSN: 300}, "tx"},
		{&format.Commit{CommitLSN: 200, EndLSN: 100}, ""}, // not after start_lsn
		{&format.Commit{}, ""},
		{&format.Commit{CommitLSN: 200, EndLSN: 200}, ""}, // not after its commit LSN
		{&format.Commit{CommitLSN: 200, EndLSN: 199}, ""},
		{&format.Insert{Relation: 1, New: two}, "tx"},
		{&format.Insert{Relation: 1, New: two, XID: 8}, "block"},
		{&format.Insert{Relation: 2}, "tx"},
		{&format.Insert{Relation: 1, New: two[:1]}, ""},
		{&format.Insert{Relation: 1, New: row("1", "2", "3")}, ""},
		{&format.Insert{Relation: 2, New: two}, ""},
		{&format.Insert{Relation: 99, New: two}, ""},
		{&format.Insert{Relation: 0}, ""},
		{&format.Update{Relation: 1, New: two}, "tx"},
		{&format.Update{Relation: 1, Old: two, New: two}, "tx"},
		{&format.Update{Relation: 1, Old: two, New: two, XID: 8}, "block"},
		{&format.Update{Relation: 1, Old: two[:1], New: two}, ""},
		{&format.Update{Relation: 1, Old: format.Tuple{}, New: two}, ""},
		{&format.Update{Relation: 1, Old: two, New: two[:1]}, ""},
		{&format.Update{Relation: 2, Old: format.Tuple{}}, "tx"},
		{&format.Update{Relation: 99, New: two}, ""},
		{&format.Delete{Relation: 1, Old: two}, "tx"},
		{&format.Delete{Relation: 1, Old: two, XID: 8}, "block"},
		{&format.Delete{Relation: 1, Old: two[:1]}, ""},
		{&format.Delete{Relation: 99, Old: two}, ""},
		{&format.Truncate{Relations: []uint32{1, 2}}, "tx"},
		{&format.Truncate{Relations: []uint32{1}, XID: 8}, "block"},
		{&format.Truncate{Relations: []uint32{1, 99}}, ""},
		{&format.Message{Transactional: true}, "tx"},
		{&format.Message{Transactional: true, XID: 8}, "block"},
		{&format.Message{}, "changes repair tx block blocks"},
		{&format.Message{XID: 8}, "block"},
		{&format.StreamStart{XID: 8, First: true}, "changes repair blocks"},
		{&format.StreamStart{XID: 7, First: true}, "changes repair"},
		{&format.StreamStart{XID: 7}, "blocks"},
		{&format.StreamStart{First: true}, ""},
		{&format.StreamStop{}, "block"},
		{&format.StreamCommit{XID: 7, CommitLSN: 200, EndLSN: 300}, "blocks"},
		{&format.StreamCommit{XID: 7, CommitLSN: 200, EndLSN: 100}, ""},
		{&format.StreamCommit{XID: 7, CommitLSN: 200, EndLSN: 200}, ""},
		{&format.StreamCommit{XID: 8, CommitLSN: 200, EndLSN: 300}, ""},
		{&format.StreamAbort{XID: 7, SubXID: 7}, "blocks"},
		{&format.StreamAbort{XID: 7, SubXID: 8}, "blocks"},
		{&format.StreamAbort{XID: 8, SubXID: 8}, ""},
		{&format.StreamAbort{XID: 8, SubXID: 9}, ""},
		{&format.Prepare{GID: []byte("g"), XID: 7, PrepareLSN: 200, EndLSN: 300}, "tx blocks"},
		{&format.Prepare{GID: []byte("g"), XID: 7, PrepareLSN: 201, EndLSN: 300}, "blocks"},
		{&format.Prepare{GID: []byte("g"), XID: 7, PrepareLSN: 200, EndLSN: 200}, ""},
		{&format.Prepare{GID: []byte("g"), XID: 8, EndLSN: 300}, ""},
		{&format.CommitPrepared{GID: []byte("g"), XID: 7, EndLSN: 300}, "changes blocks"},
		{&format.CommitPrepared{GID: []byte("g"), XID: 7}, "repair"},
		{&format.CommitPrepared{GID: []byte("g"), XID: 7, EndLSN: 100}, ""},
		{&format.CommitPrepared{GID: []byte("g"), XID: 7, CommitLSN: 300, EndLSN: 300}, ""},
		{&format.RollbackPrepared{GID: []byte("g"), XID: 7, EndLSN: 300}, "changes blocks"},
		{&format.RollbackPrepared{GID: []byte("g"), XID: 7}, "repair"},
		{&format.RollbackPrepared{GID: []byte("g"), XID: 7, PrepareEndLSN: 300, EndLSN: 300}, ""},
		{&format.Progress{LSN: 300}, "changes repair blocks"},
		{&format.Unknown{K: 90, Body: []byte{0xc0}}, "load part changes repair tx block blocks"},
	}
	for _, test := range tests {
		for place, before := range places {
			allowed := strings.Contains(" "+test.places+" ", " "+place+" ")
			if !checkOrder(t, place, after(before, test.rec), allowed) {
				t.Logf("that was %.200s", formatRecord(test.rec))
			}
		}
	}
}

// What the records before have changed about what may come.
func TestOrderOfSequences(t *testing.T) {
	begin := func(lsn format.LSN) format.Record { return &format.Begin{XID: 7, CommitLSN: lsn} }
	// of the place "tx"
	finish := func(end format.LSN) format.Record { return &format.Commit{CommitLSN: 200, EndLSN: end} }
	commit := func(end format.LSN) format.Record { return &format.Commit{CommitLSN: end - 1, EndLSN: end} }
	insert := func(n int) format.Record { return &format.Insert{Relation: 1, New: make(format.Tuple, n)} }
	end := func(frames uint64) format.Record { return &format.End{Reason: format.Stopped, Frames: frames} }
	first, again, stop := &format.StreamStart{XID: 7, First: true}, &format.StreamStart{XID: 7}, &format.StreamStop{}
	abort := &format.StreamAbort{XID: 7, SubXID: 7}
	narrow := &format.Relation{ID: 1, Name: "t"}
	data := &format.CopyData{Part: 1, Rows: 2, Data: []byte("1\n2\n")}
	done := &format.CopyEnd{Part: 1, Rows: 2, Bytes: 4}
	tests := []struct {
		name    string
		place   string
		then    []format.Record
		allowed bool
	}{
		{"end", "changes", []format.Record{end(3)}, true},
		{"end with a frame too few", "changes", []format.Record{end(2)}, false},
		{"end with a frame too many", "changes", []format.Record{end(4)}, false},
		{"end in a transaction", "tx", []format.Record{end(4)}, false},
		{"end in a block", "block", []format.Record{end(4)}, false},
		// the transaction is dropped
		{"end between blocks", "blocks", []format.Record{end(5)}, true},
		{"end in a part", "part", []format.Record{end(4)}, false},
		{"end after a part", "part", []format.Record{data, done, end(6)}, true},
		{"two parts", "part", []format.Record{copyBegin(2), data, &format.CopyEnd{Part: 2}, done}, true},
		{"another part's data", "part", []format.Record{copyBegin(2),
			&format.CopyData{Part: 2, Rows: 2, Data: []byte("1\n2\n")}, done}, false},
		{"a part of a table twice", "part", []format.Record{data, done, copyBegin(1)}, false},
		{"a part of a table again, in a continued stream", "part",
			[]format.Record{data, done, loadHeader(), relationT(), copyBegin(1)}, true},
		{"an LSN in repair", "repair", []format.Record{begin(0), &format.Commit{EndLSN: 1}}, false},
		{"a part twice", "part", []format.Record{copyBegin(1)}, false},
		{"a part closed twice", "part", []format.Record{data, done, done}, false},
		{"data after the end of a part", "part", []format.Record{data, done, data}, false},
		{"a part with a row less", "part", []format.Record{data, &format.CopyEnd{Part: 1, Rows: 1, Bytes: 4}}, false},
		{"a part with a byte more", "part", []format.Record{data, &format.CopyEnd{Part: 1, Rows: 2, Bytes: 5}}, false},
		{"begin in a transaction", "tx", []format.Record{begin(300)}, false},
		{"a second commit", "tx", []format.Record{finish(210), commit(220)}, false},
		{"ascending end LSNs", "tx", []format.Record{finish(210), begin(219), commit(220)}, true},
		{"equal end LSNs", "tx", []format.Record{finish(210), begin(209), commit(210)}, false},
		{"descending end LSNs", "tx", []format.Record{finish(210), begin(208), commit(209)}, false},
		{"end LSN equals start LSN", "tx", []format.Record{finish(100)}, false},
		{"end LSN just after start LSN", "changes", []format.Record{begin(100), commit(101)}, true},
		{"end LSN equals commit LSN", "tx", []format.Record{finish(200)}, false},
		{"end LSN equals progress", "changes", []format.Record{&format.Progress{LSN: 210}, begin(209), commit(210)}, false},
		{"end LSN just after progress", "changes", []format.Record{&format.Progress{LSN: 210}, begin(210), commit(211)}, true},
		{"progress goes back", "changes", []format.Record{&format.Progress{LSN: 210}, &format.Progress{LSN: 205}}, true},
		{"and counts for nothing", "changes", []format.Record{&format.Progress{LSN: 210},
			&format.Progress{LSN: 205}, begin(207), commit(208)}, false},
		{"end LSN of a streamed transaction", "blocks",
			[]format.Record{&format.StreamCommit{XID: 7, EndLSN: 210}, begin(209), commit(210)}, false},
		{"end LSN of a prepared transaction", "changes",
			[]format.Record{&format.CommitPrepared{XID: 7, EndLSN: 210}, begin(209), commit(210)}, false},
		{"no positions in repair", "repair", []format.Record{begin(0), &format.Commit{}, begin(0), &format.Commit{}}, true},
		{"a commit of another transaction", "tx", []format.Record{commit(210)}, false},
		{"a relation becomes narrow", "tx", []format.Record{insert(2), narrow, insert(0)}, true},
		{"a relation has become narrow", "tx", []format.Record{insert(2), narrow, insert(2)}, false},
		{"two relations in turn", "tx", []format.Record{insert(2), &format.Insert{Relation: 2}, insert(2)}, true},
		{"a block after a block", "block", []format.Record{stop, again}, true},
		{"a block in a block", "block", []format.Record{again}, false},
		{"a first block again", "block", []format.Record{stop, first}, false},
		{"a first block after an abort", "block", []format.Record{stop, abort, first}, true},
		{"another block after an abort", "block", []format.Record{stop, abort, again}, false},
		{"another block after the abort of a part", "block", []format.Record{stop, &format.StreamAbort{XID: 7, SubXID: 8}, again}, true},
		{"an abort after an abort", "block", []format.Record{stop, abort, abort}, false},
		{"a commit after an abort", "block", []format.Record{stop, abort, &format.StreamCommit{XID: 7, EndLSN: 300}}, false},
		{"a commit in a block", "block", []format.Record{&format.StreamCommit{XID: 7, EndLSN: 300}}, false},
		{"an ordinary commit in a block", "block", []format.Record{commit(300)}, false},
		{"a transaction between blocks", "block", []format.Record{stop, begin(209), insert(2), commit(210), again}, true},
		{"a change between blocks", "block", []format.Record{stop, &format.Insert{Relation: 1, New: make(format.Tuple, 2), XID: 7}}, false},
		{"a prepared streamed transaction again", "blocks", []format.Record{&format.Prepare{XID: 7, EndLSN: 8}, again}, false},
		{"changes after prepare", "tx", []format.Record{&format.Prepare{XID: 7, PrepareLSN: 200, EndLSN: 300}, insert(2)}, false},
		{"a second stream", "changes", []format.Record{end(3), changeHeader(), relationT(), begin(209),
			insert(2), commit(210), end(5)}, true},
		{"a second stream knows no relation", "changes", []format.Record{end(3), changeHeader(), begin(209), insert(2)}, false},
		{"a second stream counts anew", "changes", []format.Record{end(3), changeHeader(), end(4)}, false},
		{"a second stream of another source", "changes",
			[]format.Record{end(3), &format.Header{StreamKind: format.Load, Database: "x"}}, true},
		{"a second stream has its own positions", "tx",
			[]format.Record{finish(210), end(5), changeHeader(), begin(209), commit(210)}, true},
		{"a commit of another transaction", "tx", []format.Record{&format.Commit{CommitLSN: 201, EndLSN: 210}}, false},
		{"a second stream has no blocks", "blocks", []format.Record{end(5), changeHeader(), again}, false},
		{"a continued stream", "tx", []format.Record{changeHeader(), relationT(), begin(209), insert(2), commit(210), end(5)}, true},
		{"a continued stream knows no relation", "tx", []format.Record{changeHeader(), begin(209), insert(2)}, false},
		{"a continued stream has no parts", "part", []format.Record{loadHeader(), data}, false},
		{"an end after an end", "end", []format.Record{end(2)}, false},
	}
	for _, test := range tests {
		before := places[test.place]
		checkOrder(t, test.name, after(before, test.then...), test.allowed)
	}
}

// checkOrder checks that the last of the records is accepted or refused, by Writer and by Reader.
func checkOrder(t *testing.T, name string, recs []format.Record, allowed bool) (ok bool) {
	t.Helper()
	ok = true
	fail := func(who string, got any) {
		t.Helper()
		ok = false
		t.Errorf("%s: %v record, %s: %v", who, recs[len(recs)-1].Kind(), name, got)
	}
	n := len(recs) - 1
	w := format.NewWriter(new(bytes.Buffer))
	for _, rec := range recs[:n] {
		must(t, w.Write(rec))
	}
	err := w.Write(recs[n])
	var refused *format.OrderError
	if (err == nil) != allowed || !allowed && (!errors.As(err, &refused) || refused.Kind != recs[n].Kind()) {
		fail("writer", err)
	}
	got, err := readBytes(unchecked(t, recs...))
	if allowed && len(got) != n+1 || !allowed &&
		(len(got) != n || n > 0 && !errors.Is(err, format.ErrCorrupt) ||
			n == 0 && !errors.Is(err, format.ErrNotStream)) {
		fail("reader", fmt.Sprint(len(got), " records, ", err))
	}
	if !allowed && n > 0 && (!errors.As(err, &refused) || refused.Kind != recs[n].Kind()) {
		fail("reader, which does not say why", err)
	}
	return ok
}

// unchecked makes a stream of records that Writer may refuse.
func unchecked(tb testing.TB, recs ...format.Record) (out []byte) {
	tb.Helper()
	for _, rec := range recs {
		if h, ok := rec.(*format.Header); ok {
			h.Magic, h.Version = "pgsluice", 1
		}
		body, err := format.AppendBody(rec)
		must(tb, err)
		out = append(out, frame(rec.Kind(), body)...)
	}
	return out
}
