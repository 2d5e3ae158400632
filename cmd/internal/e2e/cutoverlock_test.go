package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A clients is an application: sessions that insert rows wherever they may, first on the source,
// and remember the rows that a server has acknowledged.
type clients struct {
	t     *testing.T
	uris  []string
	done  sync.WaitGroup
	over  atomic.Bool
	mu    sync.Mutex
	acked []int
}

// startClients starts n sessions that insert rows into table w.
func startClients(t *testing.T, n int, uris ...string) *clients {
	c := &clients{t: t, uris: uris}
	for i := range n {
		c.done.Go(func() { c.insert(i * 1000000) })
	}
	t.Cleanup(func() { c.over.Store(true); c.done.Wait() })
	return c
}

func (c *clients) insert(key int) {
	ctx := c.t.Context()
	for n := 0; !c.over.Load(); n++ {
		conn, err := pgx.Connect(ctx, c.uris[n%len(c.uris)])
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		for err == nil && !c.over.Load() {
			key++
			if _, err = conn.Exec(ctx, "INSERT INTO w VALUES ($1)", key); err == nil {
				c.mu.Lock()
				c.acked = append(c.acked, key)
				c.mu.Unlock()
				time.Sleep(2 * time.Millisecond)
			}
		}
		_ = conn.Close(ctx)
	}
}

// stop stops the sessions, and returns how many rows were acknowledged and are missing.
func (c *clients) stop(primary *pgtest.DB) (acked, missing int) {
	c.over.Store(true)
	c.done.Wait()
	found := make(map[string]bool)
	for _, key := range strings.Fields(primary.Query("SELECT string_agg(a::text, ' ') FROM w")) {
		found[key] = true
	}
	for _, key := range c.acked {
		if !found[fmt.Sprint(key)] {
			missing++
		}
	}
	return len(c.acked), missing
}

// Two cutovers at once: one does everything, and the other changes nothing. No acknowledged row is
// lost.
func TestTwoCutovers_F15(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	a, b := pgtest.Start(t, pgtest.Source(t).Major), pgtest.Target(t)
	for round := range pgtest.Often(1, 8) {
		source, target := a.Database(t, ""), b.Database(t, "")
		source.Exec("CREATE TABLE w (a int PRIMARY KEY)")
		e, slot := scriptPair(t, source, target)
		sync := e.Start(nil, nil, "bash", script("sync"), slot)
		app := startClients(t, 3, source.As("postgres", ""))
		var both [2]*pgtest.Process
		for i := range both {
			both[i] = e.Start(nil, nil, "bash", script("cutover"), slot, "--yes", "--verify", []string{"behind", "no", "first"}[(round+i)%3])
			time.Sleep(time.Duration(random(t).IntN(400)) * time.Millisecond)
		}
		won := 0
		for _, p := range both {
			switch status := p.Wait(soon); {
			case status == 0:
				won++
			case status != 75 || !strings.Contains(p.Errors(), "another cutover"):
				t.Errorf("status %d: %s", status, p.Errors())
			case strings.Contains(p.Errors(), "reopening"):
				t.Errorf("the one that was refused touched the source: %s", p.Errors())
			}
		}
		if won != 1 {
			t.Errorf("%d cutovers succeeded:\n%s\n%s", won, both[0].Errors(), both[1].Errors())
		}
		if acked, missing := app.stop(target); acked == 0 || missing > 0 {
			t.Errorf("of %d acknowledged rows, %d are missing", acked, missing)
		}
		if writable(source) || !writable(target) {
			t.Error("the source can be written to, or the target cannot")
		}
		if status := sync.Wait(soon); status != 0 {
			t.Errorf("sync: status %d: %s", status, sync.Errors())
		}
	}
}

// A cutover whose lock is lost, or that is killed, keeps nobody out, and no step of another cutover
// runs beside its own.
func TestCutoverLockLost_F15(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Start(t, pgtest.Source(t).Major).Database(t, ""), pgtest.Target(t).Database(t, "")
	e, slot := scriptPair(t, source, target)
	sync := e.Start(nil, nil, "bash", script("sync"), slot)
	follow(t, source, target)
	holders := func() string {
		return target.Query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND pid IN (SELECT pid FROM pg_stat_activity WHERE application_name = 'pgcutover')")
	}
	free := func() bool { return holders() == "0" }
	// held starts a cutover that cannot begin its drain.
	held := func() (p *pgtest.Process, release func()) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "go")
		h := pgtest.Wrapped(t, e, `[[ $1 != drain ]] || until [[ -e `+file+` ]]; do sleep 0.05; done`)
		p = h.Start(nil, nil, "bash", script("cutover"), slot, "--yes")
		pgtest.Wait(t, soon, "the source is fenced", func() bool { return !writable(source) })
		return p, func() {
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Error(err)
			}
		}
	}
	refused := func(args ...string) {
		t.Helper()
		if status, _, errs := e.Run(nil, args[0], args[1:]...); status != 75 || !strings.Contains(errs, "another cutover is at work") ||
			!strings.Contains(errs, "role postgres") {
			t.Errorf("%v: status %d: %s", args, status, errs)
		}
	}
	// By hand, nothing can be done beside it.
	p, release := held()
	for _, verb := range []string{"fence", "open", "unfence", "finish", "drain"} {
		refused("pgcutover", verb, "--slot", slot)
	}
	refused("pgcutover", "cleanup", "--slot", slot, "--force")
	refused("bash", script("cutover"), slot, "--yes")
	if writable(source) {
		t.Error("the source was given back")
	}
	// The session that holds the lock is ended: no further step is done, and the source is given
	// back.
	target.Exec("SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = 'advisory' AND a.application_name = 'pgcutover' AND a.datname = current_database()")
	release()
	if status := p.Wait(soon); status == 0 || !writable(source) {
		t.Errorf("the lock is lost: status %d, the source can be written to: %v: %s", status, writable(source), p.Errors())
	}
	pgtest.Wait(t, soon, "nobody holds the lock", free)
	// Killed: the lock is gone with it, and the next one goes on.
	p, release = held()
	if err := syscall.Kill(p.Process.Pid, syscall.SIGKILL); err != nil { // and no other process
		t.Fatal(err)
	}
	release()
	if status, _, errs := e.Run(nil, "bash", script("cutover"), slot, "--yes"); status != 0 {
		t.Errorf("after a kill: status %d: %s", status, errs)
	}
	if status := sync.Wait(soon); status != 0 {
		t.Errorf("sync: status %d: %s", status, sync.Errors())
	}
	pgtest.Wait(t, soon, "nobody holds the lock", free)
}
