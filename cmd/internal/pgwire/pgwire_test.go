package pgwire_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// open takes over a connection as the programs do.
func open(t *testing.T, uri string, replication bool) *pgwire.Conn {
	t.Helper()
	pg, _, err := pgdial.Server{Side: "source", DSN: uri,
		App: t.Name()[strings.IndexByte(t.Name(), '/')+1:]}.ConnectRaw(pgtest.Context(t), replication)
	if err != nil {
		t.Fatal(err)
	}
	c, err := pgwire.Hijack(pg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if !replication { // the programs qualify all names; these tests do not
		must(t, c.Exec(pgtest.Context(t), "SET search_path = public"))
	}
	return c
}

// transports runs a test over a plain connection and over TLS.
func transports(t *testing.T, test func(t *testing.T, d *pgtest.DB)) {
	settings, _ := pgtest.TLS(t)
	s := pgtest.Start(t, 0, settings...)
	for _, mode := range []string{"disable", "require"} {
		t.Run("sslmode="+mode, func(t *testing.T) {
			d := s.Database(t, "")
			d.URI = strings.Replace(d.URI, "sslmode=disable", "sslmode="+mode, 1)
			if got := d.Query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"); (got == "t") != (mode == "require") {
				t.Fatalf("ssl is %s", got)
			}
			test(t, d)
		})
	}
}

// code fails the test unless err is the server's with this SQLSTATE.
func code(t *testing.T, err error, want string) {
	t.Helper()
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != want {
		t.Errorf("got error %v, not one with SQLSTATE %s", err, want)
	}
}

func TestExec(t *testing.T) {
	transports(t, func(t *testing.T, d *pgtest.DB) {
		ctx, c := pgtest.Context(t), open(t, d.URI, false)
		must(t, c.Exec(ctx, "CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100000)"))
		// 100 MB of rows that nobody wants
		must(t, c.Exec(ctx, "SELECT a, repeat('x', 1000) FROM t"))
		code(t, c.Exec(ctx, "INSERT INTO t VALUES (100001); INSERT INTO t VALUES (1); INSERT INTO t VALUES (100002)"), "23505")
		code(t, c.Exec(ctx, "SELEC 1"), "42601")
		must(t, c.Exec(ctx, ""))
		// What comes in between is not in the way: notices, parameters, notifications.
		must(t, c.Exec(ctx, `SET client_min_messages = notice; LISTEN x; NOTIFY x; SET application_name = 'other';
			DO $$ BEGIN FOR i IN 1..1000 LOOP RAISE NOTICE '%', repeat('n', 500); END LOOP; END $$`))
		code(t, c.Exec(ctx, "COPY t FROM STDIN"), "57014") // which there is nothing for
		must(t, c.Exec(ctx, "INSERT INTO t VALUES (200000)"))
		if got := d.Query("SELECT count(*), max(a) FROM t"); got != "100001\t200000" {
			t.Errorf("the table has %s", got)
		}
		if err := c.Exec(ctx, "COPY t TO STDOUT"); err == nil {
			t.Error("the data of a COPY was dropped")
		}
		if err := c.Exec(ctx, "SELECT 1"); err == nil {
			t.Error("the connection can still be used")
		}
	})
}

func TestCopyOut(t *testing.T) {
	transports(t, func(t *testing.T, d *pgtest.DB) {
		ctx, c := pgtest.Context(t), open(t, d.URI, false)
		// Rows of all sizes, up to many times the buffer, and small ones again.
		sizes := []int{0, 1, 100, 511 << 10, 512 << 10, 513 << 10, 3 << 20, 20 << 20, 5, 5, 5}
		var want []string
		for i, n := range sizes {
			d.Exec(fmt.Sprintf("CREATE TABLE IF NOT EXISTS t (a int, b text); INSERT INTO t VALUES (%d, repeat('x', %d))", i, n))
			want = append(want, fmt.Sprintf("%d\t%s\n", i, strings.Repeat("x", n)))
		}
		d.Exec("INSERT INTO t SELECT 99, 'tail' FROM generate_series(1, 50000)")
		i := 0
		rows, err := c.CopyOut(ctx, "COPY t TO STDOUT", func(row []byte) error {
			if c.Rest() > 0 { // of a large row only the beginning comes by itself
				rest, err := io.ReadAll(c)
				if err != nil {
					return err
				}
				row = append(bytes.Clone(row), rest...)
			}
			if i < len(want) && string(row) != want[i] || i >= len(want) && string(row) != "99\ttail\n" {
				return fmt.Errorf("row %d is %.20q", i, row)
			}
			i++
			return nil
		})
		must(t, err)
		if int(rows) != i || i != len(sizes)+50000 {
			t.Errorf("%d rows were counted, %d came", rows, i)
		}
		// An error of the server leaves the connection usable, also in the middle of the rows.
		_, err = c.CopyOut(ctx, "COPY (SELECT 1000 / (1000 - g) FROM generate_series(1, 2000) g) TO STDOUT",
			func([]byte) error { return nil })
		code(t, err, "22012")
		_, err = c.CopyOut(ctx, "COPY missing TO STDOUT", func([]byte) error { return nil })
		code(t, err, "42P01")
		must(t, c.Exec(ctx, "SELECT 1"))
		// An error of the receiver ends it.
		stop := errors.New("enough")
		if _, err := c.CopyOut(ctx, "COPY t TO STDOUT", func([]byte) error { return stop }); err != stop {
			t.Errorf("got %v", err)
		}
		if err := c.Exec(ctx, "SELECT 1"); err == nil {
			t.Error("the connection can still be used")
		}
	})
}

func TestCopyIn(t *testing.T) {
	transports(t, func(t *testing.T, d *pgtest.DB) {
		ctx, c := pgtest.Context(t), open(t, d.URI, false)
		d.Exec("CREATE TABLE t (a int PRIMARY KEY, b text)")
		write := func(text string) error {
			return c.WriteCopy(ctx, append(make([]byte, pgwire.CopyHead), text...))
		}
		must(t, c.StartCopyIn(ctx, "COPY t FROM STDIN"))
		for i := range 2000 {
			must(t, write(fmt.Sprintf("%d\t%s\n", i, strings.Repeat("y", 5000))))
		}
		n, err := c.EndCopy(ctx, "")
		if err != nil || n != 2000 {
			t.Errorf("%d rows, %v", n, err)
		}
		// Taken back.
		must(t, c.StartCopyIn(ctx, "COPY t FROM STDIN"))
		must(t, write("5000\tx\n"))
		_, err = c.EndCopy(ctx, "no more")
		code(t, err, "57014")
		if !strings.Contains(err.Error(), "no more") {
			t.Errorf("the reason is not given: %v", err)
		}
		// What the server refuses is told before all has been sent: a load of many gigabytes must
		// not go on for nothing.
		must(t, c.StartCopyIn(ctx, "COPY t FROM STDIN"))
		for sent := 0; err != nil && sent < 10000; sent++ {
			if err = write("one\tx\n" + strings.Repeat("2\tx\n", 2000)); err != nil {
				code(t, err, "22P02")
				break
			}
			err = errors.New("not noticed")
		}
		if err == nil || err.Error() == "not noticed" {
			t.Error("the error was not noticed while data was sent")
		}
		must(t, c.Exec(ctx, "SELECT 1"))
		// A duplicate is found with the row; here it is told at the end.
		must(t, c.StartCopyIn(ctx, "COPY t FROM STDIN"))
		must(t, write("1\tx\n"))
		_, err = c.EndCopy(ctx, "")
		code(t, err, "23505")
		// Notices for every row do not stop the flow.
		d.Exec(`CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', repeat('n', 8000); RETURN NEW; END $$`,
			"CREATE TRIGGER shout BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION shout()")
		must(t, c.Exec(ctx, "SET client_min_messages = notice"))
		must(t, c.StartCopyIn(ctx, "COPY t FROM STDIN"))
		for i := range 4000 {
			must(t, write(fmt.Sprintf("%d\tz\n", 10000+i)))
		}
		if n, err := c.EndCopy(ctx, ""); err != nil || n != 4000 {
			t.Errorf("%d rows, %v", n, err)
		}
		code(t, c.StartCopyIn(ctx, "COPY missing FROM STDIN"), "42P01")
		if err := c.StartCopyIn(ctx, "SELECT 1"); err == nil {
			t.Error("a SELECT is no COPY")
		}
		must(t, c.Exec(ctx, "SELECT 1"))
	})
}

func TestCopyBoth(t *testing.T) {
	transports(t, func(t *testing.T, d *pgtest.DB) {
		ctx, c := pgtest.Context(t), open(t, d.URI, true)
		d.Exec("CREATE TABLE t (a int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t",
			"SELECT pg_create_logical_replication_slot('wire_"+d.Name+"', 'pgoutput')")
		code(t, c.CopyBoth(ctx, "START_REPLICATION SLOT missing LOGICAL 0/0 (proto_version '1', publication_names 'p')"), "42704")
		must(t, c.CopyBoth(ctx, "START_REPLICATION SLOT wire_"+d.Name+" LOGICAL 0/0 (proto_version '1', publication_names 'p')"))
		// A deadline that passes leaves the connection usable.
		for range 3 {
			must(t, c.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
			for {
				if msg, err := c.Receive(); err != nil {
					if !strings.Contains(err.Error(), "timeout") {
						t.Fatal(err)
					}
					break
				} else if msg[0] != 'k' {
					t.Fatalf("message %q", msg)
				}
			}
		}
		must(t, c.SetReadDeadline(time.Time{}))
		d.Exec("INSERT INTO t SELECT generate_series(1, 10000)")
		inserts, commits := 0, 0
		for commits == 0 {
			msg, err := c.Receive()
			must(t, err)
			if msg[0] != 'w' {
				continue
			}
			switch msg[25] {
			case 'I':
				inserts++
			case 'C':
				commits++
			}
		}
		if inserts != 10000 {
			t.Errorf("%d inserts", inserts)
		}
		status := make([]byte, 34)
		status[0] = 'r'
		binary.BigEndian.PutUint64(status[1:], 1<<40)
		status[33] = 1 // answer, please
		must(t, c.SendCopyData(status))
		for {
			msg, err := c.Receive()
			must(t, err)
			if msg[0] == 'k' {
				break
			}
		}
		// The server's own end is told from a loss.
		d.Exec("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'wire_" + d.Name + "'")
		var err error
		for err == nil {
			_, err = c.Receive()
		}
		code(t, err, "57P01")
		if s := (pgdial.Server{Side: "source"}); fault.StatusOf(s.Explain(err)) != fault.TryAgain {
			t.Errorf("the status of %v is %d", err, fault.StatusOf(s.Explain(err)))
		}
	})
}

// A server that shuts down ends the replication in good order.
func TestShutdownEndsReplication(t *testing.T) {
	s := pgtest.Start(t, 0)
	d := s.Database(t, "")
	d.Exec("CREATE PUBLICATION p", "SELECT pg_create_logical_replication_slot('wire', 'pgoutput')")
	c := open(t, d.URI, true)
	must(t, c.CopyBoth(pgtest.Context(t), "START_REPLICATION SLOT wire LOGICAL 0/0 (proto_version '1', publication_names 'p')"))
	stopped := make(chan struct{})
	go func() {
		s.Stop()
		close(stopped)
	}()
	must(t, c.SetReadDeadline(time.Now().Add(30*time.Second)))
	for {
		msg, err := c.Receive()
		if errors.Is(err, pgwire.ErrEnded) {
			break
		}
		must(t, err)
		if msg[0] == 'k' { // it waits until it knows that all has arrived
			status := make([]byte, 34)
			status[0] = 'r'
			copy(status[1:], msg[1:9])
			copy(status[9:], msg[1:9])
			copy(status[17:], msg[1:9])
			must(t, c.SendCopyData(status))
		}
	}
	_ = c.Close()
	<-stopped
}

// The end of a context ends whatever waits, and the session with it; so do the session's end and
// the server's.
func TestInterrupted(t *testing.T) {
	s := pgtest.Start(t, 0)
	d := s.Database(t, "")
	d.Exec("CREATE TABLE t (a int)", "INSERT INTO t SELECT generate_series(1, 60000)")
	work := map[string]func(ctx context.Context, c *pgwire.Conn) error{
		"Exec": func(ctx context.Context, c *pgwire.Conn) error { return c.Exec(ctx, "SELECT pg_sleep(600)") },
		"CopyOut": func(ctx context.Context, c *pgwire.Conn) error {
			_, err := c.CopyOut(ctx, "COPY (SELECT a, pg_sleep(0.01) FROM t) TO STDOUT", func([]byte) error { return nil })
			return err
		},
		"Batch": func(ctx context.Context, c *pgwire.Conn) error {
			b := c.Batch(ctx)
			b.Do("SELECT 1")
			b.Do("SELECT pg_sleep(600)")
			_, err := b.Run()
			return err
		},
		"big Batch": func(ctx context.Context, c *pgwire.Conn) error {
			b := c.Batch(ctx)
			b.Do("SELECT pg_sleep(600)")
			for range 5000 { // more than the sockets' buffers hold
				b.Do("SELECT '" + strings.Repeat("x", 10000) + "'")
			}
			_, err := b.Run()
			return err
		},
		"CopyIn": func(ctx context.Context, c *pgwire.Conn) error {
			if err := c.StartCopyIn(ctx, "COPY t FROM STDIN"); err != nil {
				return err
			}
			for {
				if err := c.WriteCopy(ctx, append(make([]byte, pgwire.CopyHead), "1\n"...)); err != nil {
					return err
				}
			}
		},
		"EndCopy": func(ctx context.Context, c *pgwire.Conn) error {
			if err := c.StartCopyIn(ctx, "COPY slow FROM STDIN"); err != nil {
				return err
			}
			if err := c.WriteCopy(ctx, append(make([]byte, pgwire.CopyHead), "1\n"...)); err != nil {
				return err
			}
			_, err := c.EndCopy(ctx, "")
			return err
		},
	}
	d.Exec("CREATE TABLE slow (a int)",
		`CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); RETURN NEW; END $$`,
		"CREATE TRIGGER slow BEFORE INSERT ON slow FOR EACH ROW EXECUTE FUNCTION slow()")
	for name, f := range work {
		t.Run("cancel "+name, func(t *testing.T) {
			c := open(t, d.URI, false)
			ctx, cancel := context.WithCancel(pgtest.Context(t))
			begin(t, d, func() error { return f(ctx, c) }, cancel, func(err error) {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("got %v", err)
				}
			})
			if err := c.Exec(pgtest.Context(t), "SELECT 1"); err == nil {
				t.Error("the connection can still be used")
			}
		})
		t.Run("terminate "+name, func(t *testing.T) {
			c := open(t, d.URI, false)
			begin(t, d, func() error { return f(pgtest.Context(t), c) }, func() {
				d.Exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'terminate_" +
					strings.ReplaceAll(name, " ", "_") + "'")
			}, func(err error) {
				err = pgdial.Server{Side: "source"}.Explain(err)
				if fault.StatusOf(err) != fault.TryAgain || !pgdial.Lost(err) {
					t.Errorf("status %d: %v", fault.StatusOf(err), err)
				}
			})
		})
	}
	for name, f := range work {
		t.Run("kill "+name, func(t *testing.T) {
			c := open(t, d.URI, false)
			begin(t, d, func() error { return f(pgtest.Context(t), c) }, s.Kill, func(err error) {
				err = pgdial.Server{Side: "source"}.Explain(err)
				if fault.StatusOf(err) != fault.TryAgain || !pgdial.Lost(err) {
					t.Errorf("status %d: %v", fault.StatusOf(err), err)
				}
			})
			s.Restart(t)
		})
	}
}

// begin runs f, interrupts it when the server is at work for it, and hands the error over.
func begin(t *testing.T, d *pgtest.DB, f func() error, interrupt func(), check func(error)) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	pgtest.Wait(t, 10*time.Second, "the server is at work", func() bool {
		n, err := d.Try("SELECT count(*) FROM pg_stat_activity WHERE application_name = '" +
			t.Name()[strings.IndexByte(t.Name(), '/')+1:] + "' AND state = 'active'")
		return err == nil && n == "1"
	})
	interrupt()
	select {
	case err := <-done:
		if err == nil {
			t.Error("it succeeded")
			return
		}
		check(err)
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
