package pgtest_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// A recorder is a testing.TB that remembers whether it was failed.
type recorder struct {
	testing.TB
	failed strings.Builder
}

func (r *recorder) Errorf(f string, args ...any) { fmt.Fprintf(&r.failed, f+"\n", args...) }
func (r *recorder) Error(args ...any)            { fmt.Fprintln(&r.failed, args...) }
func (r *recorder) Logf(f string, args ...any)   { fmt.Fprintf(&r.failed, f+"\n", args...) }
func (r *recorder) Helper()                      {}

// If Equal missed differences, no test that uses it would assert anything.
func TestEqual(t *testing.T) {
	a, b := pgtest.Pair(t)
	for _, d := range []*pgtest.DB{a, b} {
		d.Exec(`CREATE TABLE "T 1" (id int, v text)`, `INSERT INTO "T 1" VALUES (1, 'one'), (2, NULL), (2, NULL)`)
	}
	pgtest.Equal(t, a, b)
	r := &recorder{TB: t}
	b.Exec("CREATE TABLE more ()")
	pgtest.Equal(r, a, b)
	if !strings.Contains(r.failed.String(), "tables differ") {
		t.Errorf("a table more: %q", r.failed.String())
	}
	b.Exec("DROP TABLE more")
	for _, change := range []string{
		`UPDATE "T 1" SET v = 'One' WHERE id = 1`, `UPDATE "T 1" SET v = '' WHERE ctid = '(0,3)'`,
		`INSERT INTO "T 1" VALUES (2, NULL)`, `DELETE FROM "T 1" WHERE ctid = '(0,3)'`,
	} {
		r := &recorder{TB: t}
		b.Exec(change)
		pgtest.Equal(r, a, b)
		if !strings.Contains(r.failed.String(), `table public."T 1" differs`) {
			t.Errorf("%s: %q", change, r.failed.String())
		}
		b.Exec(`TRUNCATE "T 1"`, `INSERT INTO "T 1" VALUES (1, 'one'), (2, NULL), (2, NULL)`)
	}
	pgtest.Equal(t, a, b)
}

func TestServer(t *testing.T) {
	s := pgtest.Start(t, 0, "work_mem=5MB")
	d := s.Database(t, "")
	d.Exec("CREATE TABLE t (a int)", "INSERT INTO t VALUES (1)")
	if got := d.Query("SHOW work_mem"); got != "5MB" {
		t.Errorf("work_mem is %s", got)
	}
	s.Kill()
	if _, err := d.Try("SELECT 1"); err == nil {
		t.Error("a killed server answers")
	}
	s.Restart(t)
	s.Stop()
	s.Restart(t)
	if got := d.Query("SELECT a FROM t"); got != "1" {
		t.Errorf("got %q", got)
	}
}
