package main_test

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/format"
)

// manyTables makes tables with indexes, and one that is large enough to be read in parts.
func manyTables(d *pgtest.DB, n int) {
	var sql strings.Builder
	for i := range n {
		fmt.Fprintf(&sql, `CREATE TABLE t%d (id int PRIMARY KEY, v text, n numeric); CREATE INDEX ON t%d (v);
			INSERT INTO t%d SELECT i, md5(i::text), i * 1.5 FROM generate_series(1, %d) i;`, i, i, i, 3000+500*i)
	}
	d.Exec(sql.String())
	splitTable(d, "big")
	d.Exec("ALTER TABLE t1 ADD FOREIGN KEY (id) REFERENCES t2",
		"CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM t1", "CREATE SEQUENCE s",
		"SELECT nextval('s')",
		"SELECT lo_from_bytea(1000 + i, decode(md5(i::text), 'hex')) FROM generate_series(1, 100) i")
}

// splitTable makes a table of 210 MB, nearly all of which is free space.
func splitTable(d *pgtest.DB, name string) {
	d.Exec("CREATE TABLE "+name+" (id bigint PRIMARY KEY, v text) WITH (fillfactor = 10)", "ALTER TABLE "+name+" ALTER v SET STORAGE PLAIN",
		"INSERT INTO "+name+" SELECT i, repeat('x', 450) FROM generate_series(1, 26000) i")
}

// A load that is killed again and again, at whatever it is, ends complete when it is resumed, and
// reads no table twice that was finished.
func TestKilledLoad(t *testing.T) {
	pgtest.Slow(t)
	pgtest.Raced(t)
	sourceServer, targetServer := pgtest.Start(t, 0), pgtest.Start(t, 0)
	source, target := sourceServer.Database(t, ""), targetServer.Database(t, "")
	const tables = 40
	manyTables(source, tables)
	e := pgtest.NewEnv(t, source, target)
	args := []string{"--slot", "mig", "--resume", "--jobs", "2"}
	parts := func() int {
		s, err := target.Try("SELECT count(*) FROM pgsluice.parts")
		if err != nil {
			return 0
		}
		n, _ := strconv.Atoi(s)
		return n
	}
	// After each kill two more parts must be there before the next: all ten come before the end. On
	// a slow machine more arrive in the meantime, and there are fewer kills: something must be left
	// to read after the last one.
	for kill := range 10 {
		before := parts()
		if kill >= 4 && before > tables/2 {
			break
		}
		x, a := startSlowly(e, 3<<19, []string{"--jobs", "1"}, args)
		pgtest.Wait(t, timeout, "two more parts", func() bool {
			if !a.Running() {
				t.Fatalf("kill %d: it has ended before:\n%s%s", kill, x.Errors(), a.Errors())
			}
			return parts() >= before+2
		})
		switch kill % 4 {
		case 0:
			a.Kill()
		case 1:
			x.Kill()
		case 2:
			targetServer.Kill()
		case 3:
			sourceServer.Kill()
		}
		xs, as := x.Wait(timeout), a.Wait(timeout)
		if as == 0 {
			t.Fatalf("kill %d: pgapply says that all is well\n%s", kill, a.Errors())
		}
		// Whoever lost a server says that it may be tried again; whoever lost the other program, or
		// had to give up because of it, too.
		if s := map[int]int{2: as, 3: xs}[kill%4]; kill%4 >= 2 && s != 75 {
			t.Errorf("kill %d: exit statuses %d and %d\n%s%s", kill, xs, as, x.Errors(), a.Errors())
		}
		switch kill % 4 {
		case 2:
			targetServer.Restart(t)
		case 3:
			sourceServer.Restart(t)
		}
	}
	done := target.Query("SELECT string_agg(quote_literal(source_table), ', ') FROM pgsluice.tables WHERE status IN ('copied', 'indexing', 'loaded') AND source_table LIKE 't%'")
	if strings.Count(done, ",") < 10 {
		t.Errorf("only these tables were finished: %s", done)
	}
	// The server counts what is read, with a delay; a crash has reset it.
	read := "SELECT relname, seq_scan, seq_tup_read, coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relname IN (" +
		done + ") ORDER BY 1"
	const all = "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_user_tables"
	before, beforeAll := source.Query(read), source.Query(all)
	said := load(t, e, args...)
	if !strings.Contains(said, "are on the target already and are not read") {
		t.Error(said)
	}
	pgtest.Wait(t, timeout, "the counters have arrived", func() bool { return source.Query(all) != beforeAll })
	if after := source.Query(read); after != before {
		t.Errorf("finished tables were read again:\n%s", diff(before, after))
	}
	whole(t, source, target)
	// Once more: nothing is missing, nothing is read.
	beforeAll = source.Query(all)
	load(t, e, args...)
	if after := source.Query(all); after != beforeAll {
		t.Errorf("rows were read though nothing was missing: %s, %s", beforeAll, after)
	}
	whole(t, source, target)
	cutover(t, e, "mig")
	unpublish(source, "mig")
	equalSchema(t, source, target)
}

// whole fails the test unless a load has come to its end with everything.
func whole(t *testing.T, source, target *pgtest.DB) {
	t.Helper()
	pgtest.Equal(t, source, target)
	equalLargeObjects(t, source, target)
	if s := target.Query("SELECT load_status FROM pgsluice.streams"); s != "loaded" {
		t.Errorf("the load is %s", s)
	}
	if s := target.Query("SELECT schema_name, table_name, status FROM pgsluice.tables WHERE status <> 'loaded'"); s != "" {
		t.Errorf("tables: %s", s)
	}
	if s := target.Query("SELECT type, name, state, error FROM pgsluice.deferred WHERE state <> 'done' AND phase NOT IN ('cutover', 'finish')"); s != "" {
		t.Errorf("objects: %s", s)
	}
	const indexes = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
	if a, b := source.Query(indexes), target.Query(indexes); a != b {
		t.Errorf("indexes:\n%s", diff(a, b))
	}
}

// A file that holds a load can be applied in part and then again: what is there is skipped, part by
// part, also without a slot.
func TestReplayedLoad(t *testing.T) {
	pgtest.Slow(t)
	source := pgtest.Source(t).Database(t, "")
	manyTables(source, 8)
	for _, slot := range []string{"", "replayed"} {
		target := pgtest.Target(t).Database(t, "")
		e := pgtest.NewEnv(t, source, target)
		var args []string
		if slot != "" {
			args = []string{"--slot", slot}
		}
		file := e.Must(nil, "pgextract", args...)
		for _, cut := range []int{len(file) / 4, len(file) / 2, len(file) * 3 / 4, len(file) - 1} {
			if status, _, said := e.Run(file[:cut], "pgapply"); status != 65 {
				t.Fatalf("a stream that was cut: exit status %d\n%s", status, said)
			}
		}
		_, _, said := e.Run(file, "pgapply")
		whole(t, source, target)
		// The last cut took away no more than the end.
		if !strings.Contains(said, "loaded 0 rows") {
			t.Errorf("rows were loaded again:\n%s", said)
		}
		e.Must(file, "pgapply")
		whole(t, source, target)
	}
}

// Parts of one table that were read with different snapshots do not fit together, also where the
// snapshots have no LSN.
func TestOtherSnapshot(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	splitTable(source, "big")
	e := pgtest.NewEnv(t, source, target)
	first := e.Must(nil, "pgextract", "--jobs", "1")
	status, _, said := e.Run(upToFirstPart(t, first), "pgapply")
	if parts := target.Query("SELECT count(*) FROM pgsluice.parts"); status != 65 || parts != "1" {
		t.Fatalf("exit status %d, %s parts\n%s", status, parts, said)
	}
	source.Exec("UPDATE big SET v = 'y' WHERE id % 100 = 0", "DELETE FROM big WHERE id % 77 = 0")
	load(t, e)
	pgtest.Equal(t, source, target)
}

// upToFirstPart returns a stream up to where the first part of a table is complete.
func upToFirstPart(t *testing.T, stream []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	r, w := format.NewReader(bytes.NewReader(stream)), format.NewWriter(&out)
	for {
		rec, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Write(rec); err != nil {
			t.Fatal(err)
		}
		if _, ok := rec.(*format.CopyEnd); ok {
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			return out.Bytes()
		}
	}
}

// A table can be loaded again, and one that was made later be added, while sync is stopped.
func TestReload(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE a (id int PRIMARY KEY, v text)", "INSERT INTO a VALUES (1, 'x'), (2, 'y')",
		"CREATE TABLE b (id int PRIMARY KEY REFERENCES a)", "INSERT INTO b VALUES (1)",
		"CREATE VIEW v AS SELECT * FROM a")
	e := pgtest.NewEnv(t, source, target)
	slot := source.Name
	// A load whose reader fails at once says what it leaves, and what to type.
	lost := *e
	lost.Target = ""
	for i := range 2 {
		said, _, status, _ := pipe(&lost, nil, []string{"--slot", slot})
		remove := "pgcutover cleanup --slot " + slot + " --force"
		if status != 75 || !strings.Contains(said, "pgextract --slot "+slot+" --resume | pgapply") || !strings.Contains(said, remove) {
			t.Fatalf("exit status %d\n%s", status, said)
		}
		if i == 0 {
			e.Bash(remove)
			if n := source.Query("SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name = '" +
				slot + "') + (SELECT count(*) FROM pg_publication)"); n != "0" {
				t.Errorf("%s of slot and publications are left", n)
			}
		}
	}
	load(t, e, "--slot", slot, "--resume")
	source.Exec("INSERT INTO a VALUES (3, 'z')")
	e.Bash(`pgdecode --slot "$1" --until now | pgapply >/dev/null`, slot)
	// Somebody has spoiled a table of the target, and there is a new one on the source.
	target.Exec("UPDATE a SET v = 'spoiled'", "DELETE FROM a WHERE id = 1")
	source.Exec("INSERT INTO a VALUES (4, 'w')", "CREATE TABLE c (id serial PRIMARY KEY, v text)",
		"CREATE INDEX ON c (v)", "INSERT INTO c (v) VALUES ('before'), ('it')",
		"ALTER TABLE c ADD FOREIGN KEY (id) REFERENCES a")
	if s, _, said := e.Run(nil, "pgextract", "--slot", slot, "--reload"); s != 64 || !strings.Contains(said, "--table") {
		t.Errorf("--reload alone: %d %s", s, said)
	}
	// One of them is not even there any more.
	target.Exec("ALTER TABLE a RENAME TO elsewhere")
	_, said, _, status := pipe(e, nil, []string{"--slot", slot, "--table", "a", "--table", "public.c", "--reload"})
	if status != 78 || !strings.Contains(said, "no longer exists") ||
		!strings.Contains(said, `pg_dump -s -t '"public"."a"'`) || strings.Contains(said, "--data-only") {
		t.Errorf("exit status %d\n%s", status, said)
	}
	target.Exec("ALTER TABLE elsewhere RENAME TO a")
	load(t, e, "--slot", slot, "--table", "a", "--table", "public.c", "--reload")
	source.Exec("UPDATE a SET v = v || '!'", "INSERT INTO c (v) VALUES ('after')", "INSERT INTO b VALUES (2)")
	e.Bash(`pgdecode --slot "$1" --until now | pgapply >/dev/null`, slot)
	pgtest.Equal(t, source, target)
	if n := target.Query("SELECT count(*) FROM pg_indexes WHERE tablename = 'c'"); n != "2" {
		t.Errorf("table c has %s indexes", n)
	}
	cutover(t, e, slot)
	unpublish(source, slot)
	equalSchema(t, source, target)
}

// A load whose snapshot is older than what sync has applied would lose changes.
func TestStaleSnapshot(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE a (id int PRIMARY KEY)", "INSERT INTO a VALUES (1)")
	e := pgtest.NewEnv(t, source, target)
	slot := source.Name
	load(t, e, "--slot", slot)
	source.Exec("CREATE TABLE b (id int PRIMARY KEY)", "INSERT INTO b VALUES (1)")
	stale := e.Must(nil, "pgextract", "--slot", slot, "--table", "b")
	source.Exec("INSERT INTO a VALUES (2)", "INSERT INTO b VALUES (2)")
	// The table is not there yet, so that sync stops at its first change; what comes before that is
	// applied.
	e.Run(e.Must(nil, "pgdecode", "--slot", slot, "--until", "now"), "pgapply")
	status, _, said := e.Run(stale, "pgapply")
	if status != 78 || !strings.Contains(said, "have been applied already") {
		t.Errorf("exit status %d\n%s", status, said)
	}
	load(t, e, "--slot", slot, "--table", "b", "--resume")
	e.Bash(`pgdecode --slot "$1" --until now | pgapply >/dev/null`, slot)
	pgtest.Equal(t, source, target)
}

// A load and sync of one slot exclude each other; several loads of one snapshot do not.
func TestExclusion(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE a (id int PRIMARY KEY)", "INSERT INTO a SELECT generate_series(1, 1000)")
	e := pgtest.NewEnv(t, source, target)
	slot := source.Name
	file := e.Must(nil, "pgextract", "--slot", slot)
	e.Must(file, "pgapply")
	sync := e.Start(nil, nil, "bash", "-c", `pgdecode --slot "$1" | pgapply >/dev/null`, "sync", slot)
	pgtest.Wait(t, timeout, "sync has begun", func() bool {
		return target.Query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())") != "0"
	})
	status, _, said := e.Run(file, "pgapply")
	if status != 75 || !strings.Contains(said, "exclude each other") {
		t.Errorf("a load during sync: exit status %d\n%s", status, said)
	}
	sync.Kill()
	one, two := e.Start(bytes.NewReader(file), nil, "pgapply"), e.Start(bytes.NewReader(file), nil, "pgapply")
	if a, b := one.Wait(timeout), two.Wait(timeout); a != 0 || b != 0 {
		t.Errorf("two loads: %d %d\n%s%s", a, b, one.Errors(), two.Errors())
	}
	pgtest.Equal(t, source, target)
}

// Without a slot, nothing is added to what an interrupted load has left: a transfer between two
// tables in the meantime would be in one of them only.
func TestResumeWithoutSlot(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE a (id int PRIMARY KEY, money int)", `CREATE TABLE "B" (id int PRIMARY KEY, money int)`,
		"INSERT INTO a VALUES (1, 100)", `INSERT INTO "B" VALUES (1, 0)`)
	e := pgtest.NewEnv(t, source, target)
	load(t, e, "--table", "a")
	source.Exec("UPDATE a SET money = 0", `UPDATE "B" SET money = 100`)
	said, _, status, _ := pipe(e, nil, []string{"--resume"})
	const only = `pgextract --table '"public"."B"' | pgapply`
	if status != 78 || !strings.Contains(said, "than what the target has already: public.a") || !strings.Contains(said, only) {
		t.Errorf("exit status %d\n%s", status, said)
	}
	if n := target.Query(`SELECT count(*) FROM pg_class WHERE relname = 'B'`); n != "0" {
		t.Error("the target was changed")
	}
	e.Bash(only)
	load(t, e, "--resume") // nothing is missing
	if got := target.Query(`SELECT a.money, b.money FROM a, "B" b`); got != "100\t100" {
		t.Error(got)
	}
}
