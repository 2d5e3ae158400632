package main

import (
	"os"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A report that could not be printed was read by nobody, whatever it found.
func TestReportOnFullDisk(t *testing.T) {
	pgtest.Slow(t)
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("there is no /dev/full")
	}
	source, target := pgtest.Pair(t)
	m := &migration{source: source, target: target, slot: "mig_" + source.Name, Env: pgtest.NewEnv(t, source, target)}
	source.Exec("CREATE TABLE a (id int PRIMARY KEY)")
	full := func(status int, command string) {
		t.Helper()
		if got, _, errs := m.Run(nil, "bash", "-c", "pgcutover "+command+` --slot "$1" > /dev/full`, "bash", m.slot); got != status {
			t.Errorf("%s: exit status %d, not %d: %s", command, got, status, errs)
		}
	}
	full(1, "check")
	m.load()
	for _, command := range []string{"status", "status --json", "status --get missing.count", "missing", "missing --json"} {
		full(1, command)
	}
	for _, step := range []string{"fence", "drain", "open"} {
		m.cut(0, step)
	}
	full(1, "verify")
}
