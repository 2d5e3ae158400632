package main_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/format"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// streaming returns a source that sends every transaction of more than a few hundred rows in
// blocks, a target, and how to run the programs with them. The tables that schema makes are on both
// sides, empty, and the slot s is where changes begin.
func streaming(t *testing.T, schema string) (source, target *pgtest.DB, env *pgtest.Env) {
	t.Helper()
	source = pgtest.Start(t, 0, "logical_decoding_work_mem=64kB").Database(t, "")
	target = pgtest.Target(t).Database(t, "")
	source.Exec(schema, "CREATE PUBLICATION s FOR ALL TABLES", "SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
	target.Exec(schema)
	return source, target, pgtest.NewEnv(t, source, target)
}

func exec(t *testing.T, c *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := c.Exec(context.Background(), fmt.Sprintf(sql, args...)); err != nil {
		t.Fatal(err)
	}
}

const accounts = `CREATE TABLE a (id int PRIMARY KEY, v int NOT NULL, pad text); CREATE TABLE log (id int, what text); ALTER TABLE log REPLICA IDENTITY FULL`

// Transactions that are larger than the source keeps in memory, more of them at once than are
// written ahead, with subtransactions that are kept and others that are rolled back, beside small
// ones that commit meanwhile.
func TestInProgress(t *testing.T) {
	pgtest.Slow(t)
	pgtest.Raced(t)
	source, target, env := streaming(t, accounts)
	const writers, rows = 7, 1000
	for round := range pgtest.Often(1, 3) {
		var open []*pgx.Conn
		for w := range writers {
			c := source.Connect()
			open = append(open, c)
			exec(t, c, "BEGIN")
			exec(t, c, "INSERT INTO a SELECT i, 0, repeat('x', 50) FROM generate_series(%d, %d) i",
				(round*writers+w)*10*rows, (round*writers+w)*10*rows+rows-1)
		}
		for step := range 4 {
			for w, c := range open {
				first := (round*writers + w) * 10 * rows
				exec(t, c, "SAVEPOINT outside")
				exec(t, c, "UPDATE a SET v = v + 1 WHERE id BETWEEN %d AND %d", first, first+rows/2)
				exec(t, c, "SAVEPOINT inside")
				exec(t, c, "INSERT INTO a SELECT i, %d, repeat('y', 80) FROM generate_series(%d, %d) i", step,
					first+(step+1)*rows, first+(step+2)*rows-1)
				switch (w + step) % 3 {
				case 0:
					exec(t, c, "ROLLBACK TO inside")
				case 1:
					exec(t, c, "RELEASE inside; ROLLBACK TO outside")
				}
				exec(t, c, "DELETE FROM a WHERE id BETWEEN %d AND %d", first+step*10, first+step*10+3)
				exec(t, c, "INSERT INTO log VALUES (%d, 'step'), (%d, 'step')", step, step)
				exec(t, c, "DELETE FROM log WHERE ctid = (SELECT max(ctid) FROM log WHERE id = %d)", step)
				source.Exec(fmt.Sprintf("INSERT INTO a VALUES (%d, 1, 'small'); INSERT INTO log VALUES (%d, 'small')",
					-1-(round*writers+w)*10-step, w))
			}
		}
		for w, c := range open {
			if w%4 == round {
				exec(t, c, "ROLLBACK")
			} else {
				exec(t, c, "COMMIT")
			}
		}
	}
	changes := env.Must(nil, "pgdecode", "--slot", "s", "--until", "now")
	if n := source.Query("SELECT stream_txns > 0 FROM pg_stat_replication_slots WHERE slot_name = 's'"); n != "t" {
		t.Error("nothing was sent in blocks: this test tests nothing")
	}
	env.Must(changes, "pgapply", "--adopt")
	pgtest.Equal(t, source, target)
	if n := target.Query("SELECT count(*) FROM pgsluice.spill"); n != "0" {
		t.Errorf("%s pieces are left in pgsluice.spill", n)
	}
	before := target.Query("SELECT sum(hashtext(xmin::text || ctid::text)::bigint) FROM a")
	env.Must(changes, "pgapply", "--adopt")
	if after := target.Query("SELECT sum(hashtext(xmin::text || ctid::text)::bigint) FROM a"); after != before {
		t.Error("applied a second time, the stream has written rows")
	}
	// Cut in the middle of everything, and applied again.
	again := pgtest.Target(t).Database(t, "")
	again.Exec(accounts)
	env.Target = again.URI
	for i := 1; i < 8; i += pgtest.Often(3, 1) {
		if status, _, errs := env.Run(changes[:len(changes)*i/8], "pgapply", "--adopt"); status != 65 {
			t.Fatalf("status %d for a stream that was cut: %s", status, errs)
		}
	}
	env.Must(changes, "pgapply", "--adopt")
	pgtest.Equal(t, source, again)
}

// A full load whose snapshot lies between the changes of a transaction in progress and its commit.
func TestInProgressAndLoad(t *testing.T) {
	source, target, env := streaming(t, accounts)
	var load bytes.Buffer
	// A slot waits, twice, for the transactions that are running: only what began after that can
	// still be running at its snapshot.
	var open [3]*pgx.Conn
	var extract *pgtest.Process
	for i := range open {
		open[i] = source.Connect()
		exec(t, open[i], "BEGIN")
		exec(t, open[i], "INSERT INTO a SELECT i, 0, repeat('x', 50) FROM generate_series(%d, %d) i", i*10000, i*10000+5000)
		if i == 0 {
			extract = env.Start(nil, &load, "pgextract", "--slot", "s", "--data-only")
		} else {
			exec(t, open[i-1], "COMMIT")
		}
		if i < 2 {
			pgtest.Wait(t, 30*time.Second, "the slot waits", func() bool {
				return source.Query("SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted AND transactionid::text = "+
					"(SELECT backend_xid::text FROM pg_stat_activity WHERE pid = "+fmt.Sprint(open[i].PgConn().PID())+")") == "1"
			})
		}
	}
	if status := extract.Wait(time.Minute); status != 0 {
		t.Fatal(extract.Errors())
	}
	exec(t, open[2], "UPDATE a SET v = 1")
	exec(t, open[2], "COMMIT")
	source.Exec("UPDATE a SET v = v + 1")
	changes := env.Must(nil, "pgdecode", "--slot", "s", "--until", "now")
	env.Must(append(load.Bytes(), changes...), "pgapply", "--adopt")
	pgtest.Equal(t, source, target)
}

// What is refused ahead of its commit is kept until then, where the error can say which transaction
// it is.
func TestAheadRefused(t *testing.T) {
	source, target, env := streaming(t, accounts)
	target.Exec("INSERT INTO a VALUES (4000, 1, 'in the way')")
	source.Exec("INSERT INTO a SELECT i, 0, repeat('x', 500) FROM generate_series(1, 5000) i")
	changes := env.Must(nil, "pgdecode", "--slot", "s", "--until", "now")
	status, _, errs := env.Run(changes, "pgapply", "--adopt")
	if status != 1 || !strings.Contains(errs, "(id)=(4000)") || !strings.Contains(errs, "commit LSN") {
		t.Fatalf("status %d: %s", status, errs)
	}
	target.Exec("DELETE FROM a")
	env.Must(changes, "pgapply", "--adopt")
	pgtest.Equal(t, source, target)
}

// Somebody else's lock on the target, which the session of a transaction in progress keeps waiting
// while another one waits for him: no server sees that circle.
func TestAheadBlocked(t *testing.T) {
	pgtest.Slow(t)
	pgtest.Raced(t)
	source, target, env := streaming(t, accounts)
	source.Exec("INSERT INTO log VALUES (1, 'x')")
	big := source.Connect()
	exec(t, big, "BEGIN")
	exec(t, big, "INSERT INTO a SELECT i, 0, repeat('x', 500) FROM generate_series(1, 8000) i")
	source.Exec("INSERT INTO log VALUES (2, 'x')")
	out, in := strings.Builder{}, env.Start(nil, nil, "bash", "-c", "set -o pipefail; pgdecode --slot s | pgapply --adopt")
	defer func() { t.Log(out.String(), in.Errors()) }()
	pgtest.Wait(t, 30*time.Second, "the transaction is written ahead", func() bool {
		return target.Query("SELECT count(*) > 0 FROM pg_locks WHERE relation = 'a'::regclass AND mode = 'RowExclusiveLock'") == "t"
	})
	other := target.Connect()
	locked := make(chan error, 1)
	go func() {
		_, err := other.Exec(context.Background(), "ALTER TABLE a ADD COLUMN more int")
		locked <- err
	}()
	pgtest.Wait(t, 10*time.Second, "the ALTER TABLE waits", func() bool {
		return target.Query("SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())") == "1"
	})
	source.Exec("INSERT INTO a VALUES (-1, 0, 'small')")
	if status := in.Wait(60 * time.Second); status != 75 {
		t.Fatalf("status %d", status)
	}
	if err := <-locked; err != nil {
		t.Fatal(err)
	}
	exec(t, big, "COMMIT")
	env.Bash("pgdecode --slot s --until now | pgapply --adopt")
	target.Exec("ALTER TABLE a DROP COLUMN more")
	pgtest.Equal(t, source, target)
}

// Changes of subtransactions that were written ahead, and were rolled back, are not counted.
func TestCountsOfSubtransactions_C12(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.target.Exec("CREATE TABLE t (a int PRIMARY KEY, b text)")
	s := newScribe(t)
	s.write(relation("a", "b"))
	id, pad, begun := 0, strings.Repeat("x", 1000), make(map[uint32]bool)
	block := func(xid, sub uint32, rows int) {
		s.write(&format.StreamStart{XID: xid, First: !begun[xid]})
		begun[xid] = true
		for range rows {
			r := insert(fmt.Sprint(id), pad)
			r.XID = sub
			s.write(r)
			id++
		}
		s.write(&format.StreamStop{})
	}
	abort := func(xid, sub uint32) { s.write(&format.StreamAbort{XID: xid, SubXID: sub}) }
	// The first piece has the savepoints of 6 and 7.
	block(5, 5, 300)
	block(5, 6, 500)
	block(5, 7, 1500)
	abort(5, 7)
	block(5, 6, 100)
	block(5, 5, 1)
	block(5, 8, 1500)
	s.commit(5)
	block(20, 20, 10)
	block(20, 21, 1500)
	block(20, 22, 1500)
	abort(20, 22)
	abort(20, 21)
	block(20, 20, 1500)
	s.commit(20)
	// A stream without times has none in the positions either.
	status, out, errs := b.Run(s.end(), "pgapply", "--adopt")
	if status != 0 || !strings.HasPrefix(string(out), "applied\t0/") || strings.Contains(string(out), "1970") {
		t.Errorf("exit status %d\n%s%s", status, out, errs)
	}
	const rows = "3911"
	b.want("SELECT (SELECT count(*) FROM t), inserts, changes FROM pgsluice.tables JOIN pgsluice.streams USING (stream_id)", rows+"\t"+rows+"\t"+rows)
	b.want("SELECT count(*) FROM pgsluice.spill", "0")
}
