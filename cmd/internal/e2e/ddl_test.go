package e2e

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/format"
)

// summary returns what a stream of changes has: each change by its table and first column, each
// statement with its search path, and "commit" after those of a transaction that has any.
func summary(t *testing.T, stream []byte) (list []string) {
	t.Helper()
	r := format.NewReader(bytes.NewReader(stream))
	names := make(map[uint32]string)
	for changed := false; ; {
		rec, err := r.Next()
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		add := func(s string) { list, changed = append(list, s), true }
		switch x := rec.(type) {
		case *format.Relation:
			names[x.ID] = x.Name
		case *format.Insert:
			add(fmt.Sprintf("%s %s", names[x.Relation], x.New[0].Data))
		case *format.Update:
			add(fmt.Sprintf("update %s", names[x.Relation]))
		case *format.DDL:
			add(x.SQL)
		case *format.Commit, *format.StreamCommit:
			if changed {
				list, changed = append(list, "commit"), false
			}
		}
	}
}

// Statements that change the schema stand in the stream once, at their place in their transaction,
// alone; what a target has nothing of is left out.
func TestDDL(t *testing.T) {
	t.Parallel()
	source := pgtest.Source(t).Database(t, "")
	source.Exec("CREATE TABLE t (a int PRIMARY KEY)", "CREATE SCHEMA s", `CREATE SCHEMA "Odd, one"`)
	env := &pgtest.Env{T: t, Dir: pgtest.Programs(t, false), Source: source.URI}
	env.Must(nil, "pgextract", "--slot", source.Name, "--data-only")
	if status, _, _ := env.Run(nil, "pgcutover", "ddl", "check"); status != 78 {
		t.Errorf("check has status %d before install", status)
	}
	if source.Major < 14 {
		if status, _, errs := env.Run(nil, "pgcutover", "ddl", "install"); status != 78 || !strings.Contains(errs, "version 14") {
			t.Errorf("install: status %d, %s", status, errs)
		}
		return
	}
	env.Must(nil, "pgcutover", "ddl", "install")
	env.Must(nil, "pgcutover", "ddl", "install") // it may be repeated
	if out := env.Must(nil, "pgcutover", "ddl", "check"); !strings.HasPrefix(string(out), "ok\t") {
		t.Errorf("check: %s", out)
	}
	var want []string
	do := func(sql string, records ...string) {
		t.Helper()
		source.Exec(sql)
		if want = append(want, records...); len(records) > 0 {
			want = append(want, "commit")
		}
	}
	do("BEGIN; INSERT INTO t VALUES (1); ALTER TABLE t ADD b int DEFAULT 7; INSERT INTO t VALUES (2, 2); COMMIT",
		"t 1", "ALTER TABLE t ADD b int DEFAULT 7;", "t 2")
	do("BEGIN; ALTER TABLE t ADD never int; ROLLBACK")
	do("INSERT INTO t VALUES (3); ALTER TABLE t ADD c int; INSERT INTO t VALUES (4); ALTER TABLE t DROP COLUMN b; INSERT INTO t VALUES (5)",
		"t 3", "ALTER TABLE t ADD c int;", "t 4", "ALTER TABLE t DROP COLUMN b;", "t 5")
	// A new table is published at once, also one that gets its key later.
	do("CREATE TABLE u (a int PRIMARY KEY, b text); INSERT INTO u VALUES (1)", "CREATE TABLE u (a int PRIMARY KEY, b text);", "u 1")
	do("CREATE TABLE v (a int); INSERT INTO v VALUES (1)", "CREATE TABLE v (a int);", "v 1")
	do("ALTER TABLE v ADD PRIMARY KEY (a); UPDATE v SET a = 2", "ALTER TABLE v ADD PRIMARY KEY (a);", "update v")
	do("CREATE TABLE p (a int PRIMARY KEY) PARTITION BY RANGE (a); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); INSERT INTO p VALUES (1)",
		"CREATE TABLE p (a int PRIMARY KEY) PARTITION BY RANGE (a);", "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);", "p1 1")
	// In functions.
	do("DO $$ BEGIN ALTER TABLE t ADD d int; INSERT INTO t VALUES (6); EXECUTE 'ALTER TABLE t DROP d; ALTER TABLE t ADD e text DEFAULT ''\"'''; END $$",
		"ALTER TABLE t ADD d int;", "t 6", "ALTER TABLE t DROP d;", `ALTER TABLE t ADD e text DEFAULT '"';`)
	do("ALTER TABLE t ADD f int; DO $$ BEGIN ALTER TABLE t ADD g int; END $$; ALTER TABLE t ADD h int",
		"ALTER TABLE t ADD f int;", "ALTER TABLE t ADD g int;", "ALTER TABLE t ADD h int;")
	do("CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1..2 LOOP CREATE TABLE w (); DROP TABLE w; END LOOP; END $$",
		"CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1..2 LOOP CREATE TABLE w (); DROP TABLE w; END LOOP; END $$;")
	do("SELECT f()", "CREATE TABLE w ();", "DROP TABLE w;", "CREATE TABLE w ();", "DROP TABLE w;")
	// Not on a target: temporary, ours, of one server.
	do("CREATE TEMP TABLE x (a int); CREATE INDEX ON x (a); ALTER TABLE x ADD b int; DROP TABLE x")
	do("CREATE TEMP TABLE t (a int); INSERT INTO public.t VALUES (7); CREATE INDEX i ON public.t (a); DROP TABLE t",
		"t 7", "CREATE INDEX i ON public.t (a);")
	do("CREATE TABLE pgsluice.x (a int); DROP TABLE pgsluice.x; CREATE PUBLICATION y; DROP PUBLICATION y; DROP TABLE IF EXISTS nothing")
	// Objects of all kinds, each dropped by one statement.
	do("CREATE EXTENSION hstore", "CREATE EXTENSION hstore;")
	do("DROP EXTENSION hstore CASCADE", "DROP EXTENSION hstore CASCADE;")
	do("CREATE VIEW vv AS SELECT a FROM t", "CREATE VIEW vv AS SELECT a FROM t;")
	do("CREATE INDEX CONCURRENTLY ii ON t (a)", "CREATE INDEX  ii ON t (a);")
	do("DROP TABLE v, u CASCADE; DROP INDEX IF EXISTS nothing", "DROP TABLE v, u CASCADE;")
	do("COMMENT ON TABLE t IS 'a;b'; GRANT SELECT ON t TO PUBLIC", "COMMENT ON TABLE t IS 'a;b';", "GRANT SELECT ON t TO PUBLIC;")

	got := summary(t, env.Must(nil, "pgdecode", "--slot", source.Name, "--until", "now"))
	for i := range max(len(got), len(want)) {
		var g, w string
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Fatalf("record %d is\n%s\nwant\n%s\nall:\n%s", i, g, w, strings.Join(got, "\n"))
		}
	}
	if s := source.Query("SELECT string_agg(pubname || ' ' || tablename, ', ' ORDER BY 1) FROM pg_publication_tables"); strings.Contains(s,
		"_insert_only v") {
		t.Errorf("published: %s", s)
	}

	// What a slot has not confirmed would be lost: afterwards nobody could tell who has written it.
	if status, _, errs := env.Run(nil, "pgcutover", "ddl", "uninstall"); status != 78 || !strings.Contains(errs, "hint: ") {
		t.Errorf("uninstall while the slot has not read all: status %d, %s", status, errs)
	}
	source.Exec("SELECT pg_drop_replication_slot('" + source.Name + "')")
	env.Must(nil, "pgcutover", "ddl", "uninstall")
	env.Must(nil, "pgcutover", "ddl", "uninstall")
	if n := source.Query("SELECT (SELECT count(*) FROM pg_event_trigger) + (SELECT count(*) FROM pg_namespace WHERE nspname = 'pgsluice')"); n != "0" {
		t.Errorf("%s objects are left after uninstall", n)
	}
	source.Exec("ALTER TABLE t DROP f")
}

// A statement is repeated with the search path and for the role that it ran with, whoever may have
// run it, and in blocks with its subtransaction.
func TestDDLContext(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	server := pgtest.Start(t, 0, "logical_decoding_work_mem=64kB")
	source := server.Database(t, "")
	source.Exec("CREATE TABLE t (a int PRIMARY KEY, b text)", `CREATE SCHEMA "Odd, one"`, "CREATE ROLE app",
		`GRANT CREATE, USAGE ON SCHEMA "Odd, one" TO app`)
	env := &pgtest.Env{T: t, Dir: pgtest.Programs(t, false), Source: source.URI}
	env.Must(nil, "pgextract", "--slot", source.Name, "--data-only")
	env.Must(nil, "pgcutover", "ddl", "install")
	source.Exec(`SET search_path = nowhere, "Odd, one", "$user", public; SET ROLE app; CREATE TABLE x (a int PRIMARY KEY); INSERT INTO x VALUES (1)`)
	c := source.Connect()
	for _, sql := range []string{"BEGIN",
		"INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 5000) i", "SAVEPOINT s",
		"ALTER TABLE t ADD c int", "ROLLBACK TO s",
		"ALTER TABLE t ADD d int", "INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(5001, 10000) i", "COMMIT"} {
		if _, err := c.Exec(pgtest.Context(t), sql); err != nil {
			t.Fatal(err)
		}
	}
	// A function that shows no statement is an error for whoever applies it, and not silence.
	source.Exec("CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'ALTER TABLE t ADD e int'", "SELECT f()")

	r := format.NewReader(bytes.NewReader(env.Must(nil, "pgdecode", "--slot", source.Name, "--until", "now")))
	var list []*format.DDL
	rows := 0
	for {
		rec, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch x := rec.(type) {
		case *format.DDL:
			list = append(list, x)
		case *format.Insert:
			rows++
		}
	}
	if len(list) < 3 || rows != 10001 {
		t.Fatalf("%d statements, %d rows", len(list), rows)
	}
	if d := list[0]; d.SQL != "CREATE TABLE x (a int PRIMARY KEY);" || d.SearchPath != `"Odd, one", public` ||
		d.Owner != "app" || d.XID != 0 {
		t.Errorf("%+v", d)
	}
	if d := list[len(list)-3]; d.SQL != "ALTER TABLE t ADD d int;" || d.Owner != "postgres" || d.XID == 0 {
		t.Errorf("%+v", d)
	}
	if d := list[len(list)-1]; !strings.HasPrefix(d.SQL, "DO ") || !strings.Contains(d.SQL, "RAISE EXCEPTION") {
		t.Errorf("%+v", d)
	}

	// Who may not is told so.
	source.Exec("CREATE ROLE owner LOGIN")
	env.Source = source.As("owner", "")
	if status, _, errs := env.Run(nil, "pgcutover", "ddl", "install"); status != 77 || !strings.Contains(errs, "hint: ") {
		t.Errorf("status %d: %s", status, errs)
	}
}
