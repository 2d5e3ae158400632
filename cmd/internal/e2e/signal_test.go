package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A signal to the group of a sync that has just been started ends it, wherever in its beginning
// that is, and nothing of it is left. The programs are replaced by some that go on until they are
// told to stop.
func TestSyncSignalAtStart_H12(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"pgdecode":  "#!/bin/sh\nexec sleep 1000\n",
		"pgapply":   "#!/bin/sh\nexec cat >/dev/null\n",
		"pgcutover": "#!/bin/sh\necho false\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// What a script waits for, while signals come: nothing of that dies of them, as something quick
	// would not have either.
	for _, name := range []string{"dirname", "mktemp", "mkfifo"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		text := "#!/bin/sh\ntrap '' INT TERM HUP\nsleep 0.02\nexec " + path + ` "$@"` + "\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	tmp := t.TempDir()
	e := &pgtest.Env{T: t, Dir: dir, Vars: []string{"TMPDIR=" + tmp}}
	// How long it takes until all is under way.
	began := time.Now()
	p := e.Start(nil, nil, "bash", script("sync"), "mig")
	started := func() bool {
		list, _ := filepath.Glob(filepath.Join(tmp, "*", "*.pid"))
		return len(list) == 2
	}
	pgtest.Wait(t, soon, "sync runs both programs", started)
	long := time.Since(began) + 20*time.Millisecond
	stopSync(t, p)
	if !strings.Contains(p.Errors(), "sync: following slot mig") || !strings.HasSuffix(p.Errors(), "To continue: "+script("sync")+" mig\n") {
		t.Errorf("it says: %s", p.Errors())
	}
	times := pgtest.Often(6, 600)
	for i := range times {
		signal := []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}[i%3]
		p := e.Start(nil, nil, "bash", script("sync"), "mig")
		after := long * time.Duration(i) / time.Duration(times)
		time.Sleep(after) // at different places
		if err := syscall.Kill(-p.Process.Pid, signal); err != nil {
			t.Fatal(err)
		}
		if status := p.Wait(soon); status != 143 && status != 128+int(signal) {
			t.Errorf("%v after %v: status %d: %s", signal, after, status, p.Errors())
		}
		if err := syscall.Kill(-p.Process.Pid, 0); err == nil {
			pgtest.Wait(t, soon, "nothing of it is left", func() bool { return syscall.Kill(-p.Process.Pid, 0) != nil })
		}
	}
}
