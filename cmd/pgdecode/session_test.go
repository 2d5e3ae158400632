package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/format"
)

// A source that goes away in the middle of a transaction, in good order or not, is waited for; the
// transaction comes again, whole, after a new header.
func TestReconnect(t *testing.T) {
	pgtest.Raced(t)
	for _, how := range []string{"stopped", "killed"} {
		t.Run(how, func(t *testing.T) {
			server := pgtest.Start(t, 0, "logical_decoding_work_mem=64MB")
			source := database(t, server)
			d := decode(t, source)
			insert(source, 1, 1)
			insert(source, 2, 100)
			d.waitRows(100)
			// More than all buffers on the way hold, so that the server goes while it is sending.
			d.paused.Lock()
			insert(source, 101, 60000)
			pgtest.Wait(t, patience, "the server is blocked", func() bool {
				return source.Query("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' AND wait_event = 'WalSenderWriteData'") == "1"
			})
			if how == "killed" {
				server.Kill()
			} else {
				server.Signal(syscall.SIGQUIT) // a fast stop would wait for us to take everything
			}
			d.paused.Unlock()
			d.wait("the loss", func() bool { return d.lines("trying again") == 1 })
			d.look(func() {
				if len(d.rows) != 100 {
					t.Errorf("%d rows are there before the server is back", len(d.rows))
				}
			})
			server.Restart(t)
			d.waitRows(60000)
			insert(source, 60001, 60001)
			d.waitRows(60001)
			if err := d.Process.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			d.ended(format.Stopped, 143)
			d.complete(60001)
			if len(d.headers) != 2 || d.headers[1].StartLSN < d.headers[0].StartLSN || d.headers[1].Slot != source.Name {
				t.Errorf("headers: %+v", d.headers)
			}
			for _, line := range []string{"trying again", "connected to the source again"} {
				if n := d.lines(line); n != 1 {
					t.Errorf("%q stands on standard error %d times:\n%s", line, n, d.Errors())
				}
			}
		})
	}
}

// A fast stop waits for walsenders to have sent everything; it must not wait for us longer than
// that.
func TestServerStops(t *testing.T) {
	server := pgtest.Start(t, 0)
	source := database(t, server)
	d := decode(t, source)
	insert(source, 1, 1000)
	d.waitRows(1000)
	began := time.Now()
	server.Stop()
	if took := time.Since(began); took > patience {
		t.Errorf("the server needed %v to stop", took)
	}
	server.Restart(t)
	insert(source, 1001, 1001)
	d.waitRows(1001)
	d.complete(1001)
}

// Nor has a server to wait for ever that shuts down while the target confirms nothing.
func TestServerStopsWithoutConfirmation(t *testing.T) {
	server := pgtest.Start(t, 0)
	source := database(t, server)
	applied := filepath.Join(t.TempDir(), "applied")
	if err := os.WriteFile(applied, []byte("applied\t"+source.Query("SELECT pg_current_wal_lsn()")+"\t\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := decode(t, source, "--confirm-from", applied)
	insert(source, 1, 1000)
	d.waitRows(1000)
	stopped := make(chan struct{})
	go func() { server.Stop(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(patience):
		t.Fatal("the server waits for a confirmation")
	}
	server.Restart(t)
	insert(source, 1001, 1001)
	d.waitRows(1001)
	d.complete(1001)
}

// A walsender that ends, as an administrator may want it, is no more than a reconnect.
func TestTerminatedWalsender(t *testing.T) {
	source := database(t, pgtest.Source(t))
	d := decode(t, source)
	insert(source, 1, 10)
	d.waitRows(10)
	source.Exec("SELECT pg_terminate_backend(" + walsender(source) + ")")
	insert(source, 11, 20)
	d.waitRows(20)
	d.complete(20)
}

// A session may break again while the next one is being prepared.
func TestTerminatedWhileReconnecting(t *testing.T) {
	pgtest.Raced(t)
	source := database(t, pgtest.Start(t, 0))
	d := decode(t, source)
	insert(source, 1, 10)
	d.waitRows(10)
	lock := source.Connect()
	if _, err := lock.Exec(pgtest.Context(t), "BEGIN; LOCK TABLE pg_catalog.pg_publication IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	source.Exec("SELECT pg_terminate_backend(" + walsender(source) + ")")
	last := "0"
	for range 2 {
		pgtest.Wait(t, patience, "another session looks for the publications", func() bool {
			// The one that was terminated may still be there.
			pid := source.Query("SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'pg_publication'::regclass AND pid <> " + last + " LIMIT 1")
			if pid == "" {
				return false
			}
			last = pid
			return true
		})
		source.Exec("SELECT pg_terminate_backend(" + last + ")")
	}
	if _, err := lock.Exec(pgtest.Context(t), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	insert(source, 11, 20)
	d.waitRows(20)
	d.complete(20)
}

// A slot that was made while a table was truncated may be one that PostgreSQL cannot decode (15.20,
// 18.4): then nothing helps but another slot.
func TestSlotThatCannotBeDecoded(t *testing.T) {
	source := pgtest.Start(t, 0).Database(t, "")
	source.Exec("CREATE TABLE t (a int PRIMARY KEY)", "CREATE PUBLICATION "+source.Name+" FOR ALL TABLES")
	ctx := pgtest.Context(t)
	exec := func(c *pgx.Conn, sql string) {
		t.Helper()
		if _, err := c.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	waits := func() { // for the transaction that is open for the longest time
		t.Helper()
		pgtest.Wait(t, patience, "the slot's creation waits", func() bool {
			return source.Query(`SELECT count(*) FROM pg_locks WHERE NOT granted AND transactionid::text =
				(SELECT backend_xid::text FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start LIMIT 1)`) == "1"
		})
	}
	first, second, third, maker := source.Connect(), source.Connect(), source.Connect(), source.Connect()
	exec(first, "BEGIN; SELECT txid_current()")
	made := make(chan error, 1)
	go func() {
		_, err := maker.Exec(ctx, "SELECT pg_create_logical_replication_slot('"+source.Name+"', 'pgoutput')")
		made <- err
	}()
	waits()
	exec(second, "BEGIN; SELECT txid_current()")
	source.Exec("TRUNCATE t")
	exec(first, "COMMIT")
	waits()
	exec(third, "BEGIN; INSERT INTO t VALUES (1)")
	exec(second, "COMMIT")
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	exec(third, "COMMIT")
	env := &pgtest.Env{T: t, Dir: pgtest.Programs(t, false), Source: source.URI}
	status, _, errs := env.Run(nil, "pgdecode", "--slot", source.Name, "--until", "now")
	if status != 0 && (status != 69 || !strings.Contains(errs, "could not map file") ||
		!strings.Contains(errs, "hint: The target needs a new full load")) {
		t.Errorf("status %d: %s", status, errs)
	}
}

func TestSlotInUse(t *testing.T) {
	source := database(t, pgtest.Source(t))
	first := decode(t, source)
	insert(source, 1, 10)
	first.waitRows(10)
	second := decode(t, source)
	second.wait("the complaint", func() bool { return second.lines("is in use by another session") == 1 })
	first.Kill()
	// Nothing was acknowledged: the second one sees all of it.
	insert(source, 11, 20)
	second.waitRows(20)
	second.complete(20)
}

// A slot that somebody else moved has lost changes for us, and nothing but the gap would tell.
func TestSlotMoved(t *testing.T) {
	source := database(t, pgtest.Source(t))
	d := decode(t, source)
	insert(source, 1, 10)
	d.waitRows(10)
	if err := d.Process.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	source.Exec("SELECT pg_terminate_backend(" + walsender(source) + ")")
	pgtest.Wait(t, patience, "walsender gone", func() bool { return walsender(source) == "" })
	insert(source, 11, 20)
	source.Exec("SELECT pg_replication_slot_advance('" + source.Name + "', pg_current_wal_lsn())")
	if err := d.Process.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if status := d.Wait(patience); status != 69 {
		t.Errorf("exit status %d", status)
	}
	if !strings.Contains(d.Errors(), "was moved to LSN") || !strings.Contains(d.Errors(), "hint: ") {
		t.Errorf("standard error:\n%s", d.Errors())
	}
	d.complete(10)
}

// The target may be ahead of what a source that crashed sends again. The slot is acknowledged only
// as far as the stream has come: else the next session would find it moved.
func TestTargetAhead(t *testing.T) {
	source := database(t, pgtest.Source(t))
	path := filepath.Join(t.TempDir(), "applied")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	began := confirmed(source)
	d := decode(t, source, "--confirm-from", path)
	for n := 10; n <= 30; n += 10 {
		insert(source, n-9, n)
		d.waitRows(n)
		var at format.LSN
		d.look(func() { at = d.at })
		_, _ = f.WriteString(claim(0xff_0000_0000, ".one") + claim(at, ".one"))
		pgtest.Wait(t, patience, "the slot is acknowledged", func() bool { return confirmed(source) > began })
		if at := confirmed(source); at > format.LSN(1)<<39 {
			t.Fatalf("the slot is at LSN %v", at)
		}
		began = confirmed(source)
		source.Exec("SELECT pg_terminate_backend(" + walsender(source) + ")")
		d.wait("the next session", func() bool { return len(d.headers) == n/10+1 })
	}
	d.complete(30)
}

// A signal ends the stream at a boundary of transactions, also if one is being read.
func TestStop(t *testing.T) {
	pgtest.Raced(t)
	server := pgtest.Start(t, 0, "logical_decoding_work_mem=64MB")
	source := database(t, server)
	d := decode(t, source)
	insert(source, 1, 10)
	d.waitRows(10)
	d.paused.Lock()
	insert(source, 11, 60000)
	insert(source, 60001, 60001)
	pgtest.Wait(t, patience, "the server is blocked", func() bool {
		return source.Query("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' AND wait_event = 'WalSenderWriteData'") == "1"
	})
	if err := d.Process.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	d.paused.Unlock()
	d.ended(format.Stopped, 130)
	d.complete(60000)
	// It goes on behind that.
	again := decode(t, source, "--until", "now")
	again.ended(format.Complete, 0)
	again.complete(60001)
}

func TestUntil(t *testing.T) {
	source := database(t, pgtest.Source(t))
	insert(source, 1, 10)
	now := source.Query("SELECT pg_current_wal_insert_lsn()")
	insert(source, 11, 20)
	d := decode(t, source, "--until", now)
	d.ended(format.Complete, 0)
	d.complete(10)
	// Asynchronous commits, too, are before "now".
	source.Exec("SET synchronous_commit = off; INSERT INTO t SELECT generate_series(21, 30)")
	d = decode(t, source, "--until", "now")
	d.ended(format.Complete, 0)
	d.complete(30)
	if lsn, _ := format.ParseLSN(now); d.end.LSN <= lsn {
		t.Errorf("the end is at %v, not after %v", d.end.LSN, lsn)
	}
	status, _, errs := (&pgtest.Env{T: t, Dir: pgtest.Programs(t, false), Source: source.URI}).
		Run(nil, "pgdecode", "--slot", source.Name, "--until", "later")
	if status != 64 || !strings.Contains(errs, "--until") {
		t.Errorf("status %d: %s", status, errs)
	}
}

// What pgapply prints reaches the slot, through a file and through a FIFO; what is not a whole line
// of its is left alone.
func TestConfirmFrom(t *testing.T) {
	pgtest.Raced(t)
	for _, kind := range []string{"file", "fifo"} {
		t.Run(kind, func(t *testing.T) {
			source := database(t, pgtest.Source(t))
			path := filepath.Join(t.TempDir(), "applied")
			if kind == "fifo" {
				if err := syscall.Mkfifo(path, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			began := confirmed(source)
			d := decode(t, source, "--confirm-from", path)
			insert(source, 1, 1)
			insert(source, 2, 2)
			d.waitRows(2)
			var at format.LSN
			var beats int
			d.look(func() { at, beats = d.at, d.beats })
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			print := func(s string) {
				if _, err := f.WriteString(s); err != nil {
					t.Fatal(err)
				}
			}
			print("hello\napplied\tnonsense\tx\n" + strings.Repeat("z", 10000) + "\napplied\t" + at.String())
			d.wait("two progress records after that", func() bool { return d.beats >= beats+2 })
			if now := confirmed(source); now != began {
				t.Errorf("half a line moved the slot from %v to %v", began, now)
			}
			print("\t2026-01-01T00:00:00Z\t.one\n")
			pgtest.Wait(t, patience, "the slot is acknowledged", func() bool { return confirmed(source) == at })
			// It never goes back.
			print("applied\t0/1\t2026-01-01T00:00:00Z\t.one\n")
			if kind == "file" { // as pgapply's redirection does when it is started again
				if err := f.Truncate(0); err != nil {
					t.Fatal(err)
				}
			}
			insert(source, 3, 3)
			d.waitRows(3)
			d.look(func() { at = d.at })
			print(fmt.Sprintf("applied\t%v\t2026-01-01T00:00:00Z\t.one\n", at))
			pgtest.Wait(t, patience, "the slot is acknowledged again", func() bool { return confirmed(source) == at })
			// The cutover has ended the stream on the target.
			print("ended\t.one\n")
			d.ended(format.Complete, 0)
		})
	}
}

// Without confirmation the slot stays where it is, and the user is told so.
func TestNothingAcknowledged(t *testing.T) {
	source := database(t, pgtest.Source(t))
	began := confirmed(source)
	d := decode(t, source)
	insert(source, 1, 10)
	d.waitRows(10)
	d.wait("progress", func() bool { return d.last == "progress" })
	if err := d.Process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	d.ended(format.Stopped, 143)
	if now := confirmed(source); now != began {
		t.Errorf("the slot went from %v to %v", began, now)
	}
	if d.lines("no changes are acknowledged without --confirm-from") != 1 {
		t.Errorf("standard error:\n%s", d.Errors())
	}
}

// Whoever reads the stream may take his time: the server must not lose patience meanwhile.
func TestBlockedPipe(t *testing.T) {
	pgtest.Raced(t)
	server := pgtest.Start(t, 0, "wal_sender_timeout=1s")
	source := database(t, server)
	d := decode(t, source)
	insert(source, 1, 10)
	d.waitRows(10)
	pid := walsender(source)
	d.paused.Lock()
	insert(source, 11, 60000)
	pgtest.Wait(t, patience, "status messages during three times the timeout", func() bool {
		now := walsender(source)
		if now != pid {
			t.Fatalf("the walsender was %s and is %q", pid, now)
		}
		return source.Query("SELECT reply_time - backend_start > '4s' FROM pg_stat_replication WHERE pid = "+pid) == "t"
	})
	d.paused.Unlock()
	d.waitRows(60000)
	d.complete(60000)
	if d.lines("trying again") != 0 {
		t.Errorf("standard error:\n%s", d.Errors())
	}
}

// A reader that goes away is noticed also when the source has nothing to say.
func TestReaderGone(t *testing.T) {
	source := database(t, pgtest.Source(t))
	d := &decoding{t: t}
	d.start(source)
	// The header is there: the session has begun.
	if _, err := d.pipe.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := d.pipe.Close(); err != nil {
		t.Fatal(err)
	}
	if status := d.Wait(patience); status != 75 {
		t.Errorf("exit status %d", status)
	}
	if !strings.Contains(d.Errors(), "could not write the stream") {
		t.Errorf("standard error:\n%s", d.Errors())
	}
}

// What cannot work is said at once, with the status that keeps a supervisor from trying again.
func TestRefused(t *testing.T) {
	source := database(t, pgtest.Source(t))
	source.Exec("SELECT pg_create_physical_replication_slot('"+source.Name+"_other')", "CREATE ROLE "+source.Name+" LOGIN")
	t.Cleanup(func() {
		source.Exec("DROP ROLE "+source.Name, "SELECT pg_drop_replication_slot('"+source.Name+"_other')")
	})
	elsewhere := pgtest.Source(t).Database(t, "")
	for _, c := range []struct {
		uri    string
		args   []string
		status int
		says   string
	}{
		{source.URI, []string{"--slot", "Invalid"}, 64, "invalid slot name"},
		{source.URI, []string{"--slot", "missing"}, 69, "does not exist"},
		{source.URI, []string{"--slot", source.Name + "_other"}, 78, "physical slot"},
		{source.URI, []string{"--slot", source.Name, "--publication", "missing"}, 69, `publication "missing"`},
		{elsewhere.URI, []string{"--slot", source.Name}, 69, "belongs to database"},
		{source.As(source.Name, ""), []string{"--slot", source.Name}, 77, "replication"},
		{"postgres://postgres@127.0.0.1:1/x", []string{"--slot", source.Name}, 75, "could not connect"},
	} {
		env := &pgtest.Env{T: t, Dir: pgtest.Programs(t, false), Source: c.uri}
		status, out, errs := env.Run(nil, "pgdecode", c.args...)
		if status != c.status || !strings.Contains(errs, c.says) || len(out) != 0 {
			t.Errorf("%v: status %d, %d bytes, %s", c.args, status, len(out), errs)
		}
	}
}

// A signal ends the stream in good order also while the source is away, having left a transaction
// unfinished.
func TestStopWhileAway(t *testing.T) {
	pgtest.Raced(t)
	server := pgtest.Start(t, 0, "logical_decoding_work_mem=64MB")
	source := database(t, server)
	d := decode(t, source)
	insert(source, 1, 10)
	d.waitRows(10)
	d.paused.Lock()
	insert(source, 11, 60000)
	pgtest.Wait(t, patience, "the server is blocked", func() bool {
		return source.Query("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' AND wait_event = 'WalSenderWriteData'") == "1"
	})
	server.Kill()
	d.paused.Unlock()
	d.wait("the loss", func() bool { return d.lines("trying again") == 1 })
	if err := d.Process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	d.ended(format.Stopped, 143)
	d.complete(10)
}
