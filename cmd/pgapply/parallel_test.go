package main_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

const banks = `CREATE TABLE account (id int PRIMARY KEY, amount bigint NOT NULL, pad text);
	CREATE TABLE seat (id int PRIMARY KEY, holder int UNIQUE, note text);
	CREATE TABLE queue (id int PRIMARY KEY, place int UNIQUE DEFERRABLE INITIALLY DEFERRED);
	CREATE TABLE journal (at int, what text); ALTER TABLE journal REPLICA IDENTITY FULL;
	INSERT INTO account SELECT i, 1000, repeat('x', 100) FROM generate_series(1, 20000) i;
	INSERT INTO seat SELECT i, i FROM generate_series(1, 1000) i;
	INSERT INTO queue SELECT i, i FROM generate_series(1, 100) i`

// Groups written side by side: bulk changes apart from each other, unique values that go from row
// to row between transactions, and all that must be written by itself. A reader of the target sees
// only states that the source was in.
func TestParallel(t *testing.T) {
	pgtest.Raced(t)
	source, target := pgtest.Pair(t)
	env := pgtest.NewEnv(t, source, target)
	slot := "p_" + source.Name
	source.Exec(banks, "CREATE PUBLICATION "+slot+" FOR ALL TABLES", "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")
	target.Exec(banks)
	var script strings.Builder
	for i := range pgtest.Often(10, 40) {
		from, to := i%20*1000+1, (i*7+3)%20*1000+1
		if from == to {
			to = (from + 1000) % 20000
		}
		fmt.Fprintf(&script, "BEGIN; UPDATE account SET amount = amount - 1 WHERE id BETWEEN %d AND %d; UPDATE account SET amount = amount + 1 WHERE id BETWEEN %d AND %d; COMMIT;\n",
			from, from+999, to, to+999)
		fmt.Fprintf(&script, "INSERT INTO journal SELECT %d, repeat('y', 200) FROM generate_series(1, 1000);\n", i)
		// Each holder goes to another seat, which a third one has just left.
		fmt.Fprintf(&script, "UPDATE seat SET holder = NULL, note = repeat('z', 2000) WHERE id = %d; UPDATE seat SET holder = %d WHERE id = %d;\n",
			i+1, i+1, i+500)
		fmt.Fprintf(&script, "DELETE FROM seat WHERE id = %d; INSERT INTO seat VALUES (%d, %d);\n", i+500, i+2000, i+1)
		switch i % 10 {
		case 3:
			fmt.Fprintf(&script, "UPDATE queue SET place = 101 - place;\n")
		case 5:
			fmt.Fprintf(&script, "DELETE FROM journal WHERE ctid IN (SELECT ctid FROM journal LIMIT 3); UPDATE seat SET id = id + 5000 WHERE id = %d;\n", 900-i)
		case 7:
			fmt.Fprintf(&script, "TRUNCATE journal;\n")
		}
	}
	for i := range pgtest.Often(10, 30) { // nothing stands between these
		fmt.Fprintf(&script, "INSERT INTO account SELECT i, 0, repeat('x', 1000) FROM generate_series(%d, %d) i;\n",
			100000+i*1500, 100000+i*1500+1499)
	}
	for _, sql := range strings.Split(script.String(), ";\n") {
		if sql != "" {
			source.Exec(sql)
		}
	}
	changes := env.Must(nil, "pgdecode", "--slot", slot, "--until", "now")
	apply := env.Start(bytes.NewReader(changes), nil, "pgapply", "--adopt", "--jobs", "4")
	together := 0
	c := target.Connect()
	for deadline := time.Now().Add(2 * time.Minute); apply.Running() && time.Now().Before(deadline); {
		var total int64
		var writing int
		err := c.QueryRow(pgtest.Context(t), `SELECT (SELECT sum(amount) FROM account), (SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
			WHERE d.datname = current_database() AND relation = 'account'::regclass AND mode = 'RowExclusiveLock')`).Scan(&total, &writing)
		if err != nil {
			t.Fatal(err)
		}
		if total != 20000*1000 {
			t.Fatalf("a reader has seen a total of %d", total)
		}
		together = max(together, writing)
	}
	if status := apply.Wait(time.Minute); status != 0 {
		t.Fatalf("status %d: %s", status, apply.Errors())
	}
	if together < 2 {
		t.Errorf("at most %d sessions have written at the same time", together)
	}
	pgtest.Equal(t, source, target)
	env.Must(changes, "pgapply", "--adopt", "--jobs", "4")
	pgtest.Equal(t, source, target)
}
