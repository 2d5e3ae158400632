package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Everything is where a shell, man and systemd look for it, runs from there, and is removed again.
func TestInstall(t *testing.T) {
	t.Parallel()
	prefix := filepath.Join(t.TempDir(), "opt with space")
	installed(t, prefix)
	var want []string
	for _, p := range programs {
		want = append(want, "bin/"+p, "share/man/man1/"+p+".1", "share/bash-completion/completions/"+p,
			"share/zsh/site-functions/_"+p, "share/fish/vendor_completions.d/"+p+".fish")
	}
	for _, s := range []string{"load", "sync", "cutover", "migrate", "load-parallel", "fleet"} {
		want = append(want, "bin/pgsluice-"+s, "libexec/pgsluice/"+s)
	}
	want = append(want, "libexec/pgsluice/lib.bash", "libexec/pgsluice/hooks/pgbouncer", "lib/systemd/system/pgsluice-sync@.service", "share/doc/pgsluice/LICENSE")
	list := files(t, prefix)
	for _, f := range want {
		if !slices.Contains(list, f) {
			t.Errorf("scripts/install does not install %s", f)
		}
	}
	for _, f := range list {
		info, err := os.Stat(filepath.Join(prefix, f))
		if err != nil || info.Size() == 0 {
			t.Errorf("%s is empty, or: %v", f, err)
		}
		program := strings.HasPrefix(f, "bin/") || strings.HasPrefix(f, "libexec/") && !strings.HasSuffix(f, ".bash")
		if mode := info.Mode().Perm(); program && mode != 0o755 || !program && mode != 0o644 {
			t.Errorf("%s has mode %v", f, mode)
		}
	}

	t.Run("packages", func(t *testing.T) { packaged(t, list) })

	// A script finds the others, and the programs, wherever it is called from.
	for _, command := range []string{"sync", "cutover", "migrate"} {
		cmd := exec.Command(filepath.Join(prefix, "bin", "pgsluice-"+command), "mig")
		cmd.Dir, cmd.Env = t.TempDir(), []string{"PATH=/usr/bin:/bin", "HOME=/nonexistent"}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 64 || !strings.Contains(string(out), "hint: Set PGSLUICE_") {
			t.Errorf("pgsluice-%s: %v\n%s", command, err, out)
		}
	}

	// What others have put there stays.
	foreign := filepath.Join(prefix, "bin", "pgother")
	if err := os.WriteFile(foreign, []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	runInstall(t, prefix, "--uninstall")
	if list := files(t, prefix); !slices.Equal(list, []string{"bin/pgother"}) {
		t.Errorf("scripts/install --uninstall leaves %q", list)
	}
	for _, dir := range []string{"libexec/pgsluice", "share/doc/pgsluice"} {
		if _, err := os.Stat(filepath.Join(prefix, dir)); err == nil {
			t.Errorf("scripts/install --uninstall leaves the folder %s", dir)
		}
	}
}

// Built from a checkout, the programs know their commit.
func TestInstallBuilds(t *testing.T) {
	pgtest.Long(t) // it compiles everything once more
	git := exec.Command("git", "rev-parse", "HEAD")
	git.Dir = pgtest.Root()
	commit, err := git.Output()
	if err != nil {
		t.Skip("a source archive without git has no commit to name")
	}
	prefix := t.TempDir()
	runInstall(t, prefix)
	for _, p := range programs {
		out, err := exec.Command(filepath.Join(prefix, "bin", p), "--version").Output()
		if err != nil || !strings.HasPrefix(string(out), p+" ") ||
			!strings.Contains(string(out), "(commit "+strings.TrimSpace(string(commit))+", 2") {
			t.Errorf("%s --version: %q, %v", p, out, err)
		}
	}
}
