package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// The demo succeeds, fails where it should, and leaves nothing behind.
func TestDemo(t *testing.T) { // by itself: it measures how long the application cannot write
	env := &pgtest.Env{T: t, Dir: pgtest.Programs(t, true)}
	env.Bash("go build -o bin/ ./cmd/...")
	seconds := strconv.Itoa(pgtest.Often(3, 20))
	for _, c := range []struct {
		name   string
		args   []string
		status int
		says   []string
	}{
		{"good", []string{"--seconds", seconds}, 0, []string{"tables are equal", "rows that it wrote are on the target", "Done in"}},
		{"damaged", []string{"--seconds", seconds, "--damage"}, 1,
			[]string{"tables differs: shop.genres", "THE TARGET DIFFERS FROM THE SOURCE"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.status != 0 {
				pgtest.Long(t) // other tests have cutovers that find a difference
			}
			dir, err := os.MkdirTemp("", "pgsluice-demo-")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			if err := os.Chmod(dir, 0o711); err != nil { // the servers may run as another user
				t.Fatal(err)
			}
			env := &pgtest.Env{T: t, Dir: env.Dir, Vars: []string{"TMPDIR=" + dir}}
			var out bytes.Buffer
			p := env.Start(nil, &out, script("demo"), c.args...)
			status := p.Wait(5 * time.Minute)
			said := out.String() + p.Errors()
			if status != c.status {
				t.Errorf("exit status %d, not %d", status, c.status)
			}
			for _, s := range c.says {
				if !strings.Contains(said, s) {
					t.Errorf("does not say %q", s)
				}
			}
			if c.status == 0 {
				m := regexp.MustCompile(`could not write for (\d+) ms`).FindStringSubmatch(said)
				if m == nil {
					t.Error("does not say how long the application could not write")
				} else if ms, _ := strconv.Atoi(m[1]); ms > 10000 {
					// it is a second on a machine that is not busy with tests
					t.Errorf("the application could not write for %d ms", ms)
				} else {
					t.Log(m[0])
				}
			}
			if t.Failed() {
				t.Log(said)
			}
			if left := running(dir); left != "" {
				t.Errorf("left running:\n%s", left)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left on disk: %v %v", left, err)
			}
		})
	}
}

// running lists the processes that have a folder in their environment or arguments.
func running(dir string) string {
	var b strings.Builder
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range all {
		environ, _ := os.ReadFile(p + "/environ")
		args, _ := os.ReadFile(p + "/cmdline")
		if bytes.Contains(environ, []byte(dir)) || bytes.Contains(args, []byte(dir)) {
			fmt.Fprintf(&b, "%s: %s\n", p, bytes.ReplaceAll(args, []byte{0}, []byte(" ")))
		}
	}
	return b.String()
}
