package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// loaded makes the business's database and loads the target.
func loaded(t *testing.T, plugin string) (source, target *pgtest.DB, env *pgtest.Env) {
	t.Helper()
	source, target = pgtest.Pair(t)
	env = pgtest.NewEnv(t, source, target)
	source.Exec(businessOf(source.Major))
	env.Bash(`pgextract --slot "$1" --plugin "$2" | pgapply`, source.Name, plugin)
	return source, target, env
}

// Sync is killed at random times, and started again with the same command each time.
func TestKill(t *testing.T) {
	t.Parallel()
	killed(t, "pgoutput")
}

func TestPluginKill(t *testing.T) {
	pgtest.Long(t)
	t.Parallel()
	killed(t, "test_decoding")
}

func killed(t *testing.T, plugin string) {
	rnd := random(t)
	source, target, env := loaded(t, plugin)
	if source.Major >= 14 { // what is large is sent while it is in progress
		env.Source += "&logical_decoding_work_mem=64kB"
	}
	began := source.Query("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '" + source.Name + "'")
	fifo := filepath.Join(t.TempDir(), "applied")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	// As scripts/sync does: open all the time, whoever is there.
	applied, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer applied.Close()
	business := startBusiness(t, rnd, source, target, 4)
	kills := map[string]int{}
	for n := 0; n < pgtest.Often(8, 300) && !t.Failed(); n++ {
		decode, apply := pipeline(t, env, applied, "--slot", source.Name, "--confirm-from", fifo)
		at := time.After(time.Duration(50+rnd.IntN(700)) * time.Millisecond)
		ended := func() bool { return !decode.Running() || !apply.Running() }
		for done := false; !done; {
			select {
			case <-at:
				done = true
			case <-time.After(10 * time.Millisecond):
				done = ended()
			}
		}
		if ended() {
			t.Fatalf("ended by itself: pgdecode %d, pgapply %d\n%s%s", decode.Wait(soon),
				apply.Wait(soon), decode.Errors(), apply.Errors())
		}
		switch victim := []string{"pgdecode", "pgapply", "both"}[rnd.IntN(3)]; victim {
		case "pgdecode":
			decode.Kill()
			if status := apply.Wait(soon); status != 65 {
				t.Errorf("pgdecode was killed, and pgapply exits with %d, not 65 (the stream is cut)\n%s", status, apply.Errors())
			}
			kills[victim]++
		case "pgapply":
			apply.Kill()
			if status := decode.Wait(soon); status != 75 {
				t.Errorf("pgapply was killed, and pgdecode exits with %d, not 75 (try again)\n%s", status, decode.Errors())
			}
			kills[victim]++
		default:
			decode.Kill()
			apply.Kill()
			kills[victim]++
		}
	}
	t.Logf("killed: %v", kills)
	business.close()
	decode, apply := pipeline(t, env, applied, "--slot", source.Name, "--confirm-from", fifo, "--until", "now")
	if d, a := decode.Wait(soon), apply.Wait(time.Minute); d != 0 || a != 0 {
		t.Errorf("in the end pgdecode exits with %d, pgapply with %d\n%s%s", d, a, decode.Errors(), apply.Errors())
	}
	pgtest.Equal(t, source, target)
	if now := source.Query("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '" + source.Name + "'"); now == began {
		t.Errorf("the slot is where it was, at %s: nothing that was applied has been acknowledged", now)
	}
}

// pipeline starts pgdecode | pgapply.
func pipeline(t *testing.T, env *pgtest.Env, applied *os.File, args ...string) (decode, apply *pgtest.Process) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	return env.Start(nil, w, "pgdecode", args...), env.Start(r, applied, "pgapply")
}

// scripts/sync starts what was killed again by itself.
func TestSync(t *testing.T) {
	t.Parallel()
	rnd := random(t)
	source, target, env := loaded(t, "pgoutput")
	business := startBusiness(t, rnd, source, target, 2)
	applied := func() string { return target.Query("SELECT applied_lsn FROM pgsluice.streams") }
	moves := func(p *pgtest.Process) {
		t.Helper()
		from := applied()
		pgtest.Wait(t, 30*time.Second, "changes are applied", func() bool {
			if !p.Running() {
				t.Fatalf("sync has ended with %d\n%s", p.Wait(soon), p.Errors())
			}
			return applied() != from
		})
	}
	p := env.Start(nil, nil, script("sync"), source.Name)
	for n := range pgtest.Often(2, 4) {
		moves(p)
		kill(t, p, []string{"pgdecode", "pgapply"}[n%2])
	}
	moves(p)
	// The supervisor with all that it started, and another one in its place.
	p.Kill()
	p = env.Start(nil, nil, script("sync"), source.Name)
	moves(p)
	pgtest.Wait(t, 30*time.Second, "enough is going on",
		func() bool { return business.writes.Load() >= 100 && business.reads.Load() >= 100 })
	// The end of a shift.
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := p.Wait(30 * time.Second); status != 143 {
		t.Errorf("sync exits with %d after SIGTERM, not 143\n%s", status, p.Errors())
	}
	business.close()
	env.Bash(`pgdecode --slot "$1" --until now | pgapply`, source.Name)
	pgtest.Equal(t, source, target)
}

// kill kills the program of that name under a process.
func kill(t *testing.T, p *pgtest.Process, name string) {
	t.Helper()
	found := 0
	pgtest.Wait(t, 30*time.Second, name+" is running", func() bool {
		found = descendant(p.Process.Pid, name)
		return found != 0
	})
	if err := syscall.Kill(found, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func descendant(pid int, name string) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, f := range strings.Fields(string(b)) {
		var child int
		_, _ = fmt.Sscan(f, &child)
		if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", child)); strings.TrimSpace(string(comm)) == name {
			return child
		}
		if found := descendant(child, name); found != 0 {
			return found
		}
	}
	return 0
}
