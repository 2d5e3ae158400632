package waiting_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// A logBook keeps what is logged.
type logBook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBook) log() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// connect opens a session as a program of ours does.
func connect(t *testing.T, s pgdial.Server) *pgx.Conn {
	t.Helper()
	c, err := s.Connect(pgtest.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func exec(t *testing.T, c *pgx.Conn, sql string) {
	t.Helper()
	if _, err := c.Exec(pgtest.Context(t), sql); err != nil {
		t.Fatal(err)
	}
}

// within is how soon it has to be said what is waited for; the machine may be loaded.
const within = 15 * time.Second

// Whoever waits for a lock is told who holds it: a session, or a prepared transaction.
func TestWatch_H3(t *testing.T) {
	t.Parallel()
	d := pgtest.Source(t).Database(t, "")
	d.Exec("CREATE TABLE a (x int)", "CREATE TABLE b (x int)",
		"CREATE ROLE plain LOGIN; GRANT SELECT ON a, b TO plain; CREATE ROLE app LOGIN; GRANT ALL ON a, b TO app",
		"BEGIN; LOCK TABLE b IN ACCESS EXCLUSIVE MODE; PREPARE TRANSACTION 'it''s forgotten'")
	t.Cleanup(func() {
		d.Exec("ROLLBACK PREPARED 'it''s forgotten'", "DROP OWNED BY plain, app; DROP ROLE plain, app")
	})
	holder, err := pgx.Connect(pgtest.Context(t), d.As("app", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close(pgtest.Context(t))
	exec(t, holder, "SET application_name = 'the holder'; BEGIN; LOCK TABLE a IN ACCESS EXCLUSIVE MODE")
	pid := fmt.Sprintf("process %d", holder.PgConn().PID())
	for _, table := range []string{"a", "b"} {
		t.Run(table, func(t *testing.T) {
			var book logBook
			s := pgdial.Server{Side: "source", DSN: d.As("plain", ""), App: "test", Sessions: new(pgdial.Sessions)}
			w := waiting.Start(pgtest.Context(t), s, book.log())
			defer w.Stop()
			ctx, cancel := context.WithCancel(pgtest.Context(t))
			c, done := connect(t, s), make(chan struct{})
			go func() {
				defer close(done)
				_, _ = c.Exec(ctx, "TABLE public."+table)
			}()
			defer func() { cancel(); <-done }()
			want := []string{"public." + table, pid, "role app", "the holder",
				fmt.Sprintf("pg_terminate_backend(%d)", holder.PgConn().PID()), "GRANT pg_read_all_stats TO"}
			if table == "b" {
				want = []string{"public.b", "'it''s forgotten'", "ROLLBACK PREPARED", "database " + d.Name, "owner postgres"}
			}
			pgtest.Wait(t, within, "it is said who is waited for", func() bool {
				for _, x := range want {
					if !strings.Contains(book.String(), x) {
						return false
					}
				}
				return true
			})
		})
	}
}

// Sessions of one program that wait for each other do so for a moment only. It is not said that one
// of them should be ended.
func TestOwnSessions(t *testing.T) {
	t.Parallel()
	d := pgtest.Source(t).Database(t, "")
	d.Exec("CREATE TABLE ours (x int)", "CREATE TABLE theirs (x int)")
	var book logBook
	s := pgdial.Server{Side: "target", DSN: d.URI, App: "test", Sessions: new(pgdial.Sessions)}
	other := d.Connect()
	exec(t, other, "BEGIN; LOCK TABLE theirs IN ACCESS EXCLUSIVE MODE")
	own := connect(t, s)
	exec(t, own, "BEGIN; LOCK TABLE public.ours IN ACCESS EXCLUSIVE MODE")
	w := waiting.Start(pgtest.Context(t), s, book.log())
	defer w.Stop()
	ctx, cancel := context.WithCancel(pgtest.Context(t))
	var wait sync.WaitGroup
	defer func() { cancel(); wait.Wait() }()
	for _, table := range []string{"ours", "theirs"} {
		c := connect(t, s)
		wait.Go(func() { _, _ = c.Exec(ctx, "TABLE public."+table) })
	}
	pgtest.Wait(t, within, "it is said who is waited for", func() bool { return strings.Contains(book.String(), "public.theirs") })
	if strings.Contains(book.String(), "public.ours") {
		t.Error(book.String())
	}
}

// A statement that is given up for a lock is tried again; when there has been enough of that, the
// error says who stood in the way.
func TestRetry_H3(t *testing.T) {
	t.Parallel()
	d := pgtest.Source(t).Database(t, "")
	d.Exec("CREATE TABLE a (x int)")
	holder := d.Connect()
	exec(t, holder, "BEGIN; LOCK TABLE a IN ACCESS EXCLUSIVE MODE")
	var book logBook
	s := pgdial.Server{Side: "source", DSN: d.URI, App: "test", Sessions: new(pgdial.Sessions)}
	w := waiting.Start(pgtest.Context(t), s, book.log())
	defer w.Stop()
	w.Eager()
	c := connect(t, s)
	exec(t, c, "SET lock_timeout = '"+waiting.LockTimeout+"'")
	ctx := pgtest.Context(t)
	var tries atomic.Int32
	do := func() error {
		tries.Add(1)
		_, err := c.Exec(ctx, "TABLE public.a")
		return s.Explain(err)
	}
	err := w.Retry(ctx, time.Millisecond, do)
	if fault.StatusOf(err) != fault.TryAgain || !strings.Contains(err.Error(), fmt.Sprint(holder.PgConn().PID())) || tries.Load() != 1 {
		t.Errorf("status %d after %d tries: %v", fault.StatusOf(err), tries.Load(), err)
	}
	other := errors.New("something else")
	if err := w.Retry(ctx, 0, func() error { return other }); err != other {
		t.Error(err)
	}
	done := make(chan error, 1)
	go func() { done <- w.Retry(ctx, 0, do) }()
	pgtest.Wait(t, within, "it is said who is waited for, and tried again",
		func() bool {
			return strings.Contains(book.String(), fmt.Sprint(holder.PgConn().PID())) && tries.Load() >= 3
		})
	exec(t, holder, "ROLLBACK")
	if err := <-done; err != nil {
		t.Errorf("after %d tries: %v", tries.Load(), err)
	}
	var none *waiting.Watch
	if err := none.Retry(ctx, time.Millisecond, func() error { return other }); err != other {
		t.Error(err)
	}
}

// The transactions that the creation of a slot waits for are known to any role, in whichever
// database they are, prepared ones too. What the role may not see of them is hidden, and not taken
// for nothing.
func TestWriters_H1(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Source(t).Major)
	d, other := server.Database(t, ""), server.Database(t, "")
	d.Exec("CREATE TABLE t (a int)", "CREATE ROLE plain LOGIN")
	other.Exec("CREATE TABLE t (a int)")
	s := pgdial.Server{Side: "source", DSN: d.As("plain", ""), App: "test"}
	c, ctx := connect(t, s), pgtest.Context(t)
	writers := func() []waiting.Holder {
		t.Helper()
		list, err := waiting.Writers(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	if list := writers(); len(list) != 0 {
		t.Errorf("%v", list)
	}
	other.Exec("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'forgotten'")
	reader, writer := d.Connect(), other.Connect()
	exec(t, reader, "BEGIN; SELECT * FROM t")
	exec(t, writer, "SET application_name = 'the writer'; BEGIN; INSERT INTO t VALUES (1); SAVEPOINT a; INSERT INTO t VALUES (2)")
	list := writers()
	if len(list) != 2 || list[0].GID != "forgotten" || list[0].Database != other.Name ||
		list[1].PID != int32(writer.PgConn().PID()) || !list[1].Hidden || list[1].Role != "postgres" {
		t.Fatalf("%v", list)
	}
	d.Exec("GRANT pg_read_all_stats TO plain")
	if list = writers(); len(list) != 2 || list[1].Hidden || list[1].Application != "the writer" ||
		list[1].Open <= 0 || !strings.Contains(list[1].State, "idle in transaction") {
		t.Errorf("%v", list)
	}
	other.Exec("ROLLBACK PREPARED 'forgotten'")
}

// Commits that wait for a standby are found out, and none is taken for one that would.
func TestCommits_H2(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Target(t).Major)
	d := server.Database(t, "")
	d.Exec("CREATE TABLE t (a int)")
	s := pgdial.Server{Side: "target", DSN: d.URI, App: "test", Sessions: new(pgdial.Sessions)}
	ctx := pgtest.Context(t)
	stuck := func() bool {
		t.Helper()
		_, stuck, err := waiting.Commits(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		return stuck
	}
	if stuck() {
		t.Error("stuck without standbys")
	}
	d.Exec("ALTER SYSTEM SET synchronous_standby_names = 'ghost'", "SELECT pg_reload_conf()")
	pgtest.Wait(t, within, "the setting is in force", func() bool { return d.Query("SHOW synchronous_standby_names") == "ghost" })
	if !stuck() {
		t.Error("not stuck")
	}
	// The one who sits in it is told.
	var book logBook
	w := waiting.Start(ctx, s, book.log())
	defer w.Stop()
	c := connect(t, s)
	exec(t, c, waiting.Durable)
	done := make(chan error, 1)
	go func() {
		_, err := c.Exec(ctx, "INSERT INTO public.t VALUES (1)")
		done <- err
	}()
	pgtest.Wait(t, within, "it is said what is waited for", func() bool {
		return strings.Contains(book.String(), "'ghost'") && strings.Contains(book.String(), "ALTER SYSTEM SET synchronous_standby_names")
	})
	d.Exec("SET synchronous_commit = local; ALTER DATABASE " + d.Name + " SET synchronous_commit = off")
	if stuck() {
		t.Error("stuck although nobody asks for it")
	}
	d.Exec("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
	if err := <-done; err != nil {
		t.Error(err)
	}
}
