package e2e

import (
	"os"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A cutover that is started while the load still runs, and nobody syncs, does not close the source:
// the pgapply of the load is none that applies changes.
func TestCutoverDuringLoad_F10(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE t (a int PRIMARY KEY, b text)", "INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 50000) g",
		"CREATE TABLE w (a int PRIMARY KEY)")
	e := pgtest.NewEnv(t, source, target)
	slot := "dur_" + source.Name
	stream := e.Must(nil, "pgextract", "--slot", slot)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	load := e.Start(r, nil, "pgapply")
	_ = r.Close()
	if _, err := w.Write(stream[:len(stream)*3/4]); err != nil {
		t.Fatal(err)
	}
	pgtest.Wait(t, soon, "the load has begun", func() bool {
		n, err := target.Try("SELECT count(*) FROM pgsluice.streams")
		return err == nil && n == "1"
	})
	// A session of the application, which a fence would end.
	app := source.Connect()
	insert := func(id int) {
		t.Helper()
		if _, err := app.Exec(pgtest.Context(t), "INSERT INTO w VALUES ($1)", id); err != nil {
			t.Errorf("the application: %v", err)
		}
	}
	insert(1)
	cutover := e.Start(nil, nil, "bash", script("cutover"), slot, "--yes")
	pgtest.Wait(t, soon, "the cutover has ended, or waits for sync", func() bool {
		return !cutover.Running() || target.Query("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgcutover' AND query LIKE '%applied_lsn%'") != "0"
	})
	insert(2)
	if _, err := w.Write(stream[len(stream)*3/4:]); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	if status := load.Wait(soon); status != 0 {
		t.Errorf("the load: status %d: %s", status, load.Errors())
	}
	if status := cutover.Wait(2 * soon); status == 0 {
		t.Errorf("a cutover that nobody has applied changes for: %s", cutover.Errors())
	}
	insert(3)
	if n := target.Query("SELECT count(*) FROM pgsluice.cutover WHERE step IN ('fence', 'drain', 'open')"); n != "0" {
		t.Errorf("%s steps have begun: %s", n, cutover.Errors())
	}
}
