package main_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/format"
)

// What is kept in files is acknowledged, and the files replay to what the source is, however often
// pgdecode was killed meanwhile and wherever that cut the newest file off.
func TestOutput(t *testing.T) {
	for _, rotate := range []string{"", "50kB"} {
		t.Run("rotate "+rotate, func(t *testing.T) {
			source, target := pgtest.Source(t).Database(t, ""), pgtest.Target(t).Database(t, "")
			source.Exec("CREATE TABLE t (a int PRIMARY KEY, b text)",
				"CREATE TABLE u (a int PRIMARY KEY, b int)",
				"INSERT INTO u SELECT i, 0 FROM generate_series(1, 100) i")
			env := pgtest.NewEnv(t, source, target)
			env.Bash(`pgextract --slot "$1" | pgapply`, source.Name)
			began := confirmed(source)

			path := filepath.Join(t.TempDir(), "changes.pgs")
			args := []string{"--slot", source.Name, "--output", path}
			if rotate != "" {
				args = append(args, "--rotate", rotate)
			}
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			random := rand.New(rand.NewPCG(seed, 0))
			stop := make(chan struct{})
			written := make(chan error)
			go func() {
				var err error
				for i := 1; err == nil; i++ {
					select {
					case <-stop:
						written <- nil
						return
					default:
					}
					_, err = source.Try(fmt.Sprintf("INSERT INTO t SELECT %d000 + i, repeat('x', 50) FROM generate_series(1, %d) i; UPDATE u SET b = b + %d WHERE a %% 10 = %d",
						i, 1+i%300, i, i%10))
				}
				written <- err
			}()
			files := func() []string {
				names, _ := filepath.Glob(path + "*")
				return names
			}
			for kills := 0; kills < pgtest.Often(5, 12) || rotate != "" && len(files()) < 3; kills++ {
				d := env.Start(nil, nil, "pgdecode", args...)
				time.Sleep(time.Duration(random.IntN(600)) * time.Millisecond)
				if !d.Running() {
					t.Fatalf("pgdecode has ended with %d:\n%s", d.Wait(0), d.Errors())
				}
				d.Kill()
				cut(t, path, random)
			}
			close(stop)
			if err := <-written; err != nil {
				t.Fatal(err)
			}
			env.Must(nil, "pgdecode", append(args, "--until", "now")...)
			if rotate == "" && len(files()) != 1 {
				t.Errorf("files: %v", files())
			}
			if confirmed(source) == began {
				t.Error("nothing was acknowledged")
			}
			env.Bash(`cat "$1"* | pgapply`, path)
			pgtest.Equal(t, source, target)
			// Again, it changes nothing.
			env.Bash(`cat "$1"* | pgapply`, path)
			pgtest.Equal(t, source, target)
		})
	}
}

// cut takes some bytes from the newest file's end, as many as had not reached the disk: those
// behind what was acknowledged.
func cut(t *testing.T, path string, random *rand.Rand) {
	t.Helper()
	files, _ := filepath.Glob(path + "*")
	if len(files) == 0 {
		return
	}
	f, err := os.OpenFile(files[len(files)-1], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	// Transactions that are open at the end: nothing of them is acknowledged.
	var boundary int64
	r := format.NewReader(f)
	for {
		rec, err := r.Next()
		if err != nil {
			break
		}
		switch rec.(type) {
		case *format.Header, *format.Commit, *format.StreamCommit, *format.Progress, *format.End:
			boundary = r.N()
		}
	}
	if loose := st.Size() - boundary; loose > 0 {
		if err := f.Truncate(boundary + random.Int64N(loose)); err != nil {
			t.Fatal(err)
		}
	}
}

// An idle slot is acknowledged, a signal ends the file in good order, and it goes on where it was.
func TestOutputStops(t *testing.T) {
	source := database(t, pgtest.Source(t))
	path := filepath.Join(t.TempDir(), "changes.pgs")
	env := &pgtest.Env{T: t, Dir: pgtest.Programs(t, false), Source: source.URI}
	for i := range 3 {
		d := env.Start(nil, nil, "pgdecode", "--slot", source.Name, "--output", path)
		insert(source, 10*i+1, 10*i+10)
		now, _ := format.ParseLSN(source.Query("SELECT pg_current_wal_insert_lsn()"))
		pgtest.Wait(t, patience, "acknowledged", func() bool { return confirmed(source) >= now })
		if err := d.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if status := d.Wait(patience); status != 143 {
			t.Errorf("exit status %d:\n%s", status, d.Errors())
		}
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	r := &decoding{t: t, rows: make(map[string]int), pipe: f}
	r.read()
	r.complete(30)
	if len(r.headers) != 3 || r.end == nil || r.end.Reason != format.Stopped {
		t.Errorf("headers %+v, end %+v", r.headers, r.end)
	}
}

// A file that lacks what was acknowledged is not gone on with.
func TestOutputLost(t *testing.T) {
	source := database(t, pgtest.Source(t))
	path := filepath.Join(t.TempDir(), "changes.pgs")
	env := &pgtest.Env{T: t, Dir: pgtest.Programs(t, false), Source: source.URI}
	args := []string{"--slot", source.Name, "--output", path, "--until", "now"}
	insert(source, 1, 10)
	env.Must(nil, "pgdecode", args...)
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	insert(source, 11, 20)
	env.Must(nil, "pgdecode", args...)
	if err := os.WriteFile(path, first, 0o600); err != nil {
		t.Fatal(err)
	}
	if status, _, errs := env.Run(nil, "pgdecode", args...); status != 69 || !strings.Contains(errs, "was moved to LSN") {
		t.Errorf("status %d:\n%s", status, errs)
	}
	if now, err := os.ReadFile(path); err != nil || len(now) != len(first) {
		t.Errorf("the file was changed: %v", err)
	}
	for _, args := range [][]string{{"--rotate", "1GB"}, {"--output", path, "--confirm-from", path},
		{"--output", path, "--rotate", "much"}} {
		if status, _, errs := env.Run(nil, "pgdecode", append([]string{"--slot", source.Name}, args...)...); status != 64 {
			t.Errorf("%v: status %d:\n%s", args, status, errs)
		}
	}
}
