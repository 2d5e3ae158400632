package main_test

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/format"
)

// A stream that is cut in the middle of a table that was refused ends the load, as any other cut.
func TestCutAfterRefusal(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.target.Exec("CREATE TABLE t (a int CHECK (a <> 5))", "CREATE TABLE u (a int)")
	r, w := io.Pipe()
	p := b.Start(r, nil, "pgapply")
	s := format.NewWriter(w)
	write := func(records ...format.Record) {
		t.Helper()
		for _, rec := range records {
			if err := s.Write(rec); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	write(&format.Header{StreamKind: format.Load, SystemID: "1", Database: "d", ServerVersion: 150000, Encoding: "UTF8",
		Load: &format.LoadInfo{Snapshot: "s1", DataOnly: true}}, relationOf(1, "t", "a"), relationOf(2, "u", "a"))
	write(copied(2, 2, 1, 1, "1\n")...)
	write(part(1, 1, 1, 1, "a"))
	rows := &format.CopyData{Part: 1, Rows: 10000, Data: bytes.Repeat([]byte("5\n"), 10000)}
	for began := time.Now(); !strings.Contains(p.Errors(), "the load continues without it"); write(rows) {
		if time.Since(began) > time.Minute {
			t.Fatalf("the table is not refused: %s", p.Errors())
		}
	}
	write(rows)
	_ = w.Close()
	if status := p.Wait(time.Minute); status != 65 || !strings.Contains(p.Errors(), "stream is truncated") {
		t.Errorf("exit status %d\n%s", status, p.Errors())
	}
	b.want("SELECT status, (SELECT count(*) FROM u) FROM pgsluice.tables WHERE table_name = 't'", "error\t1")
}

// Without a slot, a load from another snapshot does not add to what an interrupted one has left.
func TestTwoSnapshots(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.target.Exec("CREATE TABLE a (a int)", "CREATE TABLE b (a int)")
	load := func(snapshot, scope string, records ...format.Record) []byte {
		h := &format.Header{StreamKind: format.Load, SystemID: "1", Database: "d", ServerVersion: 150000, Encoding: "UTF8",
			Load: &format.LoadInfo{Snapshot: snapshot, Scope: scope, DataOnly: true}}
		return stream(t, append([]format.Record{h}, records...)...)
	}
	a, c := relationOf(1, "a", "a"), relationOf(2, "b", "a")
	object := &format.LargeObject{OID: 1000, Data: []byte("x")}
	lacks := append(append([]format.Record{a, c}, copied(1, 1, 1, 1, "1\n")...), object)
	b.apply(load("s1", format.ScopeAll, lacks...), 65)
	whole := slices.Concat([]format.Record{a, c}, copied(1, 1, 1, 1, "0\n"), copied(2, 2, 1, 1, "2\n"))
	const refusal = "cannot load table public.b from another snapshot than what the target has already: public.a, large objects"
	if errs := b.apply(load("s2", format.ScopeAll, whole...), 78); !strings.Contains(errs, refusal) ||
		!strings.Contains(errs, `pgextract --table '"public"."b"' | pgapply`) {
		t.Error(errs)
	}
	b.want("SELECT (SELECT sum(a) FROM a), (SELECT sum(a) FROM b)", "1\tNULL")
	b.apply(load("s1", format.ScopeAll, whole...), 0) // the same one goes on
	b.want("SELECT (SELECT sum(a) FROM a), (SELECT sum(a) FROM b)", "1\t2")
	b.apply(load("s2", format.ScopeAll, whole...), 0) // nothing is missing
	b.want("SELECT (SELECT sum(a) FROM a), (SELECT sum(a) FROM b)", "1\t2")
	b.target.Exec("CREATE TABLE c (a int)")
	added := append([]format.Record{relationOf(3, "c", "a")}, copied(1, 3, 1, 1, "3\n")...)
	b.apply(load("s3", format.ScopeAll, append([]format.Record{a, c}, added...)...), 78)
	b.apply(load("s3", format.ScopeTables, added...), 0) // by its name
	b.want("SELECT (SELECT sum(a) FROM a), (SELECT sum(a) FROM c)", "1\t3")
}
