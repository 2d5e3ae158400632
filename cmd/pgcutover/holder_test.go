package main

import (
	"bufio"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// When it is asked to, the holder of the cutover's lock lets the cutover's other programs work: the
// application waits for unfence if --pause or the comparison of --verify first fails.
func TestHolderGivesWay(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	m := small(t, source, target)
	m.load()
	m.cut(0, "wait", "caught-up", "--timeout", "30s", "--lag", "0")
	in, asks := io.Pipe()
	answers, out := io.Pipe()
	p := m.Start(in, out, "pgcutover", "lock", "--slot", m.slot)
	lines := bufio.NewScanner(answers)
	read := func() string {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("no answer: %v\n%s", lines.Err(), p.Errors())
		}
		return strings.TrimSpace(lines.Text())
	}
	under := *m.Env
	under.Vars = append(slices.Clone(m.Vars), "PGSLUICE_LOCK="+read())
	ask := func(step string) {
		t.Helper()
		if _, err := io.WriteString(asks, step+"\n"); err != nil {
			t.Fatal(err)
		}
		if status := read(); status != "0" {
			t.Fatalf("%s: status %s\n%s", step, status, p.Errors())
		}
	}
	for _, steps := range []string{"ready", "ready fence", "fence drain"} {
		for _, step := range strings.Fields(steps) {
			ask(step)
		}
		ask("close")
		if status, _, errs := under.Run(nil, "pgcutover", "unfence", "--slot", m.slot); status != 0 || strings.Contains(errs, "waiting for another step") {
			t.Errorf("unfence after %s: status %d\n%s", steps, status, errs)
		}
	}
	source.Exec("INSERT INTO log VALUES ('free')")
	_ = asks.Close()
	p.Wait(20 * time.Second)
}
