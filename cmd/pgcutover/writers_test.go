package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A sea is two servers, and who connects to them: a cutover's role, and applications.
type sea struct {
	a, b        *pgtest.Server
	super       bool // the cutover's role is a superuser
	mover       string
	asPublisher *pgtest.DB // another database of the source's server
}

// newSea starts servers of two versions. The application owns the source's database.
func newSea(t *testing.T, versions [2]int, super bool) *sea {
	t.Helper()
	s := &sea{a: pgtest.Start(t, versions[0]), b: pgtest.Start(t, versions[1]), super: super, mover: "postgres"}
	with := ""
	for _, d := range []*pgtest.DB{s.a.Database(t, ""), s.b.Database(t, "")} {
		if d.Major >= 16 {
			with = " WITH INHERIT TRUE, SET TRUE"
		}
		d.Exec("CREATE ROLE app LOGIN", "CREATE ROLE team", "CREATE ROLE member LOGIN IN ROLE team", "CREATE ROLE direct LOGIN", "CREATE ROLE feed LOGIN REPLICATION",
			"CREATE ROLE mover LOGIN REPLICATION", "GRANT pg_read_all_stats, pg_read_all_settings, pg_signal_backend TO mover", "GRANT app TO mover"+with)
		if d.Major >= 15 {
			d.Exec("GRANT SET ON PARAMETER session_replication_role TO mover")
		}
		if s.asPublisher == nil {
			s.asPublisher = d
		}
	}
	if !super {
		s.mover = "mover"
	}
	return s
}

// migrate loads a database with a table to which everybody may write, and starts sync.
func (s *sea) migrate(t *testing.T) *migration {
	t.Helper()
	source, target := s.a.Database(t, "OWNER app"), s.b.Database(t, "OWNER app")
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("GRANT CREATE ON DATABASE "+d.Name+" TO mover", "SET ROLE app; GRANT CONNECT ON DATABASE "+d.Name+" TO team, direct")
	}
	source.Exec(`SET ROLE app; CREATE TABLE log (line text PRIMARY KEY); GRANT SELECT, INSERT ON log TO PUBLIC;
		CREATE FUNCTION free(text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN PERFORM pg_catalog.set_config(''default_transaction_read_only'', ''off'', false); INSERT INTO public.log VALUES ($1); END'`)
	return follow(t, source, target, s.mover)
}

// follow loads a database as a role, starts sync, and waits until the target has caught up.
func follow(t *testing.T, source, target *pgtest.DB, mover string) *migration {
	t.Helper()
	m := &migration{source: source, target: target, slot: "esc_" + source.Name, Env: pgtest.NewEnv(t, source, target)}
	m.Source, m.Target = source.As(mover, ""), target.As(mover, "")
	m.load()
	m.Must(nil, "pgcutover", "wait", "caught-up", "--slot", m.slot, "--timeout", "60s", "--lag", "0")
	return m
}

// A tally has the rows that the source has acknowledged.
type tally struct {
	sync.Mutex
	acked map[string]bool
	over  context.Context
	stop  context.CancelFunc
	done  sync.WaitGroup
}

func newTally(t *testing.T) *tally {
	l := &tally{acked: make(map[string]bool)}
	l.over, l.stop = context.WithCancel(context.Background())
	t.Cleanup(func() { l.stop(); l.done.Wait() })
	return l
}

func (l *tally) ack(line string) {
	l.Lock()
	defer l.Unlock()
	l.acked[line] = true
}

// of returns the acknowledged rows of writers whose names have a prefix.
func (l *tally) of(prefix string) (n int) {
	l.Lock()
	defer l.Unlock()
	for line := range l.acked {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}

// missing stops the writers and returns the acknowledged rows that a database does not have.
func (l *tally) missing(d *pgtest.DB) (lines []string) {
	l.stop()
	l.done.Wait()
	have := strings.Split(d.Query("SELECT line FROM log"), "\n")
	for _, line := range slices.Sorted(maps.Keys(l.acked)) {
		if !slices.Contains(have, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// A writer connects, prepares its session, and writes rows until it is cut off; then it connects
// again.
type writer struct {
	name, role, options string
	uri                 string // instead of the source's
	before              string
	sql                 string // %s is the row
	again               bool   // a new session for each row
	copies              bool   // with COPY, slowly
	fresh               func(uri string, n int) string
}

func (w *writer) run(l *tally, d *pgtest.DB) {
	for n := 0; l.over.Err() == nil; {
		n++
		uri := w.uri
		if uri == "" {
			uri = with(d.As(w.role, ""), "")
		}
		if w.fresh != nil {
			uri = w.fresh(uri, n)
		}
		c, err := pgconn.Connect(l.over, uri+w.options)
		if err == nil && w.before != "" {
			_, err = c.Exec(l.over, w.before).ReadAll()
		}
		for err == nil && l.over.Err() == nil {
			n++
			line := fmt.Sprintf("%s %d", w.name, n)
			if w.copies {
				_, err = c.CopyFrom(l.over, &slowly{ctx: l.over, line: line}, "COPY log FROM STDIN")
			} else {
				_, err = c.Exec(l.over, strings.ReplaceAll(w.sql, "%s", line)).ReadAll()
			}
			if err == nil {
				l.ack(line)
			}
			if w.again {
				break
			}
			pause(l.over, 5*time.Millisecond)
		}
		if c != nil {
			_ = c.Close(context.Background())
		}
		pause(l.over, 10*time.Millisecond)
	}
}

// A slowly is a COPY of a line that takes a while.
type slowly struct {
	ctx  context.Context
	line string
	sent int
}

func (s *slowly) Read(p []byte) (int, error) {
	s.sent++
	switch {
	case s.sent == 1:
		return copy(p, s.line+"\n"), nil
	case s.sent > 20 || s.ctx.Err() != nil:
		return 0, io.EOF
	}
	pause(s.ctx, 20*time.Millisecond)
	return copy(p, fmt.Sprintf("%s.%d\n", s.line, s.sent)), nil
}

// with adds options to a URI.
func with(uri, options string) string {
	if strings.Contains(uri, "?") {
		return uri + "&" + options
	}
	return uri + "?" + options
}

// pause keeps a writer from taking the whole machine.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (l *tally) start(d *pgtest.DB, list ...writer) {
	for i := range list {
		l.done.Go(func() { list[i].run(l, d) })
	}
}

// A gate holds a step of scripts/cutover until the test lets it go on.
type gate struct {
	t   *testing.T
	dir string
}

// gates makes pgcutover wait before the verbs for which a gate is closed.
func gates(t *testing.T, m *migration) *gate {
	t.Helper()
	g := &gate{t: t, dir: t.TempDir()}
	w := pgtest.Wrapped(t, m.Env, fmt.Sprintf(`at='%s'/$1
	[[ " $* " != *' --check '* ]] || at+=-check
	if [[ -e $at ]]; then mv "$at" "$at.here"; until [[ ! -e $at.here ]]; do sleep 0.02; done; fi`, g.dir))
	m.Env = w
	return g
}

func (g *gate) close(verb string) {
	if err := os.WriteFile(filepath.Join(g.dir, verb), nil, 0o644); err != nil {
		g.t.Fatal(err)
	}
}

// reached reports whether a step waits at its gate.
func (g *gate) reached(verb string) bool {
	_, err := os.Stat(filepath.Join(g.dir, verb+".here"))
	return err == nil
}

func (g *gate) open(verb string) {
	_ = os.Remove(filepath.Join(g.dir, verb))
	_ = os.Remove(filepath.Join(g.dir, verb+".here"))
}

// cutover starts scripts/cutover.
func (m *migration) cutover(args ...string) *pgtest.Process {
	return m.Start(nil, nil, "bash", append([]string{filepath.Join(pgtest.Root(), "scripts", "cutover"), m.slot, "--yes"}, args...)...)
}

// judge fails the test if a cutover ended with 0 although an acknowledged row is lost. If the
// target is not open, the source has to take writes. It returns the number of rows that are lost.
func (m *migration) judge(t *testing.T, l *tally, status int, said string) int {
	t.Helper()
	lost := l.missing(m.target)
	open := m.target.Query("SELECT ended_at IS NOT NULL FROM pgsluice.streams WHERE slot = '"+m.slot+"'") == "t"
	switch {
	case open && len(lost) > 0 && status == 0:
		t.Errorf("status 0, and %d of %d acknowledged rows are lost, such as %s\n%s", len(lost), len(l.acked), lost[0], said)
	case open && len(lost) > 0 && !strings.Contains(said, "public.log"):
		t.Errorf("status %d, %d rows are lost, such as %s, and the table is not named:\n%s", status, len(lost), lost[0], said)
	case !open && status == 0:
		t.Errorf("status 0, and the target is not open:\n%s", said)
	case !open:
		app := &pgtest.DB{Server: m.source.Server, URI: m.source.As("app", "")}
		if _, err := app.Try("INSERT INTO log VALUES ('given back')"); err != nil {
			t.Errorf("status %d, and the source is closed: %v\n%s", status, err, said)
		}
		m.source.Exec("DELETE FROM log WHERE line = 'given back'")
	}
	t.Logf("status %d, %d rows acknowledged, %d lost", status, len(l.acked), len(lost))
	return len(lost)
}
