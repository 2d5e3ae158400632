package main_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/format"
)

// A table that has been read can be altered while the same connection reads others, and so can one
// that has yet to be read. What follows is still of the first snapshot.
func TestReleased(t *testing.T) {
	t.Parallel()
	source := pgtest.Source(t).Database(t, "")
	source.Exec("CREATE TABLE large (id int, v text)", "CREATE TABLE medium (id int, v text)", "CREATE TABLE small (id int, v text)",
		"INSERT INTO large SELECT i, repeat('x', 1000) FROM generate_series(1, 12000) i",
		"INSERT INTO medium SELECT i, repeat('x', 1000) FROM generate_series(1, 11000) i", "INSERT INTO small VALUES (1, 'old')")
	e := &pgtest.Env{T: t, Dir: pgtest.Programs(t, false), Source: source.URI}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := e.Start(nil, w, "pgextract", "--data-only", "--jobs", "1")
	_ = w.Close()
	stream := format.NewReader(r)
	parts, small := 0, false
	for {
		rec, err := stream.Next()
		if err != nil {
			t.Fatalf("%v: %s", err, p.Errors())
		}
		switch x := rec.(type) {
		case *format.CopyBegin:
			if parts++; parts == 2 { // nobody reads it now
				source.Exec("SET lock_timeout = '20s'; ALTER TABLE large ADD c int; ALTER TABLE small ADD c int; UPDATE small SET v = 'new'")
				if _, err := source.Try("SET lock_timeout = '10ms'; ALTER TABLE medium ADD c int"); err == nil {
					t.Error("the table was altered while it was read")
				}
			}
		case *format.CopyData:
			small = small || bytes.HasPrefix(x.Data, []byte("1\told\n"))
		case *format.End:
			if status := p.Wait(timeout); status != 0 || parts != 3 || !small {
				t.Errorf("exit status %d after %d parts, as of the snapshot: %v\n%s", status, parts, small, p.Errors())
			}
			return
		}
	}
}
