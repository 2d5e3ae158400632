package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A holder is a pgcutover lock, which does steps in sessions of its own.
type holder struct {
	*pgtest.Process
	t      testing.TB
	orders io.WriteCloser
	lines  *bufio.Scanner
	pid    string // of the server process that holds the lock
}

// hold takes the lock of a cutover.
func (m *migration) hold(e *pgtest.Env, options ...string) *holder {
	m.T.Helper()
	stdin, orders, err := os.Pipe()
	if err != nil {
		m.T.Fatal(err)
	}
	answers, stdout, err := os.Pipe()
	if err != nil {
		m.T.Fatal(err)
	}
	m.T.Cleanup(func() { _ = answers.Close() })
	h := &holder{t: m.T, orders: orders, lines: bufio.NewScanner(answers)}
	h.Process = e.Start(stdin, stdout, "pgcutover", append([]string{"lock", "--slot", m.slot}, options...)...)
	_, _ = stdin.Close(), stdout.Close()
	h.pid = h.line()
	return h
}

func (h *holder) line() string {
	h.t.Helper()
	if !h.lines.Scan() {
		h.t.Fatalf("no answer: %v: %s", h.lines.Err(), h.Errors())
	}
	return h.lines.Text()
}

// ask has the holder do a step, and fails the test unless it succeeds. It returns what the answer
// has besides the status.
func (h *holder) ask(step string) string {
	h.t.Helper()
	if _, err := fmt.Fprintln(h.orders, step); err != nil {
		h.t.Fatal(err)
	}
	status, rest, _ := strings.Cut(h.line(), " ")
	if status != "0" {
		h.t.Fatalf("%s: status %s: %s", step, status, h.Errors())
	}
	return rest
}

// end gives the lock back.
func (h *holder) end() {
	h.t.Helper()
	_ = h.orders.Close()
	if status := h.Wait(time.Minute); status != 0 {
		h.t.Errorf("lock: status %d: %s", status, h.Errors())
	}
}

// When it is asked to, the holder of the cutover's lock lets the cutover's other programs work: the
// application waits for unfence if --pause or the comparison of --verify first fails.
func TestHolderGivesWay(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	m := small(t, source, target)
	m.load()
	m.cut(0, "wait", "caught-up", "--timeout", "30s", "--lag", "0")
	h := m.hold(m.Env)
	under := *m.Env
	under.Vars = append(slices.Clone(m.Vars), "PGSLUICE_LOCK="+h.pid)
	for _, steps := range []string{"ready", "ready fence", "fence drain"} {
		for _, step := range strings.Fields(steps) {
			h.ask(step)
		}
		h.ask("close")
		if status, _, errs := under.Run(nil, "pgcutover", "unfence", "--slot", m.slot); status != 0 || strings.Contains(errs, "waiting for another step") {
			t.Errorf("unfence after %s: status %d\n%s", steps, status, errs)
		}
	}
	source.Exec("INSERT INTO log VALUES ('free')")
	h.end()
}
