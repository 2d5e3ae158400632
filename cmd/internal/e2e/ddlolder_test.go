package e2e

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/format"
)

// recordedPair returns two databases and a slot's name. The source records changes of its schema.
func recordedPair(t *testing.T, schema string) (f *following, syncs func()) {
	t.Helper()
	if pgtest.Source(t).Major < 14 {
		t.Skip("statements are recorded from 14 on")
	}
	source, target := pgtest.Pair(t)
	f = &following{pgtest.NewEnv(t, source, target), source, target, source.Name}
	source.Exec(schema)
	f.Must(nil, "pgcutover", "ddl", "install")
	return f, func() {
		t.Helper()
		f.Bash("pgdecode --slot " + f.slot + " --until now | pgapply")
	}
}

// upToFirstTable returns a load up to where its first table is complete.
func upToFirstTable(t *testing.T, load []byte) []byte {
	t.Helper()
	r := format.NewReader(bytes.NewReader(load))
	var out bytes.Buffer
	w := format.NewWriter(&out)
	for {
		rec, err := r.Next()
		if err == nil {
			err = w.Write(rec)
		}
		if err == nil && rec.Kind() == format.KindCopyEnd {
			err = w.Flush()
			if err == nil {
				return out.Bytes()
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A table that a load has read later than others includes the statements before that: they are not
// repeated.
func TestDDLOlderThanRows(t *testing.T) {
	t.Parallel()
	f, syncs := recordedPair(t, `CREATE TABLE a (id int PRIMARY KEY, b text); INSERT INTO a SELECT g, repeat('x', 900) FROM generate_series(1, 500) g;
		CREATE TABLE again (id int PRIMARY KEY, v int); INSERT INTO again VALUES (1, 1);
		CREATE TABLE twice (id int PRIMARY KEY, v int); INSERT INTO twice VALUES (1, 1);
		CREATE TABLE filled (id int PRIMARY KEY, v int); INSERT INTO filled VALUES (1, 1), (2, 2);
		CREATE TABLE old_name (id int PRIMARY KEY); INSERT INTO old_name VALUES (1)`)
	load := f.Must(nil, "pgextract", "--slot", f.slot, "--jobs", "1")
	if status, _, errs := f.Run(upToFirstTable(t, load), "pgapply"); status != 65 {
		t.Fatalf("the load that was cut: status %d\n%s", status, errs)
	}
	if got := f.target.Query("SELECT string_agg(table_name, ' ') FROM pgsluice.tables WHERE status IN ('copied', 'loaded')"); got != "a" {
		t.Fatalf("loaded before the load was cut: %s", got)
	}
	f.source.Exec("INSERT INTO again VALUES (9, 9); UPDATE twice SET v = 100",
		"DROP TABLE again", "CREATE TABLE again (id int PRIMARY KEY, v int)", "INSERT INTO again SELECT g, 10 FROM generate_series(1, 5) g",
		"ALTER TABLE twice ALTER v TYPE int USING v * 100",
		"ALTER TABLE filled DROP COLUMN v; ALTER TABLE filled ADD COLUMN v int; UPDATE filled SET v = id * 10",
		"CREATE TYPE mood AS ENUM ('well')", "CREATE TABLE made (id int PRIMARY KEY, m mood)", "INSERT INTO made VALUES (1, 'well')",
		"CREATE INDEX a_b ON a (left(b, 5))", "CREATE VIEW seen AS SELECT id FROM made", "ALTER TABLE old_name RENAME TO new_name",
		"ALTER TABLE a ADD c int DEFAULT 7", "INSERT INTO a VALUES (0, 'new', 8)")
	f.Bash("pgextract --slot " + f.slot + " --resume | pgapply")
	f.source.Exec("INSERT INTO again VALUES (6, 10)", "INSERT INTO made VALUES (7, 'well')", "INSERT INTO twice VALUES (2, 2)", "UPDATE filled SET v = 5 WHERE id = 1",
		"INSERT INTO new_name VALUES (2)")
	syncs()
	f.target.Exec("DROP TABLE old_name") // as the load has said
	pgtest.Equal(t, f.source, f.target)

	// The same when a table is loaded again.
	f.source.Exec("ALTER TABLE filled DROP COLUMN v; ALTER TABLE filled ADD COLUMN v int; UPDATE filled SET v = id * 10", "INSERT INTO made VALUES (8)")
	f.Bash("pgextract --slot " + f.slot + " --table filled --reload | pgapply")
	syncs()
	pgtest.Equal(t, f.source, f.target)
	f.source.Exec("DROP TABLE filled; CREATE TABLE filled (id int PRIMARY KEY, v int); INSERT INTO filled VALUES (3, 3)")
	syncs()
	if s := f.target.Query("SELECT snapshot, snapshot_lsn FROM pgsluice.tables WHERE table_name = 'filled'"); s != "recorded\tNULL" {
		t.Errorf("a table that a statement has created: %s", s)
	}
	pgtest.Equal(t, f.source, f.target)
}

// A table is not loaded again into columns that the source does not have as of then: its statements
// would not be repeated.
func TestReloadBeforeDDL(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	f, syncs := recordedPair(t, "CREATE TABLE t (id int PRIMARY KEY, n numeric(10, 2), old int); INSERT INTO t VALUES (1, 1.25, 1)")
	f.Bash("pgextract --slot " + f.slot + " | pgapply")
	for _, c := range [][2]string{
		{"ALTER TABLE t ADD c int DEFAULT 5", `ADD COLUMN "c" integer`},
		{"ALTER TABLE t RENAME c TO d", `RENAME COLUMN "c" TO "d"`},
		{"ALTER TABLE t DROP COLUMN old", `DROP COLUMN "old"`},
		{"ALTER TABLE t ALTER n TYPE numeric(10, 4)", `ALTER COLUMN "n" TYPE`},
	} {
		f.source.Exec(c[0], "UPDATE t SET n = n + 0.001")
		status, _, errs := f.Run(nil, "bash", "-c", "pgextract --slot "+f.slot+" --table t --reload | pgapply; exit ${PIPESTATUS[1]}")
		if status != 78 || !strings.Contains(errs, c[1]) {
			t.Errorf("%s: the reload has status %d\n%s", c[0], status, errs)
		}
		if strings.HasPrefix(c[1], "DROP") { // by hand, instead of by sync
			f.target.Exec(c[0])
			f.Bash("pgextract --slot " + f.slot + " --table t --reload | pgapply")
		}
		syncs()
		pgtest.Equal(t, f.source, f.target)
	}
}

// Sync stops at a statement that only some of its tables include, or that may have changed any. The
// hint leads on.
func TestDDLOlderThanSomeRows(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	f, syncs := recordedPair(t, `CREATE TABLE p (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
		CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20); INSERT INTO p VALUES (1, 1), (11, 11); CREATE TYPE pair AS (a int, b int);
		CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); INSERT INTO a VALUES (1); INSERT INTO b VALUES (2)`)
	f.Bash("pgextract --slot " + f.slot + " | pgapply")
	stops := func(what string) string {
		t.Helper()
		status, _, errs := f.Run(nil, "bash", "-c", "pgdecode --slot "+f.slot+" --until now | pgapply; exit ${PIPESTATUS[1]}")
		if status != 78 || !strings.Contains(errs, what) {
			t.Fatalf("sync: status %d\n%s", status, errs)
		}
		return errs
	}
	skips := func(errs string) {
		t.Helper()
		f.Bash("pgdecode --slot " + f.slot + " --until now | " + regexp.MustCompile(`pgapply --skip-lsn [0-9A-F/]+`).FindString(errs))
	}
	f.source.Exec("ALTER TABLE p DROP COLUMN v, ADD COLUMN v int; UPDATE p SET v = id * 10")
	f.Bash("pgextract --slot " + f.slot + " --table p1 --reload | pgapply")
	f.Bash(reloading.FindString(stops("ALTER TABLE p DROP COLUMN v, ADD COLUMN v int;")))
	syncs()
	pgtest.Equal(t, f.source, f.target)

	// Names that change places, in one transaction.
	f.source.Exec("BEGIN; ALTER TABLE a RENAME TO x; ALTER TABLE b RENAME TO a; ALTER TABLE x RENAME TO b; COMMIT", "INSERT INTO a VALUES (3)")
	f.Bash("pgextract --slot " + f.slot + " --table b --reload | pgapply")
	f.Bash(reloading.FindString(stops("ALTER TABLE b RENAME TO a;")))
	skips(stops("ALTER TABLE a RENAME TO x;"))
	pgtest.Equal(t, f.source, f.target)

	f.source.Exec("ALTER TYPE pair RENAME ATTRIBUTE a TO c")
	f.Bash("pgextract --slot " + f.slot + " --table a --reload | pgapply")
	errs := stops("ALTER TYPE pair RENAME ATTRIBUTE a TO c;")
	f.target.Exec("ALTER TYPE pair RENAME ATTRIBUTE a TO c")
	skips(errs)
	pgtest.Equal(t, f.source, f.target)
}

// A table is dropped and created again before a running load has read it.
func TestDDLDuringLoad(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	server, other := pgtest.Start(t, 0), pgtest.Start(t, 0)
	if server.Major < 14 {
		t.Skip("statements are recorded from 14 on")
	}
	source, target := server.Database(t, ""), other.Database(t, "")
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("CREATE ROLE app_owner", "ALTER DATABASE "+d.Name+" OWNER TO app_owner", "GRANT ALL ON SCHEMA public TO app_owner")
	}
	source.Exec(`SET ROLE app_owner; CREATE TABLE a (id int PRIMARY KEY, b text); INSERT INTO a SELECT g, repeat('x', 1000) FROM generate_series(1, 4000) g;
		CREATE TABLE y (id int PRIMARY KEY, v int); INSERT INTO y VALUES (1, 1); CREATE TABLE z (id int PRIMARY KEY, v int); INSERT INTO z VALUES (1, 1)`)
	e := pgtest.NewEnv(t, source, target)
	e.Must(nil, "pgcutover", "ddl", "install")
	e.LeastPrivilege(source, target, "mover")
	r, w := io.Pipe()
	x := e.Start(nil, w, "pgextract", "--slot", "mig", "--jobs", "1", "--rate", "2MB/s")
	a := e.Start(r, nil, "pgapply")
	pgtest.Wait(t, soon, "the first table is being read", func() bool {
		n, err := target.Try("SELECT count(*) FROM pgsluice.tables WHERE table_name = 'a' AND status = 'loading'")
		return err == nil && n == "1"
	})
	source.Exec("SET ROLE app_owner; DROP TABLE y; CREATE TABLE y (id int PRIMARY KEY, v int CONSTRAINT positive CHECK (v > 0)); INSERT INTO y SELECT g, 10 FROM generate_series(1, 5) g",
		"SET ROLE app_owner; ALTER TABLE z ALTER v TYPE int USING v * 100; ALTER TABLE z ADD c int DEFAULT 5", "SET ROLE app_owner; CREATE TABLE n (id int PRIMARY KEY); INSERT INTO n VALUES (1)")
	status := x.Wait(soon)
	_ = w.Close()
	if n := a.Wait(soon); status != 0 || n != 78 || !strings.Contains(a.Errors(), `ALTER TABLE "public"."z" ADD COLUMN "c" integer`) {
		t.Fatalf("statuses %d and %d\n%s%s", status, n, x.Errors(), a.Errors())
	}
	if !strings.Contains(x.Errors(), "reading a new snapshot") {
		t.Errorf("all was read from one snapshot:\n%s", x.Errors())
	}
	target.Exec("ALTER TABLE z ADD COLUMN c integer DEFAULT 5")
	e.Bash("pgextract --slot mig --resume | pgapply")
	source.Exec("INSERT INTO y VALUES (6, 10); INSERT INTO n VALUES (7)")
	e.Bash("pgdecode --slot mig --until now | pgapply")
	pgtest.Equal(t, source, target)
	// What a table's new definition has besides, the cutover asks for.
	if _, out, errs := e.Run(nil, "pgcutover", "missing", "--slot", "mig"); !strings.Contains(string(out), "positive") {
		t.Errorf("the check constraint is not missed:\n%s%s", out, errs)
	}
}
