package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A target that has room for few locks takes a schema of many tables all the same: load, open,
// finish and verify lock some of them at a time.
func TestFewLocks_C29(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source := pgtest.Source(t).Database(t, "")
	target := pgtest.Start(t, 0, "max_locks_per_transaction=10", "max_connections=15",
		"max_prepared_transactions=0", "max_wal_senders=1", "max_replication_slots=1",
		"max_worker_processes=1").Database(t, "")
	tables := pgtest.Often(250, 400)
	var sql strings.Builder
	for i := range tables {
		fmt.Fprintf(&sql, "CREATE TABLE t%[1]d (id serial PRIMARY KEY, p int REFERENCES t0); INSERT INTO t%[1]d (p) VALUES (NULL);", i)
		if i == 0 {
			sql.Reset()
			sql.WriteString("CREATE TABLE t0 (id serial PRIMARY KEY); INSERT INTO t0 DEFAULT VALUES;")
		}
		if i%50 == 49 { // the source's own room is limited, too
			source.Exec(sql.String())
			sql.Reset()
		}
	}
	references, keys := "REFERENCES t0", tables-1+41
	if source.Major == 10 { // which has no foreign keys of partitioned tables
		references, keys = "", tables-1
	}
	source.Exec("CREATE TABLE part (id int " + references + ") PARTITION BY LIST (id)")
	for i := range 40 {
		source.Exec(fmt.Sprintf("CREATE TABLE part%[1]d PARTITION OF part FOR VALUES IN (%[1]d)", i))
	}
	source.Exec("INSERT INTO part VALUES (1)")
	e := pgtest.NewEnv(t, source, target)
	e.Bash("pgextract --slot " + source.Name + " --jobs 4 | pgapply --jobs 2")
	if f := failures(target); f != "" {
		t.Fatalf("could not be created: %s", f)
	}
	status, said := cutOver(e, source.Name)
	if status == 0 {
		status, _, said = e.Run(nil, "pgcutover", "verify", "--slot", source.Name, "--jobs", "4")
	}
	if status != 0 {
		t.Fatalf("status %d: %s", status, said)
	}
	if n := target.Query("SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated AND connamespace = 'public'::regnamespace"); n != fmt.Sprint(keys) {
		t.Errorf("%s foreign keys are valid", n)
	}
	for _, i := range []int{0, 1, 15, 16, tables - 1} {
		if n := target.Query(fmt.Sprintf("SELECT last_value, is_called FROM t%d_id_seq", i)); n != "1\tt" {
			t.Errorf("sequence %d is at %s", i, n)
		}
	}
}

// One partitioned table alone has more partitions than the target has room for locks.
func TestManyPartitions_C29(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source := pgtest.Source(t).Database(t, "")
	if source.Major < 13 {
		t.Skip("partitioned tables are published from 13 on")
	}
	target := pgtest.Start(t, 0, "max_locks_per_transaction=10", "max_connections=20",
		"max_prepared_transactions=0", "max_wal_senders=1", "max_replication_slots=1",
		"max_worker_processes=1").Database(t, "")
	partitions := pgtest.Often(150, 3000)
	source.Exec("CREATE TABLE part (id int PRIMARY KEY, v text) PARTITION BY LIST (id)", "CREATE TABLE other (id serial PRIMARY KEY)")
	for from := 0; from < partitions; from += 100 {
		var sql strings.Builder
		for i := from; i < from+100; i++ {
			fmt.Fprintf(&sql, "CREATE TABLE part%[1]d PARTITION OF part FOR VALUES IN (%[1]d); INSERT INTO part%[1]d VALUES (%[1]d, 'v');", i)
		}
		source.Exec(sql.String())
	}
	e := pgtest.NewEnv(t, source, target)
	step := func(script string) {
		t.Helper()
		began := time.Now()
		if status, _, said := e.Run(nil, "bash", "-c", "set -o pipefail; "+script); status != 0 {
			t.Errorf("%s: status %d\n%s", script, status, said)
		}
		t.Logf("%s: %v", script, time.Since(began))
	}
	slot := source.Name
	step("pgextract --slot " + slot + " --jobs 4 | pgapply --jobs 2")
	if f := failures(target); f != "" {
		t.Fatalf("could not be created: %s", f)
	}
	// A transaction needs a lock for each partition that it changes, on both sides.
	source.Exec("UPDATE part SET v = 'w' WHERE id < 150 AND id % 10 = 0", "INSERT INTO other DEFAULT VALUES")
	step("pgdecode --slot " + slot + " --until now | pgapply")
	step("pgcutover check --slot " + slot + " || (($? == 1))")
	step("pgcutover status --slot " + slot)
	step("pgcutover fence --slot " + slot)
	step("(pgdecode --slot " + slot + " --until now | pgapply) && pgdecode --slot " + slot +
		" | pgapply & pgcutover drain --timeout 60s --slot " + slot + " && pgcutover verify --slot " + slot +
		" && pgcutover open --slot " + slot + "; s=$?; wait; exit $s")
	step("pgcutover finish --slot " + slot)
	step("pgcutover verify --jobs 4 --slot " + slot)
	if n := target.Query("SELECT count(*) FROM part WHERE v = 'w' AND id < 100"); n != "10" {
		t.Errorf("%s rows", n)
	}
}

// Foreign keys that are not enforced, or not valid, on the source stay so, and stand in the way of
// nothing; others of the same name are validated.
func TestNotEnforced_C7(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	major := 18
	a, b := pgtest.Start(t, major), pgtest.Start(t, major)
	source, target := a.Database(t, ""), b.Database(t, "")
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec(`CREATE TABLE p (id int PRIMARY KEY)`,
			`CREATE TABLE "NOT ENFORCED" (id int PRIMARY KEY, p int CONSTRAINT fk REFERENCES p)`,
			`CREATE TABLE c (id int PRIMARY KEY, p int CONSTRAINT fk REFERENCES p NOT ENFORCED)`,
			`CREATE TABLE d (id int PRIMARY KEY, p int)`,
			`CREATE TABLE part (id int, p int CONSTRAINT fk REFERENCES p) PARTITION BY LIST (id)`,
			`CREATE TABLE part1 PARTITION OF part FOR VALUES IN (1)`,
			`CREATE TABLE n (id int PRIMARY KEY, v int)`,
			`CREATE TABLE r (k int4range, during daterange, v int, PRIMARY KEY (k, during WITHOUT OVERLAPS))`,
			`CREATE TABLE s (k int4range, during daterange, FOREIGN KEY (k, PERIOD during) REFERENCES r (k, PERIOD during))`,
			`ALTER TABLE s REPLICA IDENTITY FULL`, `ALTER TABLE part1 REPLICA IDENTITY FULL`,
			`ALTER TABLE part REPLICA IDENTITY FULL`)
	}
	source.Exec("INSERT INTO p VALUES (1)", `INSERT INTO "NOT ENFORCED" VALUES (1, 1)`,
		"INSERT INTO c VALUES (1, 99)", "INSERT INTO d VALUES (1, 98)", "INSERT INTO part VALUES (1, 1)",
		"INSERT INTO n VALUES (1, NULL)", "INSERT INTO r VALUES ('[1,2)', '[2020-01-01,2021-01-01)', 1)",
		"INSERT INTO s VALUES ('[1,2)', '[2020-02-01,2020-03-01)')")
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec(`ALTER TABLE d ADD CONSTRAINT fk FOREIGN KEY (p) REFERENCES p NOT VALID`,
			`ALTER TABLE n ADD CONSTRAINT n_v NOT NULL v NOT VALID`)
	}
	e := pgtest.NewEnv(t, source, target)
	e.Bash("pgextract --data-only --slot " + source.Name + " | pgapply --rebuild-indexes")
	if status, said := cutOver(e, source.Name); status != 0 {
		t.Fatalf("status %d: %s", status, said)
	}
	e.Must(nil, "pgcutover", "finish", "--slot", source.Name)
	const q = `SELECT string_agg(format('%s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid)), E'\n' ORDER BY conrelid::regclass::text, conname) FROM pg_constraint WHERE connamespace = 'public'::regnamespace`
	if a, b := source.Query(q), target.Query(q); a != b {
		t.Errorf("constraints\n%s\n\nare on the target:\n%s", a, b)
	}
	if f := failures(target); f != "" {
		t.Error(f)
	}
}
