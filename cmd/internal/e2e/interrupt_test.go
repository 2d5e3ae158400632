package e2e

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Ctrl-C reaches all programs of a pipe, and pgapply may see the end of its stream before the
// signal. That is not a failure: the last lines say how far the load is and how to continue it.
func TestInterruptedBehindItsStream_H9(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE t (a int PRIMARY KEY, b text)", "INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 50000) g")
	e := pgtest.NewEnv(t, source, target)
	stream := e.Must(nil, "pgextract", "--slot", source.Name)
	goOn := "pgextract --slot " + source.Name + " --resume | pgapply\n"
	for _, c := range []struct {
		signal bool
		status int
		says   string
	}{{true, 130, " of 1 table and 0 rows are on the target"}, {false, 65, "stream is truncated"}} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		p := e.Start(r, nil, "pgapply")
		_ = r.Close()
		if _, err := w.Write(stream[:len(stream)*3/4]); err != nil {
			t.Fatal(err)
		}
		pgtest.Wait(t, soon, "the load has begun", func() bool { return strings.Contains(p.Errors(), "target ") })
		_ = w.Close()
		if c.signal {
			time.Sleep(100 * time.Millisecond) // it has seen the end by then
			_ = p.Process.Signal(syscall.SIGINT)
		}
		status := p.Wait(soon)
		if said := p.Errors(); status != c.status || !strings.Contains(said, c.says) || !strings.HasSuffix(said, goOn) {
			t.Errorf("status %d: %s", status, said)
		}
	}
}

// If sync has exited with a permanent error, neither pgcutover nor scripts/cutover waits for it.
// They print that error.
func TestWaitsForNoFailedSync(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	e, slot := scriptPair(t, source, target)
	sync := e.Start(nil, nil, "bash", script("sync"), slot)
	source.Exec("INSERT INTO t VALUES (1000, 'y')")
	follow(t, source, target)
	// A row that stands in the way of the next one, which is waited for until it is certain that it
	// does.
	ctx := pgtest.Context(t)
	c := target.Connect()
	tx, err := c.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, "INSERT INTO public.t VALUES (1001, 'in the way')"); err != nil {
		t.Fatal(err)
	}
	source.Exec("INSERT INTO t VALUES (1001, 'y')")
	cutover := e.Start(nil, nil, "bash", script("cutover"), slot, "--yes")
	pgtest.Wait(t, soon, "cutover waits for the target", func() bool {
		return target.Query("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pgcutover' AND query LIKE 'SELECT applied_lsn%'") != "0"
	})
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if status := sync.Wait(soon); status == 0 || status == 75 {
		t.Errorf("sync: status %d: %s", status, sync.Errors())
	}
	began := time.Now()
	status := cutover.Wait(soon)
	if took := time.Since(began); status != 78 || took > 15*time.Second || !strings.Contains(cutover.Errors(), "public.t") {
		t.Errorf("status %d after %v: %s", status, took, cutover.Errors())
	}
	if n := source.Query("SHOW default_transaction_read_only"); n != "off" {
		t.Error("the source is fenced")
	}
}
