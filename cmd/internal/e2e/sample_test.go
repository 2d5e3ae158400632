package e2e

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// The sample's application ends when it is told to, also where the program that it has just started
// does not hear of it. The programs are replaced.
func TestSampleStops(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ script, program, args, text string }{
		// The first time it is still a copy of the shell.
		{"write", "pgbench", "", "trap 'trap - TERM' TERM; touch started; while :; do sleep 0.1; done"},
		// It reads until there is nothing more to read.
		{"probe", "psql", "out", `trap '' TERM
			case "$*" in *SELECT*) echo 1 && exit ;; esac
			touch started
			while read -r _ _ n _; do case $n in [0-9]*) echo "= $n false" ;; esac; done`},
	} {
		t.Run(c.script, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			text := "#!/bin/sh\ncd " + dir + "\n" + c.text + "\n"
			if err := os.WriteFile(filepath.Join(dir, c.program), []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
			uri := filepath.Join(dir, "uri")
			if err := os.WriteFile(uri, []byte("postgres://nowhere/x\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			args := []string{script("sample/" + c.script), uri}
			if c.args != "" {
				args = append(args, filepath.Join(dir, c.args))
			}
			p := (&pgtest.Env{T: t, Dir: dir}).Start(nil, nil, "bash", args...)
			pgtest.Wait(t, soon, "it has started "+c.program, func() bool {
				_, err := os.Stat(filepath.Join(dir, "started"))
				return err == nil
			})
			if err := p.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			// That is when nothing is left that could write to standard error.
			if status := p.Wait(soon); status != 0 {
				t.Errorf("status %d: %s", status, p.Errors())
			}
		})
	}
}
