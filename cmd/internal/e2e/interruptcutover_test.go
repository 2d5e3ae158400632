package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Ctrl-C while verify compares before the target is opened gives the source back. The programs are
// replaced by one whose verify never ends.
func TestInterruptedVerify(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := `#!/bin/bash
case "$*" in
*'--get target_open') echo false ;;
*'--get state') echo syncing ;;
lock*) echo 1; while read -r step; do echo 0; done ;;
verify*) echo verify >>` + dir + `/verbs; exec sleep 60 ;;
*) echo "$1" >>` + dir + `/verbs ;;
esac
`
	verbs := func() string {
		b, _ := os.ReadFile(filepath.Join(dir, "verbs"))
		return string(b)
	}
	e := played(t, dir, text)
	p := e.Start(nil, nil, "bash", script("cutover"), "mig", "--yes", "--verify", "first")
	pgtest.Wait(t, soon, "verify is at work", func() bool { return strings.Contains(verbs(), "verify") })
	_ = p.Process.Signal(syscall.SIGINT)
	if status := p.Wait(soon); status != 130 || !strings.HasSuffix(verbs(), "verify\nunfence\n") {
		t.Errorf("status %d, verbs %q, %s", status, verbs(), p.Errors())
	}
}
