package main_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A counter counts what is written.
type counter struct{ n atomic.Int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// --rate limits what all connections read together: rows, a large value, and large objects. SIGHUP
// has the rate read again from its file, and Ctrl-C ends a load at once that waits for its rate.
func TestRate(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	// 2 MB, of which a quarter is one value, and another quarter are large objects.
	source.Exec("CREATE TABLE a (v text)", "ALTER TABLE a ALTER v SET STORAGE EXTERNAL", "INSERT INTO a VALUES (repeat('x', 500000))",
		"CREATE TABLE b (v text)", "INSERT INTO b SELECT repeat('x', 99) FROM generate_series(1, 10000)",
		"SELECT lo_from_bytea(1000 + i, decode(repeat('ab', 50000), 'hex')) FROM generate_series(1, 10) i")
	e := pgtest.NewEnv(t, source, target)
	began := time.Now()
	e.Must(nil, "pgextract", "--rate", "1MB/s")
	if took := time.Since(began); took < 1900*time.Millisecond || took > 40*time.Second {
		t.Errorf("2 MB at 1 MB/s took %v", took)
	}
	file := filepath.Join(t.TempDir(), "rate")
	set := func(rate string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(rate+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// At its first rate it would take 20 seconds.
	for _, c := range []struct {
		rate string
		sig  syscall.Signal
		want int
		says []string
	}{
		{"unlimited", syscall.SIGHUP, 0, []string{"reading rows at most at 100 kB/s\n", "reading rows without a limit from now on"}},
		{"1 MB/s", syscall.SIGINT, 130, nil},
	} {
		set("100kB/s")
		out := new(counter)
		p := e.Start(nil, io.Writer(out), "pgextract", "--rate", "@"+file)
		pgtest.Wait(t, timeout, "rows are read", func() bool { return out.n.Load() > 100_000 })
		if c.sig == syscall.SIGHUP {
			set("much")
			_ = p.Process.Signal(c.sig)
			pgtest.Wait(t, timeout, "the rate is refused", func() bool { return strings.Contains(p.Errors(), `the rate stays as it is: invalid rate "much"`) })
		}
		set(c.rate)
		began := time.Now()
		_ = p.Process.Signal(c.sig)
		if status := p.Wait(timeout); status != c.want || time.Since(began) > 10*time.Second {
			t.Errorf("%v: status %d after %v\n%s", c.sig, status, time.Since(began), p.Errors())
		}
		for _, s := range c.says {
			if !strings.Contains(p.Errors(), s) {
				t.Errorf("%v: %s", c.sig, p.Errors())
			}
		}
	}
	for args, want := range map[string]int{"50": 64, "fast": 64, "10kB/s": 64, "@" + file + ".none": 78} {
		if status, _, errs := e.Run(nil, "pgextract", "--rate", args); status != want || !strings.Contains(errs, "hint: ") {
			t.Errorf("--rate %s: status %d: %s", args, status, errs)
		}
	}
}
