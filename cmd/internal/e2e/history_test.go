package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// past makes a source of its own with a target that was loaded from it.
func past(t *testing.T) (source, target *pgtest.DB, e *pgtest.Env) {
	t.Helper()
	major := pgtest.Source(t).Major
	if major < 12 {
		t.Skip("the test sets up recovery as PostgreSQL 12 and newer want it")
	}
	source = pgtest.Start(t, major).Database(t, "")
	target = pgtest.Target(t).Database(t, "")
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("CREATE TABLE t (id int PRIMARY KEY, v text)")
	}
	e = pgtest.NewEnv(t, source, target)
	// there may be no pg_dump of its version
	e.Bash(`pgextract --slot "$1" --data-only | pgapply`, source.Name)
	return source, target, e
}

// rows inserts rows, one in each transaction, and some WAL behind them.
func rows(d *pgtest.DB, what string, from, to int) {
	for i := from; i <= to; i++ {
		d.Exec(fmt.Sprintf("INSERT INTO t VALUES (%d, '%s')", i, what))
	}
}

// filler writes WAL that no target gets.
func filler(d *pgtest.DB) {
	d.Exec("CREATE TABLE filler AS SELECT g, repeat(md5(g::text), 8) r FROM generate_series(1, 20000) g", "DROP TABLE filler")
}

// mustPart fails the test if the target lacks new rows of the source although sync has ended with
// 0.
func mustPart(t *testing.T, source, target *pgtest.DB, what string, status int, errs string) {
	t.Helper()
	if status != 69 || !strings.Contains(errs, ": hint: ") {
		t.Errorf("%s: status %d, not 69: %s", what, status, errs)
	}
	if n := target.Query("SELECT count(*) FROM t WHERE v = 'new'"); n != "0" {
		t.Errorf("%s: %s rows of the other history are on the target", what, n)
	}
	if n := source.Query("SELECT count(*) FROM t WHERE v = 'new'"); n == "0" {
		t.Fatal("the test has made no rows")
	}
}

// A source that goes back in time, on a new timeline or on the same, is noticed before a row of its
// new history is skipped.
func TestSourceGoesBack_I4(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	for i, newTimeline := range []bool{false, true} {
		for j, how := range []string{"pipe", "sync", "longer", "idle", "output"} {
			if pgtest.Often(0, 1) == 0 && (i+j)%2 == 1 {
				continue // half of them, but for a full run
			}
			t.Run(fmt.Sprintf("%s, new timeline %v", how, newTimeline), func(t *testing.T) {
				source, target, e := past(t)
				file := filepath.Join(t.TempDir(), "changes.pgs")
				// once brings over what there is.
				once := func() (int, string) {
					t.Helper()
					script := `pgdecode --slot "$1" --until now | pgapply; exit $((PIPESTATUS[1] == 65 ? PIPESTATUS[0] : PIPESTATUS[1]))`
					switch how {
					case "sync", "idle":
						script = `pgdecode --slot "$1" --until now --confirm-from "$2.applied" | pgapply >"$2.applied"; exit $((PIPESTATUS[1] == 65 ? PIPESTATUS[0] : PIPESTATUS[1]))`
					case "output":
						script = `set -e; pgdecode --slot "$1" --until now --output "$2"; pgapply < "$2"`
					}
					status, _, errs := e.Run(nil, "bash", "-c", script, "once", source.Name, file)
					return status, errs
				}
				rows(source, "common", 1, 2)
				if status, errs := once(); status != 0 {
					t.Fatalf("status %d: %s", status, errs)
				}
				copied := source.Copy(t)
				if how != "idle" {
					rows(source, "old", 11, 15)
				} else {
					filler(source) // the position moves without a transaction
				}
				if status, errs := once(); status != 0 {
					t.Fatalf("status %d: %s", status, errs)
				}
				passed := source.Query("SELECT clock_timestamp() + interval '1s'")
				source.Restore(t, copied, newTimeline)
				// Nobody restores a server within the second that a commit may take to be durable.
				pgtest.Wait(t, 30*time.Second, "a second has passed",
					func() bool { return source.Query("SELECT clock_timestamp() > '"+passed+"'") == "t" })
				rows(source, "new", 21, 22)
				if how == "longer" || how == "output" {
					filler(source)
					rows(source, "new", 31, 40)
				}
				for range 2 { // and it stays so
					status, errs := once()
					mustPart(t, source, target, how, status, errs)
				}
				filler(source)
				rows(source, "new", 41, 50)
				status, errs := once()
				mustPart(t, source, target, how+", later", status, errs)
			})
		}
	}
}

// A pgdecode that runs while its source goes back does not continue.
func TestSourceGoesBackMeanwhile_I4(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	for _, newTimeline := range []bool{false, true} {
		t.Run(fmt.Sprintf("new timeline %v", newTimeline), func(t *testing.T) {
			source, target, e := past(t)
			rows(source, "common", 1, 2)
			copied := source.Copy(t)
			p := e.Start(nil, nil, "bash", script("sync"), source.Name)
			rows(source, "old", 11, 15)
			pgtest.Wait(t, 30*time.Second, "the rows are there", func() bool { return target.Query("SELECT count(*) FROM t") == "7" })
			source.Kill()
			source.Restore(t, copied, newTimeline)
			rows(source, "new", 21, 30)
			mustPart(t, source, target, "sync", p.Wait(2*time.Minute), p.Errors())
		})
	}
}

// What is no new history passes: restarts and crashes of the source, a recovery that lost nothing,
// and files that were applied before.
func TestSameHistory_I4(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target, e := past(t)
	once := `pgdecode --slot "$1" --until now | pgapply`
	file := filepath.Join(t.TempDir(), "old.pgs")
	rows(source, "x", 1, 3)
	e.Bash(`pgdecode --slot "$1" --until now | tee "$2" | pgapply`, source.Name, file)
	source.Stop()
	source.Restart(t)
	rows(source, "x", 4, 6)
	e.Bash(once, source.Name)
	source.Kill()
	source.Restart(t)
	rows(source, "x", 7, 9)
	e.Bash(once, source.Name)
	pgtest.Equal(t, source, target)
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	e.Must(old, "pgapply")

	// A recovery to where the server was begins a new timeline, and loses nothing.
	e.Bash(once, source.Name)
	copied := source.Copy(t)
	source.Restore(t, copied, true)
	if got := source.Query("SELECT timeline_id FROM pg_control_checkpoint()"); got == "1" {
		t.Fatal("the timeline is the old one")
	}
	rows(source, "x", 10, 12)
	e.Bash(once, source.Name)
	pgtest.Equal(t, source, target)
	if got := target.Query("SELECT timeline, history LIKE '1@%' FROM pgsluice.streams"); got != "2\tt" {
		t.Errorf("the target remembers %s", got)
	}
	e.Must(old, "pgapply") // of the first timeline
	pgtest.Equal(t, source, target)
}

// A large transaction that changes no table of the stream comes in blocks, or, where the session
// begins behind its changes, not at all. That is no other history.
func TestEmptyBlocks_I4(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target, e := past(t)
	source.Exec("ALTER DATABASE "+source.Name+" SET logical_decoding_work_mem = '64kB'", "CREATE TABLE other (a text)")
	p := e.Start(nil, nil, "bash", script("sync"), source.Name)
	arrived := func() {
		t.Helper()
		lsn := source.Query("SELECT pg_current_wal_lsn()")
		pgtest.Wait(t, 30*time.Second, "the target is there", func() bool {
			return target.Query("SELECT applied_lsn >= '"+lsn+"' FROM pgsluice.streams") == "t"
		})
	}
	rows(source, "x", 1, 3)
	source.Exec("INSERT INTO other SELECT repeat(md5(g::text), 8) FROM generate_series(1, 5000) g")
	arrived()
	source.Kill() // its slot forgets what was confirmed
	source.Restart(t)
	rows(source, "x", 4, 6)
	arrived()
	_ = p.Process.Signal(os.Interrupt)
	p.Wait(soon)
	if got := target.Query("SELECT count(*) FROM t"); got != "6" {
		t.Errorf("the target has %s rows: %s", got, p.Errors())
	}
}
