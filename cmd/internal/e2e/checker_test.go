package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// The checker lets clients do on the source whatever an application may, kills one part of the pipe
// after the other meanwhile, and looks at the target all the time: it must never be in a state that
// the source was not in, and be equal in the end.
func TestChecker(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	for _, jobs := range []int{1, 4} {
		t.Run(fmt.Sprintf("jobs %d", jobs), func(t *testing.T) { check(t, jobs) })
	}
}

// What money there is stays the same, whatever is done with it.
const checkerTotal = 3 * 50 * 1000

// checkerSchema has tables of every kind that is applied in its own way: see the actions.
const checkerSchema = `
	CREATE TABLE acc0 (id int PRIMARY KEY, balance bigint NOT NULL, note text);
	CREATE TABLE acc1 (id int NOT NULL, balance bigint NOT NULL, more jsonb, code int NOT NULL UNIQUE);
	CREATE UNIQUE INDEX acc1_id ON acc1 (id);
	ALTER TABLE acc1 REPLICA IDENTITY USING INDEX acc1_id;
	CREATE TABLE acc2 (id int, k int, balance bigint NOT NULL, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
	CREATE TABLE acc2_a PARTITION OF acc2 FOR VALUES IN (0, 1);
	CREATE TABLE acc2_b PARTITION OF acc2 FOR VALUES IN (2, 3);
	CREATE TABLE acc2_c PARTITION OF acc2 DEFAULT;
	INSERT INTO acc0 SELECT i, 1000 FROM generate_series(1, 50) i;
	INSERT INTO acc1 SELECT i, 1000, NULL, i FROM generate_series(1, 50) i;
	INSERT INTO acc2 SELECT i, i % 5, 1000 FROM generate_series(1, 50) i;
	CREATE TABLE uniq (id int PRIMARY KEY, v int NOT NULL UNIQUE, w text);
	CREATE TABLE late (id int PRIMARY KEY, v int NOT NULL UNIQUE DEFERRABLE INITIALLY DEFERRED, w int UNIQUE DEFERRABLE);
	CREATE TABLE excl (id int PRIMARY KEY, r int4range NOT NULL, EXCLUDE USING gist (r WITH &&));
	INSERT INTO uniq SELECT i, i FROM generate_series(1, 40) i;
	INSERT INTO late SELECT i, i FROM generate_series(1, 40) i;
	INSERT INTO excl SELECT i, int4range(10 * i, 10 * i + 5) FROM generate_series(1, 40) i;
	CREATE TABLE toast (id int PRIMARY KEY, n int, a text, b bytea, c numeric);
	ALTER TABLE toast ALTER a SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL;
	CREATE TABLE toast_full (id int PRIMARY KEY, n int, a text);
	ALTER TABLE toast_full ALTER a SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
	CREATE TABLE nokey (a int, b text, c float8);
	ALTER TABLE nokey REPLICA IDENTITY FULL;
	CREATE TABLE parent (id int PRIMARY KEY, v text);
	CREATE TABLE child (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE, v text);
	CREATE TABLE bulk (id int PRIMARY KEY, v text, g int GENERATED ALWAYS AS (id * 2) STORED);`

const checkerSum = `SELECT (SELECT sum(balance) FROM acc0) + (SELECT sum(balance) FROM acc1) + (SELECT sum(balance) FROM acc2),
	(SELECT count(*) - count(DISTINCT v) FROM late), (SELECT count(*) FROM child WHERE parent NOT IN (SELECT id FROM parent))`

// A client does random transactions.
type client struct {
	*rand.Rand
	ctx context.Context
	// loaded is set when the full load is done. A table that is truncated while it is being loaded
	// is a reason to begin again, and we would never come to an end.
	loaded *atomic.Bool
	// behind is set while the target has much to catch up with. A backlog is part of the test, but
	// one that only grows would make it endless.
	behind *atomic.Bool
	tx     pgx.Tx
	err    error // the first one; everything after it is void
}

// exec runs a statement and returns how many rows it met.
func (c *client) exec(sql string, args ...any) int64 {
	if c.err != nil {
		return 0
	}
	tag, err := c.tx.Exec(c.ctx, sql, args...)
	c.err = err
	return tag.RowsAffected()
}

// ask runs a query of a single integer; 0 if there is no row.
func (c *client) ask(sql string, args ...any) (n int) {
	if c.err != nil {
		return 0
	}
	err := c.tx.QueryRow(c.ctx, sql, args...).Scan(&n)
	if !errors.Is(err, pgx.ErrNoRows) {
		c.err = err
	}
	return n
}

func (c *client) account() (table string, id int) {
	return fmt.Sprintf("acc%d", c.IntN(3)), 1 + c.IntN(50)
}

// text returns something to be stored, in some cases out of line.
func (c *client) text() string {
	if c.IntN(4) == 0 {
		return strings.Repeat(fmt.Sprintf("%x", c.Uint64()), 200+c.IntN(600))
	}
	return fmt.Sprintf("%x\\n\t\"'é%d", c.Uint64(), c.IntN(1000))
}

// actions are what a transaction is made of. Each leaves the total as it is.
var actions = []func(c *client){
	func(c *client) { // money goes from one table to another
		from, a := c.account()
		to, b := c.account()
		d := c.IntN(100)
		if c.exec("UPDATE "+from+" SET balance = balance - $1 WHERE id = $2", d, a) == 1 {
			c.exec("UPDATE "+to+" SET balance = balance + $1 WHERE id = $2", d, b)
		}
	},
	func(c *client) { // accounts come, are renamed, and go
		id := 100 + c.IntN(200)
		_, a := c.account()
		switch c.IntN(3) {
		case 0:
			if c.exec("INSERT INTO acc1 VALUES ($1, 10, jsonb_build_object('a', $2::text), $1 + 1000) ON CONFLICT DO NOTHING",
				id, c.text()) == 1 {
				c.exec("UPDATE acc0 SET balance = balance - 10, note = $2 WHERE id = $1", a, c.text())
			}
		case 1:
			c.exec("UPDATE acc1 SET id = $2 WHERE id = $1 AND NOT EXISTS (SELECT FROM acc1 WHERE id = $2)", id, 100+c.IntN(200))
		default:
			if d := c.ask("DELETE FROM acc1 WHERE id = $1 RETURNING balance::int", id); d != 0 {
				c.exec("UPDATE acc2 SET balance = balance + $1 WHERE id = $2", d, a)
			}
		}
	},
	// from one partition to another
	func(c *client) { c.exec("UPDATE acc2 SET k = $1 WHERE id = $2", c.IntN(6), 1+c.IntN(50)) },
	func(c *client) { // two rows swap a unique value, by way of a third
		table := []string{"uniq", "late"}[c.IntN(2)]
		a, b := 1+c.IntN(40), 1+c.IntN(40)
		v, w := c.ask("SELECT v FROM "+table+" WHERE id = $1 FOR UPDATE", a), c.ask("SELECT v FROM "+table+" WHERE id = $1 FOR UPDATE", b)
		if a != b && v != 0 && w != 0 {
			c.exec("UPDATE "+table+" SET v = $2 WHERE id = $1", a, -v)
			c.exec("UPDATE "+table+" SET v = $2 WHERE id = $1", b, v)
			c.exec("UPDATE "+table+" SET v = $2 WHERE id = $1", a, w)
		}
	},
	func(c *client) { // without one: constraints that are checked at the end
		c.exec("UPDATE late SET v = CASE WHEN id = $1 THEN (SELECT v FROM late WHERE id = $2) ELSE (SELECT v FROM late WHERE id = $1) END WHERE id IN ($1, $2)",
			1+c.IntN(40), 1+c.IntN(40))
		if c.IntN(20) == 0 {
			c.exec("UPDATE late SET w = v + 1000")
			c.exec("UPDATE late SET w = w + 1 WHERE id > 20")
			c.exec("UPDATE late SET w = NULL")
		}
	},
	func(c *client) { // a unique value goes on to another row
		a := 1 + c.IntN(40)
		if v := c.ask("DELETE FROM uniq WHERE id = $1 RETURNING v", a); v != 0 {
			c.exec("INSERT INTO uniq VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", 1+c.IntN(40), v, c.text())
		} else {
			c.exec("INSERT INTO uniq VALUES ($1, $2) ON CONFLICT DO NOTHING", a, 100+c.IntN(1000))
		}
	},
	func(c *client) { // ranges take each other's places
		a, b := 1+c.IntN(40), 1+c.IntN(40)
		c.exec("UPDATE excl SET r = int4range(lower(r) + 100000, upper(r) + 100000) WHERE id = $1", a)
		c.exec("UPDATE excl SET r = (SELECT int4range(lower(r) - 100000, upper(r) - 100000) FROM excl WHERE id = $1) WHERE id = $2 AND $1 <> $2 AND lower((SELECT r FROM excl WHERE id = $1)) >= 100000", a, b)
		c.exec("UPDATE excl SET r = int4range(10 * $1::int + 500, 10 * $1::int + 505) WHERE id = $1 AND NOT EXISTS (SELECT FROM excl WHERE r && int4range(10 * $1::int + 500, 10 * $1::int + 505))", a)
	},
	func(c *client) { // large values, and updates that do not touch them
		id := c.IntN(60)
		switch c.IntN(6) {
		case 0:
			c.exec("INSERT INTO toast VALUES ($1, 0, $2, convert_to($3, 'UTF8'), random()) ON CONFLICT (id) DO UPDATE SET a = excluded.a",
				id, c.text(), c.text())
		case 1:
			c.exec("INSERT INTO toast_full VALUES ($1, 0, $2) ON CONFLICT (id) DO UPDATE SET a = excluded.a", id, c.text())
		case 2:
			// the key, and not the values
			c.exec("UPDATE toast SET id = $2 WHERE id = $1", id, 100+c.IntN(1000))
		case 3:
			c.exec("DELETE FROM toast WHERE id > $1", 100+c.IntN(1000))
		case 4:
			c.exec("UPDATE toast_full SET n = n + 1 WHERE id = $1", id)
		default:
			c.exec("UPDATE toast SET n = n + 1 WHERE id = $1", id)
			c.exec("UPDATE toast SET b = convert_to($2, 'UTF8') WHERE id = $1", id, c.text())
		}
	},
	func(c *client) { // rows that are equal, of which one is meant
		a := c.IntN(10)
		switch c.IntN(4) {
		case 0, 1:
			c.exec("INSERT INTO nokey SELECT $1, CASE WHEN $1 < 5 THEN $2 END, $1 / 3.0 FROM generate_series(1, 1 + $1 % 3)",
				a, []string{"x", "y", c.text()}[c.IntN(3)])
		case 2:
			c.exec("UPDATE nokey SET c = c + 1 WHERE ctid = (SELECT min(ctid) FROM nokey WHERE a = $1)", a)
		default:
			c.exec("DELETE FROM nokey WHERE ctid = (SELECT max(ctid) FROM nokey WHERE a = $1)", a)
		}
	},
	func(c *client) { // foreign keys, cascades, and now and then all of it goes
		id := c.IntN(30)
		switch n := c.IntN(12); {
		case n == 0 && c.loaded.Load():
			c.exec("TRUNCATE parent CASCADE")
		case n == 1 && c.loaded.Load():
			c.exec("TRUNCATE child RESTART IDENTITY")
		case n < 4:
			c.exec("DELETE FROM parent WHERE id = $1", id)
		case n == 4:
			c.exec("UPDATE child SET v = 'seen' WHERE id % 3 = 0")
		default:
			c.exec("INSERT INTO parent VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET v = excluded.v", id, c.text())
			c.exec("INSERT INTO child (parent, v) VALUES ($1, $2)", id, c.text())
		}
	},
	func(c *client) {
		// more than the server keeps in memory, so that it sends the transaction while that is in
		// progress
		if c.IntN(6) != 0 {
			return
		}
		from := 1000 * c.IntN(10)
		switch c.IntN(4) {
		case 0:
			c.exec("DELETE FROM bulk WHERE id >= $1 AND id < $1 + 1000", from)
		case 1:
			c.exec("UPDATE bulk SET v = v || 'x' WHERE id >= $1 AND id < $1 + 2000", from)
		case 2:
			if c.loaded.Load() {
				c.exec("TRUNCATE bulk")
			}
		default:
			c.exec("INSERT INTO bulk SELECT i, repeat('y', 50) FROM generate_series($1::int, $1::int + 999) i ON CONFLICT DO NOTHING", from)
		}
	},
}

// transaction does one transaction, of which parts or the whole may be taken back.
func (c *client) transaction(conn *pgx.Conn) error {
	tx, err := conn.Begin(c.ctx)
	if err != nil {
		return err
	}
	c.tx, c.err = tx, nil
	for range 1 + c.IntN(5) {
		action := actions[c.IntN(len(actions))]
		if c.IntN(4) > 0 {
			action(c)
			continue
		}
		c.exec("SAVEPOINT s")
		action(c)
		switch c.IntN(3) {
		case 0:
			c.exec("RELEASE s")
		case 1:
			c.exec("ROLLBACK TO s")
		}
	}
	if c.err != nil || c.IntN(12) == 0 {
		_ = tx.Rollback(c.ctx)
		return c.err
	}
	return tx.Commit(c.ctx)
}

// run does transactions until stop is closed, over new connections when the server goes away.
func (c *client) run(t *testing.T, source *pgtest.DB, stop <-chan struct{}, done *atomic.Int64) {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close(c.ctx)
		}
	}()
	for {
		select {
		case <-stop:
			return
		default:
		}
		if c.behind.Load() {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		var err error
		if conn == nil || conn.IsClosed() {
			if conn, err = pgx.Connect(c.ctx, source.URI); err != nil {
				conn = nil
				time.Sleep(50 * time.Millisecond)
				continue
			}
		}
		err = c.transaction(conn)
		var pg *pgconn.PgError
		if errors.As(err, &pg) && strings.HasPrefix(pg.Code, "42") {
			t.Errorf("a client's statement: %v", err)
			return
		}
		if err == nil {
			done.Add(1)
		}
	}
}

// A supervised pipe is started again whenever one of its ends has ended, as scripts/sync does, but
// at once.
type supervised struct {
	mu            sync.Mutex
	decode, apply *pgtest.Process
	restarts      int
}

func (s *supervised) run(t *testing.T, env *pgtest.Env, fifo string, slot string, jobs int, stop <-chan struct{}) {
	applied, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer applied.Close()
	for {
		r, w, err := os.Pipe()
		if err != nil {
			t.Error(err)
			return
		}
		s.mu.Lock()
		s.decode = env.Start(nil, w, "pgdecode", "--slot", slot, "--confirm-from", fifo)
		s.apply = env.Start(r, applied, "pgapply", "--jobs", fmt.Sprint(jobs))
		s.restarts++
		s.mu.Unlock()
		r.Close()
		w.Close()
		a, d := s.apply.Wait(time.Hour), s.decode.Wait(soon)
		select {
		case <-stop:
			return
		default:
		}
		for _, x := range []struct {
			p      *pgtest.Process
			status int
			fine   string
		}{{s.apply, a, " 65 75 137 "}, {s.decode, d, " 75 137 "}} {
			if !strings.Contains(x.fine, fmt.Sprintf(" %d ", x.status)) {
				t.Errorf("%s has ended with %d:\n%s", filepath.Base(x.p.Path), x.status, x.p.Errors())
				return
			}
		}
	}
}

// errors returns what the two ends that run now have written to standard error.
func (s *supervised) errors() (decode, apply string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.decode.Errors(), s.apply.Errors()
}

// kill kills one or both ends.
func (s *supervised) kill(decode, apply bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if decode {
		s.decode.Kill()
	}
	if apply {
		s.apply.Kill()
	}
}

func check(t *testing.T, jobs int) {
	rnd := random(t)
	settings := []string{"logical_decoding_work_mem=64kB", "deadlock_timeout=100ms", "checkpoint_timeout=30s", "log_min_messages=fatal"}
	from, to := pgtest.Start(t, 0, settings...), pgtest.Start(t, 0, settings...)
	source, target := from.Database(t, ""), to.Database(t, "")
	env := pgtest.NewEnv(t, source, target)
	source.Exec(checkerSchema)
	stop := make(chan struct{})
	var clients, others sync.WaitGroup
	var done, looks atomic.Int64
	var loaded, behind atomic.Bool
	for range 6 {
		c := &client{Rand: rand.New(rand.NewPCG(rnd.Uint64(), 0)), ctx: context.Background(), loaded: &loaded, behind: &behind}
		clients.Go(func() { c.run(t, source, stop, &done) })
	}
	// The clients are at it already; a deadlock of theirs with the publication is a reason to try
	// again.
	env.Bash(`until pgextract --slot "$1" > "$2"; do (($? == 75)); done; pgapply < "$2"`, source.Name,
		filepath.Join(t.TempDir(), "load.pgs"))
	loaded.Store(true)

	fifo := filepath.Join(t.TempDir(), "applied")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe := &supervised{}
	stopPipe := make(chan struct{})
	others.Go(func() { pipe.run(t, env, fifo, source.Name, jobs, stopPipe) })
	others.Go(func() { // the reader
		want := fmt.Sprintf("%d\t0\t0", checkerTotal)
		for {
			select {
			case <-stopPipe:
				return
			case <-time.After(20 * time.Millisecond):
			}
			got, err := target.Try(checkerSum)
			if err != nil {
				continue // it is down
			}
			looks.Add(1)
			if got != want {
				t.Errorf("the target shows a state that the source was never in: total, doubles and orphans are %s, not %s; applied %s", got, want,
					target.Query("SELECT applied_lsn FROM pgsluice.streams"))
				return
			}
		}
	})

	others.Go(func() { // the clients' brake
		for {
			select {
			case <-stopPipe:
				return
			case <-time.After(200 * time.Millisecond):
			}
			at, err := target.Try("SELECT applied_lsn FROM pgsluice.streams")
			if err != nil {
				continue
			}
			if much, err := source.Try("SELECT pg_current_wal_insert_lsn() - '" + at + "'::pg_lsn > 16 << 20"); err == nil {
				behind.Store(much == "t")
			}
		}
	})

	kills := make(map[string]int)
	deadline := time.Now().Add(time.Duration(pgtest.Often(7, 300)) * time.Second)
	for time.Now().Before(deadline) && !t.Failed() {
		time.Sleep(time.Duration(rnd.IntN(1500)) * time.Millisecond)
		what := []string{"pgdecode", "pgapply", "pgdecode and pgapply", "source", "target", "source stopped", "target stopped"}[rnd.IntN(7)]
		kills[what]++
		switch what {
		case "source":
			from.Kill()
			from.Restart(t)
		case "target":
			to.Kill()
			to.Restart(t)
		case "source stopped":
			from.Signal(syscall.SIGQUIT)
			from.Restart(t)
		case "target stopped":
			to.Stop()
			to.Restart(t)
		default:
			pipe.kill(strings.Contains(what, "pgdecode"), strings.Contains(what, "pgapply"))
		}
	}
	close(stop)
	clients.Wait()
	// It catches up by itself, however long it takes, as long as it moves.
	now := source.Query("SELECT pg_current_wal_insert_lsn()")
	at, moved := "", time.Now()
	for !t.Failed() {
		got, err := target.Try("SELECT applied_lsn >= '" + now + "', applied_lsn FROM pgsluice.streams")
		if strings.HasPrefix(got, "t") {
			break
		}
		if err == nil && got != at {
			at, moved = got, time.Now()
		}
		if time.Since(moved) > time.Minute {
			decode, apply := pipe.errors()
			t.Errorf("the target stands at %s, on the way to %s\n%s%s", at, now, decode, apply)
		}
		time.Sleep(50 * time.Millisecond)
	}
	close(stopPipe)
	pipe.kill(true, true)
	others.Wait()
	t.Logf("%d transactions; %d looks at the target; the pipe was started %d times; ended: %v", done.Load(),
		looks.Load(), pipe.restarts, kills)
	if !t.Failed() {
		pgtest.Equal(t, source, target)
	}
}
