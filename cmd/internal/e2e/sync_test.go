package e2e

import (
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// soon bounds every wait for something that should come at once.
const soon = 2 * time.Minute

// startSync starts scripts/sync for the slot that has the source's name.
func startSync(env *pgtest.Env, source *pgtest.DB, args ...string) *pgtest.Process {
	script := "cd '" + pgtest.Root() + `'; exec scripts/sync "$@"`
	return env.Start(nil, nil, "bash", append([]string{"-c", script, "sync", source.Name}, args...)...)
}

// stopSync ends it as an operator would.
func stopSync(t *testing.T, p *pgtest.Process) {
	t.Helper()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := p.Wait(soon); status != 143 {
		t.Errorf("sync ended with %d:\n%s", status, p.Errors())
	}
}

// The slot of an idle database must not hold back the WAL that other databases of its server write:
// a day and night of segments and checkpoints.
func TestIdleSlotAdvances(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	server := pgtest.Start(t, 0)
	source, busy, target := server.Database(t, ""), server.Database(t, ""), pgtest.Target(t).Database(t, "")
	source.Exec("CREATE TABLE t (a int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
	busy.Exec("CREATE TABLE b (a int, b text)")
	env := pgtest.NewEnv(t, source, target)
	env.Bash(`pgextract --slot "$1" | pgapply`, source.Name)
	sync := startSync(env, source)
	retained := func() int64 {
		n, err := strconv.ParseInt(source.Query(`SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint FROM pg_replication_slots WHERE slot_name = '`+
			source.Name+`'`), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const limit = 64 << 20
	var most int64
	for range 40 {
		busy.Exec("INSERT INTO b SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i", "SELECT pg_switch_wal()", "CHECKPOINT")
		pgtest.Wait(t, soon, "less than 64 MB of WAL are held back", func() bool { return retained() < limit })
		most = max(most, retained())
	}
	t.Logf("at most %d MB were held back, of %s MB", most>>20,
		source.Query("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint >> 20"))
	source.Exec("INSERT INTO t VALUES (2)")
	pgtest.Wait(t, soon, "a row after all that", func() bool { return target.Query("SELECT count(*) FROM t") == "2" })
	stopSync(t, sync)
}

// A transaction that began before another one's commit and ended after it is applied, whatever lies
// between: transactions are ordered and skipped by where they commit, never by where they began.
func TestLongTransaction(t *testing.T) {
	pgtest.Long(t)
	t.Parallel()
	for _, between := range []string{"nothing", "a restart", "a full load", "a full load of an adopted slot"} {
		t.Run(between, func(t *testing.T) {
			source, target := pgtest.Pair(t)
			source.Exec("CREATE TABLE t (a int PRIMARY KEY, b text)")
			env := pgtest.NewEnv(t, source, target)
			env.Vars = []string{"SLOT=" + source.Name}
			load := func() { env.Bash(`pgextract --slot "$SLOT" | pgapply`) }
			sync := func() {
				env.Bash(`pgdecode --slot "$SLOT" --until now --confirm-from "$1" | pgapply > "$1"`, t.TempDir()+"/applied")
			}
			begin := func(rows string) func() {
				c := source.Connect()
				for _, sql := range []string{"BEGIN", "INSERT INTO t SELECT i, 'long' FROM generate_series(" + rows + ") i"} {
					if _, err := c.Exec(pgtest.Context(t), sql); err != nil {
						t.Fatal(err)
					}
				}
				return func() {
					if _, err := c.Exec(pgtest.Context(t), "COMMIT"); err != nil {
						t.Fatal(err)
					}
				}
			}
			switch between {
			case "nothing", "a restart":
				load()
				commit := begin("1, 1000")
				source.Exec("INSERT INTO t VALUES (2000, 'short')")
				if between == "a restart" {
					sync()
					if n := target.Query("SELECT count(*) FROM t"); n != "1" {
						t.Errorf("%s rows before the long transaction has ended", n)
					}
				}
				commit()
			case "a full load of an adopted slot":
				source.Exec("CREATE PUBLICATION "+source.Name+" FOR ALL TABLES",
					"SELECT pg_create_logical_replication_slot('"+source.Name+"', 'pgoutput')")
				source.Exec("INSERT INTO t VALUES (2000001, 'before the load')")
				fallthrough
			case "a full load":
				// The creation of a slot waits for transactions that are older than it. One that
				// begins while it waits is in neither snapshot nor slot until it commits; one that
				// it waits for is in the snapshot.
				first := begin("1, 1000")
				done := make(chan struct{})
				go func() { defer close(done); load() }()
				pgtest.Wait(t, soon, "the slot's creation waits", func() bool {
					return source.Query("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' AND datname = '"+
						source.Name+"' AND wait_event_type = 'Lock'") == "1"
				})
				second := begin("1001, 2000")
				source.Exec("INSERT INTO t VALUES (2000000, 'short')")
				first()
				// It waits once more, for those that ran when the first one ended.
				third := begin("2001, 3000")
				second()
				third()
				<-done
			}
			source.Exec("INSERT INTO t VALUES (4000, 'last')")
			sync()
			sync()
			pgtest.Equal(t, source, target)
			if target.Query("SELECT count(*) > 1000 FROM t") != "t" {
				t.Error("the long transaction is missing")
			}
		})
	}
}
