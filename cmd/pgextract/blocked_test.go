package main

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Whoever holds a table's lock while its rows are to be read is named, instead of being waited for
// in silence.
func TestLockedTable_P8(t *testing.T) {
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE t (a int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
	e := pgtest.NewEnv(t, source, target)
	holder := source.Connect()
	if _, err := holder.Exec(pgtest.Context(t), "SET application_name = 'holder'; BEGIN; LOCK TABLE t"); err != nil {
		t.Fatal(err)
	}
	p := e.Start(nil, io.Discard, "pgextract", "--data-only")
	pgtest.Wait(t, 30*time.Second, "the holder is named", func() bool { return strings.Contains(p.Errors(), "holder") })
	if _, err := holder.Exec(pgtest.Context(t), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if status := p.Wait(30 * time.Second); status != 0 {
		t.Errorf("status %d: %s", status, p.Errors())
	}
}
