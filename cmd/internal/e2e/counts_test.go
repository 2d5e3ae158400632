package e2e

import (
	"strconv"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// status counts every change that was applied, also in the last moments before a cutover.
func TestCountsAfterCutover_C12(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	slot := "c_" + source.Name
	source.Exec("CREATE TABLE counted (id int PRIMARY KEY)")
	e := pgtest.NewEnv(t, source, target)
	e.Bash(`pgextract --slot "$1" | pgapply`, slot)
	sync := e.Start(nil, nil, "bash", pgtest.Root()+"/scripts/sync", slot)
	e.Must(nil, "pgcutover", "wait", "caught-up", "--slot", slot, "--timeout", "60s")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 1; ; i++ {
			if _, err := source.Try("INSERT INTO counted VALUES (" + strconv.Itoa(i) + ")"); err != nil {
				return
			}
		}
	}()
	pgtest.Wait(t, 30*time.Second, "some rows are there", func() bool { return target.Query("SELECT count(*) > 20 FROM counted") == "t" })
	for _, step := range []string{"fence", "drain", "open"} {
		e.Must(nil, "pgcutover", step, "--slot", slot)
	}
	<-done
	if status := sync.Wait(soon); status != 0 {
		t.Errorf("sync: status %d", status)
	}
	if inserts, rows := target.Query("SELECT sum(inserts) FROM pgsluice.tables"),
		target.Query("SELECT count(*) FROM counted"); inserts != rows {
		t.Errorf("%s rows were inserted, %s are counted", rows, inserts)
	}
}
