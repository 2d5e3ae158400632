package pgtest

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A PgBouncer is a pooler that runs until the test ends.
type PgBouncer struct {
	Port string // on 127.0.0.1
	INI  string // its configuration file
	Stop func()
}

// StartPgBouncer starts PgBouncer with the lines of a section [databases] and settings of the form
// "name=value". It skips the test where PgBouncer is not installed.
func StartPgBouncer(t testing.TB, databases string, settings ...string) *PgBouncer {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program, err = exec.LookPath("/usr/sbin/pgbouncer")
	}
	if err != nil {
		t.Skip("scripts/test installs PgBouncer; without it: eval \"$(scripts/need pgbouncer)\"")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_ = l.Close()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	b := &PgBouncer{Port: port, INI: filepath.Join(dir, "pgbouncer.ini")}
	text := "[databases]\n" + databases + "\n[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port=" + port + "\nunix_socket_dir=\n" +
		strings.Join(settings, "\n") + "\n"
	if err := os.WriteFile(b.INI, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"-q", b.INI}
	if os.Getuid() == 0 {
		args = append(args, "-u", "nobody") // it refuses to run as root
	}
	var errs syncBuffer
	cmd := exec.Command(program, args...)
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b.Stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Cleanup(func() {
		b.Stop()
		if t.Failed() {
			t.Logf("PgBouncer: %s", errs.String())
		}
	})
	Wait(t, 10*time.Second, "PgBouncer takes connections", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return b
}
