package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Every escape that we know, with a superuser and with the least rights, from and to several
// versions: it is held, or refused before anything is closed, or found and named. A cutover never
// ends with 0 if a row that the source has acknowledged is lost.
func TestEscapes_F1_F2_F3_F4_F5_F7(t *testing.T) {
	pgtest.Long(t)
	for _, versions := range [][2]int{{10, 15}, {15, 15}, {15, 18}, {18, 18}} {
		for _, super := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d-%d/super=%v", versions[0], versions[1], super), func(t *testing.T) {
				s := newSea(t, versions, super)
				t.Run("refused and held", s.refusedAndHeld)
				for _, e := range s.escapes() {
					t.Run(e.name, func(t *testing.T) { s.found(t, e) })
				}
			})
		}
	}
}

// writers are applications that the fence holds.
func (s *sea) writers(t *testing.T, m *migration) []writer {
	const insert, readWrite = "INSERT INTO log VALUES ('%s')", "BEGIN READ WRITE; INSERT INTO log VALUES ('%s'); COMMIT"
	name := 0
	list := []writer{
		{name: "plain", role: "app", sql: insert},
		{name: "connects", role: "app", sql: insert, again: true},
		{name: "begins", role: "app", sql: readWrite, again: true},
		{name: "characteristics", role: "app", before: "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE", sql: insert},
		{name: "option", role: "app", options: "options=-c%20default_transaction_read_only%3Doff", sql: insert},
		{name: "sets", role: "app", before: "SET default_transaction_read_only = off", sql: insert},
		{name: "local", role: "app", sql: "BEGIN; SET LOCAL transaction_read_only = off; INSERT INTO log VALUES ('%s'); COMMIT"},
		{name: "function", role: "app", sql: "SELECT free('%s')"},
		{name: "copy", role: "app", copies: true},
		{name: "long", role: "app", sql: "BEGIN READ WRITE; INSERT INTO log VALUES ('%s'); SELECT pg_sleep(0.7); COMMIT"},
		{name: "temporary", role: "app", before: "CREATE TEMPORARY TABLE x (a text)", sql: "INSERT INTO x VALUES ('%s'); INSERT INTO log SELECT '%s'"},
		{name: "group", role: "member", sql: readWrite, again: true},
		{name: "direct", role: "direct", sql: readWrite, again: true},
		{name: "walsender", role: "feed", options: "replication=database", sql: readWrite, again: true},
		{name: "new role", role: "app", sql: readWrite, again: true, fresh: func(uri string, n int) string {
			role := fmt.Sprintf("%s_%d_%d", m.source.Name, n, name)
			name++
			_, _ = s.asPublisher.Try("CREATE ROLE " + role + " LOGIN IN ROLE app")
			return strings.Replace(uri, "app@", role+"@", 1)
		}},
	}
	for _, name := range []string{"pgcutover", "pgdecode", "pgapply", "walreceiver"} {
		list = append(list, writer{name: name, role: "app", options: "application_name=" + name, sql: insert})
	}
	if _, err := s.asPublisher.Try("CREATE EXTENSION IF NOT EXISTS dblink"); err == nil {
		list = append(list, writer{name: "loopback", uri: with(s.asPublisher.URI, ""),
			sql: fmt.Sprintf("SELECT dblink_exec('host=127.0.0.1 port=%d dbname=%s user=app', 'BEGIN READ WRITE; INSERT INTO log VALUES (''%%s''); COMMIT')", m.source.Port, m.source.Name)})
	}
	if _, err := exec.LookPath("pgbouncer"); err == nil {
		p := pgtest.StartPgBouncer(t, fmt.Sprintf("pool = host=127.0.0.1 port=%d dbname=%s user=app", m.source.Port, m.source.Name), "auth_type=any", "pool_mode=session")
		list = append(list, writer{name: "pooled", uri: "postgres://app@127.0.0.1:" + p.Port + "/pool?", sql: readWrite})
	}
	return list
}

// An obstacle is refused before anything is closed. Its remedy is executed then.
type obstacle struct {
	name, want string
	make, mend func()
}

// refusedAndHeld begins cutovers that are refused, while applications write in many ways. The last
// one succeeds.
func (s *sea) refusedAndHeld(t *testing.T) {
	m := s.migrate(t)
	l := newTally(t)
	writers := s.writers(t, m)
	l.start(m.source, writers...)
	for i := range writers {
		pgtest.Wait(t, 30*time.Second, writers[i].name+" writes", func() bool { return l.of(writers[i].name+" ") > 0 })
	}
	for _, o := range s.obstacles(t, m) {
		o.make()
		p := m.cutover()
		status := p.Wait(2 * time.Minute)
		if status == 0 || !strings.Contains(p.Errors(), o.want) {
			t.Fatalf("%s: status %d, and it does not say %q:\n%s", o.name, status, o.want, p.Errors())
		}
		o.mend()
		if out := m.target.Query("SELECT count(*) FROM pgsluice.cutover WHERE step IN ('fence', 'drain', 'open')"); out != "0" {
			t.Errorf("%s: %s steps are recorded", o.name, out)
		}
		before := l.of("plain ")
		pgtest.Wait(t, 30*time.Second, o.name+": the application goes on", func() bool { return l.of("plain ") > before })
	}
	p := m.cutover()
	status := p.Wait(2 * time.Minute)
	m.judge(t, l, status, p.Errors())
	if status != 0 {
		t.Errorf("status %d: %s", status, p.Errors())
	}
}

func (s *sea) obstacles(t *testing.T, m *migration) (list []obstacle) {
	admin := func(sql string) func() { return func() { t.Helper(); s.asPublisher.Exec(sql) } }
	for i, off := range []string{"'f'", "'n'", "'no'", "'OFF'", "0", "'false'"} {
		in := ""
		if i%2 == 1 {
			in = " IN DATABASE " + m.source.Name
		}
		list = append(list, obstacle{"exempt " + off, "default_transaction_read_only", admin("ALTER ROLE direct" + in + " SET default_transaction_read_only = " + off),
			admin("ALTER ROLE direct" + in + " RESET default_transaction_read_only")})
	}
	list = append(list, obstacle{"prepared", "forgotten", func() {
		m.source.Exec("BEGIN; INSERT INTO log VALUES ('prepared'); PREPARE TRANSACTION 'forgotten'")
	}, func() { m.source.Exec("ROLLBACK PREPARED 'forgotten'") }})
	list = append(list, obstacle{"subscription", "DISABLE", func() {
		m.source.Exec("CREATE SUBSCRIPTION sub CONNECTION 'host=127.0.0.1 port=1 dbname=none' PUBLICATION p WITH (connect = false, slot_name = 'x')", "ALTER SUBSCRIPTION sub ENABLE")
	}, func() {
		m.source.Exec("ALTER SUBSCRIPTION sub DISABLE", "ALTER SUBSCRIPTION sub SET (slot_name = NONE)", "DROP SUBSCRIPTION sub")
	}})
	deaf := &deaf{}
	list = append(list, obstacle{"deaf", "could not end sessions", func() { deaf.stop(t, m) }, func() { deaf.wake() }})
	if s.super {
		return list
	}
	var c *pgconn.PgConn
	list = append(list, obstacle{"superuser", "--trust postgres", func() {
		var err error
		if c, err = pgconn.Connect(t.Context(), m.source.URI); err != nil {
			t.Fatal(err)
		}
	}, func() { _ = c.Close(context.Background()) }})
	for _, right := range []string{"pg_read_all_stats", "pg_signal_backend"} {
		list = append(list, obstacle{right, right, admin("REVOKE " + right + " FROM mover"), admin("GRANT " + right + " TO mover")})
	}
	with := ""
	if s.a.Major >= 16 {
		with = " WITH INHERIT TRUE, SET TRUE"
	}
	return append(list, obstacle{"owner", `GRANT "app" TO "mover"`, admin("REVOKE app FROM mover"), admin("GRANT app TO mover" + with)},
		obstacle{"replication", "REPLICATION", admin("ALTER ROLE mover NOREPLICATION"), admin("ALTER ROLE mover REPLICATION")},
		obstacle{"connect", "CONNECT", func() {
			s.asPublisher.Exec("REVOKE CONNECT ON DATABASE " + m.source.Name + " FROM PUBLIC, app")
		}, func() {
			s.asPublisher.Exec("GRANT CONNECT ON DATABASE " + m.source.Name + " TO PUBLIC, app")
		}})
}

// A deaf is a session whose process does not listen to signals for a while.
type deaf struct{ pid int }

func (d *deaf) stop(t *testing.T, m *migration) {
	c, err := pgconn.Connect(t.Context(), m.source.As("app", ""))
	if err != nil {
		t.Fatal(err)
	}
	d.pid = int(c.PID())
	t.Cleanup(func() { d.wake(); _ = c.Close(context.Background()) })
	if err := syscall.Kill(d.pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

func (d *deaf) wake() {
	if d.pid != 0 {
		_ = syscall.Kill(d.pid, syscall.SIGCONT)
	}
	d.pid = 0
}

// An escape passes the fence. It begins at a step of the cutover, with its own writers.
type escape struct {
	name string
	at   string // the verb before which it begins; empty: before the cutover
	do   func(t *testing.T, m *migration, l *tally)
	args []string
}

const readWriteRow = "BEGIN READ WRITE; INSERT INTO log VALUES ('%s'); COMMIT"

func (s *sea) escapes() (list []escape) {
	writes := func(name, at string, w writer, sql ...string) escape {
		w.name, w.again = "escape", true
		if w.sql == "" {
			w.sql = readWriteRow
		}
		return escape{name: name, at: at, do: func(t *testing.T, m *migration, l *tally) {
			owner := &pgtest.DB{Server: s.a, URI: s.asPublisher.As("app", "")}
			for _, x := range sql {
				if _, err := owner.Try(strings.ReplaceAll(x, "DB", m.source.Name)); err != nil {
					t.Fatal(err)
				}
			}
			l.start(m.source, w)
			pgtest.Wait(t, 30*time.Second, "it writes", func() bool { return l.of("escape ") > 0 })
		}}
	}
	for _, at := range []string{"", "drain", "open", "finish"} {
		list = append(list, writes("our role at "+at, at, writer{role: s.mover}))
	}
	list = append(list,
		writes("CONNECT granted", "drain", writer{role: "app"}, "GRANT CONNECT ON DATABASE DB TO app"),
		writes("reset", "drain", writer{role: "app", sql: "INSERT INTO log VALUES ('%s')"}, "ALTER DATABASE DB RESET default_transaction_read_only", "GRANT CONNECT ON DATABASE DB TO app"),
		writes("reset behind open", "finish", writer{role: "app", sql: "INSERT INTO log VALUES ('%s')"}, "ALTER DATABASE DB RESET default_transaction_read_only", "GRANT CONNECT ON DATABASE DB TO app"),
		escape{name: "prepared at the fence", at: "drain", do: s.prepares},
		escape{name: "subscription", at: "drain", do: s.subscribes},
		escape{name: "subscription behind open", at: "finish", do: s.subscribes})
	if !s.super {
		idle := escape{name: "trusted", at: "drain", args: []string{"--trust", "postgres"}, do: func(t *testing.T, m *migration, l *tally) {}}
		for _, at := range []string{"", "drain", "finish"} {
			e := writes("superuser at "+at, at, writer{role: "postgres"})
			e.args = []string{"--trust", "postgres"}
			list = append(list, e)
		}
		list = append(list, idle, writes("member of our role", "drain", writer{role: "cousin"}))
	}
	return list
}

// prepares prepares a transaction behind the fence, and commits it when the target is open.
func (s *sea) prepares(t *testing.T, m *migration, l *tally) {
	d := &pgtest.DB{Server: s.a, URI: m.source.As(s.mover, "")}
	if _, err := d.Try("BEGIN READ WRITE; INSERT INTO log VALUES ('prepared'); PREPARE TRANSACTION 'escaped'"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = d.Try("ROLLBACK PREPARED 'escaped'") })
	l.done.Go(func() {
		for l.over.Err() == nil {
			if open, err := m.target.Try("SELECT ended_at FROM pgsluice.streams WHERE ended_at IS NOT NULL AND slot = '" + m.slot + "'"); err == nil && open != "" {
				if _, err := d.Try("COMMIT PREPARED 'escaped'"); err == nil {
					l.ack("prepared")
				}
				return
			}
			pause(l.over, time.Millisecond)
		}
	})
}

// subscribes has a subscription's worker write to the source.
func (s *sea) subscribes(t *testing.T, m *migration, l *tally) {
	name := "sub_" + m.source.Name
	s.asPublisher.Exec("DROP TABLE IF EXISTS log", "CREATE TABLE log (line text PRIMARY KEY)", "CREATE PUBLICATION "+name+" FOR TABLE log", "SELECT pg_create_logical_replication_slot('"+name+"', 'pgoutput')")
	free := *m.source
	free.URI = with(free.URI, "options=-c%20default_transaction_read_only%3Doff")
	t.Cleanup(func() {
		for _, sql := range []string{"ALTER SUBSCRIPTION " + name + " DISABLE", "ALTER SUBSCRIPTION " + name + " SET (slot_name = NONE)", "DROP SUBSCRIPTION " + name} {
			_, _ = free.Try(sql)
		}
	})
	free.Exec("CREATE SUBSCRIPTION "+name+" CONNECTION 'host=127.0.0.1 user=postgres port="+fmt.Sprint(s.a.Port)+" dbname="+s.asPublisher.Name+"' PUBLICATION "+name+" WITH (connect = false, slot_name = '"+name+"')",
		"ALTER SUBSCRIPTION "+name+" ENABLE", "ALTER SUBSCRIPTION "+name+" REFRESH PUBLICATION WITH (copy_data = false)")
	pgtest.Wait(t, 30*time.Second, "the subscription is at work", func() bool {
		return m.source.Query("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate = 'r'") == "1"
	})
	s.asPublisher.Exec("INSERT INTO log VALUES ('subscribed')")
	pgtest.Wait(t, 30*time.Second, "it writes", func() bool { return m.source.Query("SELECT count(*) FROM log WHERE line = 'subscribed'") == "1" })
	l.ack("subscribed")
}

// found has an escape pass the fence. The cutover must not end as if nothing had happened.
func (s *sea) found(t *testing.T, e escape) {
	m := s.migrate(t)
	if e.name == "member of our role" {
		_, _ = s.asPublisher.Try("CREATE ROLE cousin LOGIN IN ROLE mover")
	}
	var idle *pgconn.PgConn
	if e.name == "trusted" {
		var err error
		if idle, err = pgconn.Connect(t.Context(), m.source.URI); err != nil {
			t.Fatal(err)
		}
		defer idle.Close(context.Background())
	}
	l := newTally(t)
	l.start(m.source, writer{name: "plain", role: "app", sql: "INSERT INTO log VALUES ('%s')"})
	g := gates(t, m)
	if e.at == "" {
		e.do(t, m, l)
	} else {
		g.close(e.at)
	}
	p := m.cutover(e.args...)
	if e.at != "" {
		pgtest.Wait(t, time.Minute, "the cutover is at "+e.at, func() bool { return g.reached(e.at) || !p.Running() })
		if !p.Running() {
			t.Fatalf("status %d: %s", p.Wait(0), p.Errors())
		}
		if e.do(t, m, l); idle != nil {
			if _, err := idle.Exec(t.Context(), "BEGIN READ WRITE; INSERT INTO log VALUES ('trusted'); COMMIT").ReadAll(); err != nil {
				t.Fatal(err)
			}
			l.ack("trusted")
		}
		g.open(e.at)
	}
	status := p.Wait(2 * time.Minute)
	if lost := m.judge(t, l, status, p.Errors()); lost > 0 {
		m.cut(1, "watch")
		m.cut(78, "cleanup")
	}
}
