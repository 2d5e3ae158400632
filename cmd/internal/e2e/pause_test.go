package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// held is an application behind PgBouncer that does not expect any error: each of its clients
// inserts one row after the other.
type held struct {
	done  sync.WaitGroup
	over  context.CancelFunc
	acked atomic.Int64
	err   atomic.Pointer[error] // the first one
}

func startHeld(t *testing.T, n int, uri string) *held {
	ctx, over := context.WithCancel(context.Background())
	h := &held{over: over}
	for i := range n {
		h.done.Go(func() {
			config, err := pgx.ParseConfig(uri)
			if err == nil {
				config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
				err = h.insert(ctx, config, i*1_000_000)
			}
			if err != nil && ctx.Err() == nil {
				h.err.CompareAndSwap(nil, &err)
			}
		})
	}
	t.Cleanup(h.stop)
	return h
}

func (h *held) insert(ctx context.Context, config *pgx.ConnConfig, key int) error {
	c, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer c.Close(context.Background())
	for ctx.Err() == nil {
		// Two statements, because a pooler can change servers between transactions only.
		tx, err := c.Begin(ctx)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "INSERT INTO w VALUES ($1)", key); err != nil {
			return err
		}
		// What is committed without our knowing of it must not count as lost or doubled.
		if err := tx.Commit(context.WithoutCancel(ctx)); err != nil {
			return err
		}
		h.acked.Add(1)
		key++
		time.Sleep(2 * time.Millisecond)
	}
	return nil
}

func (h *held) stop() {
	h.over()
	h.done.Wait()
}

// goOn waits until clients write again, and fails the test if one of them saw an error.
func (h *held) goOn(t *testing.T, after string) {
	t.Helper()
	before := h.acked.Load()
	pgtest.Wait(t, 20*time.Second, "the clients write after: "+after, func() bool {
		return h.acked.Load() > before+10 || h.err.Load() != nil
	})
	if err := h.err.Load(); err != nil {
		t.Fatalf("a client saw an error: %v; after: %s", *err, after)
	}
}

// Clients of PgBouncer in transaction mode see no error of a cutover: not when a step fails, not
// when the script is killed and run again, and not when it succeeds. No row that was acknowledged
// is lost. A client beside PgBouncer cannot write any more.
func TestClientsAreHeld(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE w (a int PRIMARY KEY)")
	e, slot := scriptPair(t, source, target)
	b := pgtest.StartPgBouncer(t, fmt.Sprintf("app-1.x = host=127.0.0.1 port=%d dbname=%s user=postgres", source.Port, source.Name),
		"auth_type=any", "pool_mode=transaction", "admin_users=postgres")
	e.Vars = append(e.Vars, "PGBOUNCER_ADMIN=host=127.0.0.1 port="+b.Port+" user=postgres dbname=pgbouncer",
		"PGBOUNCER_DATABASE=app-1.x", "PGBOUNCER_INI="+b.INI, "PGBOUNCER_TIMEOUT=1")
	follower := e.Start(nil, nil, "bash", script("sync"), slot)
	direct := source.Connect()
	app := startHeld(t, 4, "postgres://postgres@127.0.0.1:"+b.Port+"/app-1.x?sslmode=disable")
	app.goOn(t, "the start")
	hook := script("hooks/pgbouncer")
	cutover := func(line string) (int, string) {
		t.Helper()
		status, _, errs := pgtest.Wrapped(t, e, line).Run(nil, "bash", script("cutover"), slot, "--yes", "--pause", hook+" pause",
			"--switch", fmt.Sprintf("%s switch 127.0.0.1 %d %s", hook, target.Port, target.Name), "--resume", hook+" resume")
		return status, errs
	}
	steps := []string{"drain"}
	if pgtest.Full() {
		steps = []string{"wait", "missing", "ready", "fence", "drain", "open"}
	}
	for _, step := range steps {
		for _, how := range []string{"exit 75", "kill -9 $PPID; exit"} {
			// fence --check is another step than fence.
			if status, errs := cutover(`[[ $1 != ` + step + ` || $2 == --check ]] || { ` + how + `; }`); status == 0 {
				t.Fatalf("%s at %s: status 0\n%s", how, step, errs)
			}
			if how != "exit 75" {
				// The same command again, which fails early: the clients of the killed one go on.
				if status, errs := cutover("[[ $1 != missing ]] || exit 75"); status == 0 {
					t.Fatalf("after %s at %s: status 0\n%s", how, step, errs)
				}
			}
			app.goOn(t, how+" at "+step)
		}
	}
	// The clients do not wait for ever for one of them whose transaction takes long.
	long, err := pgx.Connect(pgtest.Context(t), "postgres://postgres@127.0.0.1:"+b.Port+"/app-1.x?sslmode=disable&default_query_exec_mode=simple_protocol")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := long.Exec(pgtest.Context(t), "BEGIN; SELECT 1"); err != nil {
		t.Fatal(err)
	}
	if status, errs := cutover(""); status != 75 {
		t.Fatalf("beside a long transaction: status %d\n%s", status, errs)
	}
	if _, err := long.Exec(pgtest.Context(t), "COMMIT"); err != nil {
		t.Errorf("the long transaction: %v", err)
	}
	_ = long.Close(pgtest.Context(t))
	app.goOn(t, "a long transaction")
	// Killed when the target is open, and run again.
	if status, errs := cutover(`[[ $1 != open ]] || { run "$@" && kill -9 $PPID; exit; }`); status == 0 {
		t.Fatalf("killed behind open: status 0\n%s", errs)
	}
	if status, errs := cutover(""); status != 0 {
		t.Fatalf("status %d\n%s\nsync: %s", status, errs, follower.Errors())
	}
	app.goOn(t, "the cutover")
	app.stop()
	follower.Wait(soon)
	if n := target.Query("SELECT count(*) FROM w"); n != fmt.Sprint(app.acked.Load()) {
		t.Errorf("the target has %s rows, and %d were acknowledged", n, app.acked.Load())
	}
	if _, err := direct.Exec(pgtest.Context(t), "INSERT INTO w VALUES (-1)"); err == nil {
		t.Error("a client beside PgBouncer writes to the old primary")
	}
}

// Where PgBouncer has a line for all names of databases, a client chooses what SHOW DATABASES
// prints, without a password. The hook takes no line of such a name for another one, and runs
// nothing that is in it.
func TestNamesInPgBouncer(t *testing.T) {
	t.Parallel()
	b := pgtest.StartPgBouncer(t, "shop = host=127.0.0.1 port=1 user=postgres\n* = host=127.0.0.1 port=1 user=postgres", "auth_type=any", "admin_users=postgres")
	dir, err := os.MkdirTemp("", "p") // the name of a database must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ran := filepath.Join(dir, "ran")
	config, err := pgx.ParseConfig("postgres://postgres@127.0.0.1:" + b.Port + "/x?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	config.ConnectTimeout = time.Second
	for _, paused := range []string{"1", "rows[$(:>" + ran + ")]"} {
		config.Database = "a\nname=shop\npaused=" + paused
		if c, err := pgx.ConnectConfig(pgtest.Context(t), config); err == nil {
			_ = c.Close(pgtest.Context(t))
		}
	}
	e := &pgtest.Env{T: t, Dir: t.TempDir(), Vars: []string{"PGBOUNCER_ADMIN=host=127.0.0.1 port=" + b.Port + " user=postgres dbname=pgbouncer",
		"PGBOUNCER_DATABASE=shop", "PGBOUNCER_INI=" + b.INI}}
	if out := e.Bash(`psql -XAt -d "$PGBOUNCER_ADMIN" -c "SHOW DATABASES"`); !strings.Contains(out, "paused=rows[") {
		t.Fatalf("PgBouncer has no such databases: %q", out)
	}
	if status, _, errs := e.Run(nil, "bash", script("hooks/pgbouncer"), "resume"); status != 0 || errs != "" {
		t.Errorf("resume where nothing is paused: status %d: %s", status, errs)
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("the hook has run a command from the name of a database")
	}
}
