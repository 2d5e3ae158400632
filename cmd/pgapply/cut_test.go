package main_test

import (
	"bytes"
	"io"
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
