package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A rotation replaces the password of role mover, again and again.
type rotation struct {
	t      *testing.T
	file   string // where the password command finds it
	server *pgtest.DB
	mu     sync.Mutex
	all    []string // every password so far
}

const secretMark = "s3cr3t-"

func (r *rotation) rotate() {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := fmt.Sprintf("%s%d-%d", secretMark, time.Now().UnixNano(), len(r.all))
	if _, err := r.server.Try("ALTER ROLE mover PASSWORD '" + next + "'"); err != nil {
		r.t.Error(err)
	}
	if err := os.WriteFile(r.file+".new", []byte(next+"\n"), 0o600); err != nil {
		r.t.Error(err)
	}
	if err := os.Rename(r.file+".new", r.file); err != nil {
		r.t.Error(err)
	}
	r.all = append(r.all, next)
}

// end ends all sessions of the role.
func (r *rotation) end() {
	if _, err := r.server.Try("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'mover'"); err != nil {
		r.t.Error(err)
	}
}

// every calls do in the background until the context ends.
func every(ctx context.Context, wg *sync.WaitGroup, d time.Duration, do func()) {
	wg.Go(func() {
		for tick := time.NewTicker(d); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
				do()
			}
		}
	})
}

// leaked returns the processes that show a password in their command line, or in their environment
// unless that is pg_dump's.
func leaked() (list []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, cmdline := range files {
		dir := filepath.Dir(cmdline)
		args, _ := os.ReadFile(cmdline)
		environ, _ := os.ReadFile(filepath.Join(dir, "environ"))
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		if bytes.Contains(args, []byte(secretMark)) ||
			bytes.Contains(environ, []byte(secretMark)) && strings.TrimSpace(string(comm)) != "pg_dump" {
			list = append(list, strings.TrimSpace(string(comm)))
		}
	}
	return list
}

// A migration with passwords that live for seconds, on servers that end all sessions while it
// runs, loses nothing; no password is seen anywhere but in the environment of pg_dump.
func TestRotatedPasswords(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	server := pgtest.Start(t, 0)
	server.AskPasswords(t)
	source, target := server.Database(t, ""), server.Database(t, "")
	r := &rotation{t: t, file: filepath.Join(t.TempDir(), "password"), server: source}
	source.Exec("CREATE ROLE mover LOGIN REPLICATION", "GRANT pg_monitor TO mover")
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("GRANT CREATE ON DATABASE " + d.Name + " TO mover")
	}
	rows := pgtest.Often(5_000, 200_000)
	source.Exec("CREATE TABLE t (a int PRIMARY KEY, b text)", "ALTER TABLE t OWNER TO mover",
		fmt.Sprintf("INSERT INTO t SELECT g, 'x' FROM generate_series(1, %d) g", rows))
	target.Exec("GRANT CREATE ON SCHEMA public TO mover")
	r.rotate()
	e := pgtest.NewEnv(t, source, target)
	e.Source, e.Target = source.As("mover", ""), target.As("mover", "")
	e.Vars = []string{"PGSLUICE_SOURCE_PASSWORD_COMMAND=cat '" + r.file + "'", "PGSLUICE_TARGET_PASSWORD_COMMAND=cat '" + r.file + "'"}

	ctx, cancel := context.WithCancel(pgtest.Context(t))
	var wg sync.WaitGroup
	defer func() { cancel(); wg.Wait() }()
	every(ctx, &wg, time.Duration(pgtest.Often(700, 5000))*time.Millisecond, r.rotate)
	every(ctx, &wg, 100*time.Millisecond, func() {
		if list := leaked(); len(list) > 0 {
			t.Errorf("these show a password: %v", list)
		}
	})
	ending, calm := context.WithCancel(ctx)
	if pgtest.Full() {
		every(ending, &wg, 7*time.Second, r.end)
	}
	var said []string
	for options, tries := "", 0; ; tries++ {
		status, out, errs := e.Run(nil, "bash", "-c", "set -o pipefail; pgextract --slot mig"+options+" | pgapply")
		said = append(said, string(out), errs)
		if status == 0 {
			break
		}
		if status != 75 && status != 65 || tries == 40 {
			t.Fatalf("load: status %d\n%s", status, errs)
		}
		options = " --resume"
	}
	writing, stop := context.WithCancel(ctx)
	n := rows
	every(writing, &wg, 10*time.Millisecond, func() {
		n++
		if _, err := source.Try(fmt.Sprintf("INSERT INTO t VALUES (%d, 'new'); UPDATE t SET b = 'y' WHERE a = %d; DELETE FROM t WHERE a = %d", n, n-rows, n-rows+1)); err != nil {
			t.Error(err)
		}
	})
	sync := e.Start(nil, nil, script("sync"), "mig")
	moves := func() {
		t.Helper()
		from := target.Query("SELECT applied_lsn FROM pgsluice.streams")
		pgtest.Wait(t, time.Minute, "changes are applied", func() bool {
			if !sync.Running() {
				t.Fatalf("sync has ended with %d\n%s", sync.Wait(soon), sync.Errors())
			}
			return target.Query("SELECT applied_lsn FROM pgsluice.streams") != from
		})
	}
	moves()
	if pgtest.Full() {
		time.Sleep(time.Minute) // the promise is about this time
	} else {
		r.end()
		moves()
	}
	stop()
	calm()
	// scripts/sync may be waiting before it starts its programs again.
	pgtest.Wait(t, 2*time.Minute, "the target has caught up", func() bool {
		status, _, _ := e.Run(nil, "pgcutover", "wait", "caught-up", "--slot", "mig", "--lag", "0", "--timeout", "30s")
		return status == 0
	})
	pgtest.Equal(t, source, target)
	r.mu.Lock()
	t.Logf("%d passwords; %d runs of the load", len(r.all), len(said)/2)
	r.mu.Unlock()
	if text := strings.Join(said, "") + sync.Errors(); strings.Contains(text, secretMark) {
		t.Errorf("a password is printed:\n%s", text)
	}
}
