package main

import (
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Somebody passes the fence and writes one row at exactly one step of the cutover, while an
// application writes whenever it can. The row is carried, or refused, or found: the rows judge.
func TestWriterAtEveryStep_F2(t *testing.T) {
	pgtest.Long(t)
	for _, d := range []*pgtest.DB{pgtest.Source(t).Database(t, ""), pgtest.Target(t).Database(t, "")} {
		d.Exec("CREATE ROLE app LOGIN")
		t.Cleanup(func() { d.Exec("DROP ROLE app") })
	}
	for _, step := range []struct {
		at     string // the verb before which the row is written
		status int
		lost   int
	}{{"lock", 0, 0}, {"wait", 0, 0}, {"prepare", 0, 0}, {"missing", 0, 0}, {"fence-check", 0, 0}, {"reverse-check", 0, 0}, {"reverse", 0, 0}, {"ready", 0, 0},
		{"fence", 0, 0},
		{"drain", 0, 0}, {"open", 78, 0}, {"inside open", 78, 0}, {"inside open, sync away", 1, 1}, {"verify", 1, 1}, {"finish", 1, 1}, {"after", 0, 1}} {
		t.Run(step.at, func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Pair(t)
			source.Exec("CREATE TABLE log (line text PRIMARY KEY)", "GRANT INSERT, SELECT ON log TO app")
			m := follow(t, source, target, "postgres")
			l := newTally(t)
			l.start(source, writer{name: "plain", role: "app", sql: "INSERT INTO log VALUES ('%s')"})
			pgtest.Wait(t, 20*time.Second, "the application writes", func() bool { return l.of("plain ") > 0 })
			row := func() {
				m.escape("INSERT INTO log VALUES ('escaped')")
				l.ack("escaped")
			}
			g := gates(t, m)
			verb, inside := step.at, step.at == "inside open" || step.at == "inside open, sync away"
			if inside {
				verb = "open"
			}
			g.close(verb)
			p := m.cutover()
			if step.at != "after" {
				pgtest.Wait(t, time.Minute, "the cutover is at "+verb, func() bool { return g.reached(verb) || !p.Running() })
			}
			switch {
			case inside:
				m.inside(t, g, row, step.at != "inside open")
			case step.at != "after":
				row()
				g.open(verb)
			}
			status := p.Wait(2 * time.Minute)
			if step.at == "after" && status == 0 {
				row()
				status, _, _ = m.Run(nil, "pgcutover", "watch", "--slot", m.slot)
				if status != 1 {
					t.Errorf("watch: status %d", status)
				}
				status = 0
				if missing := l.missing(target); len(missing) != 1 || missing[0] != "escaped" {
					t.Errorf("missing: %v", missing)
				}
				m.cut(78, "cleanup")
			} else if lost := m.judge(t, l, status, p.Errors()); status == 0 != (step.status == 0) || lost != step.lost && status != 78 {
				t.Errorf("status %d, %d rows lost\n%s", status, lost, p.Errors())
			}
			if step.status == 78 { // refused: the same command succeeds, with the row
				p := m.cutover()
				if status := p.Wait(2 * time.Minute); status != 0 {
					t.Fatalf("again: status %d: %s", status, p.Errors())
				}
				if lost := l.missing(target); len(lost) > 0 {
					t.Errorf("again: %d rows are lost", len(lost))
				}
			}
		})
	}
}

// inside writes a row when open has looked at the source, and before it opens the target: a lock on
// the target holds it there.
func (m *migration) inside(t *testing.T, g *gate, row func(), away bool) {
	ctx := pgtest.Context(t)
	c := m.target.Connect()
	const held = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pgcutover' AND wait_event_type = 'Lock'"
	if _, err := c.Exec(ctx, "BEGIN; LOCK TABLE pgsluice.deferred IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	g.open("open")
	pgtest.Wait(t, 30*time.Second, "open waits", func() bool { return m.target.Query(held) != "0" })
	if away {
		m.sync.Kill()
	}
	row()
	if !away {
		pgtest.Wait(t, 30*time.Second, "sync carries it", func() bool { return m.target.Query("SELECT count(*) FROM log WHERE line = 'escaped'") == "1" })
	}
	if _, err := c.Exec(ctx, "COMMIT"); err != nil {
		t.Fatal(err)
	}
}
