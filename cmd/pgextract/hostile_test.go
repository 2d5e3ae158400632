package main_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Indexes of one table are built side by side. Statements that follow some of them lock the table
// against all of that: in the transactions that build the indexes, each would wait for the other.
func TestIndexesThatChangeTheirTable(t *testing.T) {
	pgtest.Slow(t)
	for _, byHand := range []bool{false, true} {
		source, target := pgtest.Pair(t)
		source.Exec(`CREATE TABLE t (a int NOT NULL, b int NOT NULL, c text)`,
			`INSERT INTO t SELECT i, i, md5(i::text) FROM generate_series(1, 200000) i`,
			`CREATE UNIQUE INDEX identity ON t (a)`, `CREATE UNIQUE INDEX clustered ON t (b)`, `CREATE INDEX third ON t (c, (c || ';'))`,
			`ALTER TABLE t REPLICA IDENTITY USING INDEX identity`, `ALTER TABLE t CLUSTER ON clustered`,
			`ALTER INDEX third ALTER COLUMN 2 SET STATISTICS 7`)
		e := pgtest.NewEnv(t, source, target)
		apply, extract := []string{"--jobs", "3"}, []string{"--slot", source.Name}
		if byHand {
			e.Bash(`pg_dump -s -d "$1" | psql -qX -v ON_ERROR_STOP=1 -d "$2" >/dev/null`, source.URI, target.URI)
			apply, extract = append(apply, "--rebuild-indexes"), append(extract, "--data-only")
		}
		loadInto(t, e, apply, extract...)
		pgtest.Equal(t, source, target)
		if n := target.Query("SELECT count(*) FROM pgsluice.deferred WHERE type = 'INDEX' AND state = 'done' AND attach_sql <> ''"); n != "3" {
			t.Errorf("%s indexes were completed after all of the table's were built", n)
		}
		unpublish(source, source.Name)
		equalSchema(t, source, target)
	}
}

// A server that crashes empties its unlogged tables. A resumed load must not take their word for it
// that they are loaded.
func TestUnloggedTableAfterCrash(t *testing.T) {
	server := pgtest.Start(t, 0)
	source, target := pgtest.Source(t).Database(t, ""), server.Database(t, "")
	source.Exec("CREATE UNLOGGED TABLE u (id int PRIMARY KEY)",
		"INSERT INTO u SELECT generate_series(1, 1000)", "CREATE UNLOGGED TABLE none (id int)",
		"CREATE TABLE l (id int PRIMARY KEY)", "INSERT INTO l SELECT generate_series(1, 1000)")
	e := pgtest.NewEnv(t, source, target)
	load(t, e, "--slot", source.Name)
	server.Kill()
	server.Restart(t)
	if n := target.Query("SELECT count(*) FROM u"); n != "0" {
		t.Fatalf("the crash has left %s rows", n)
	}
	said := load(t, e, "--slot", source.Name, "--resume")
	if !strings.Contains(said, "unlogged table public.u has lost its rows") || !strings.Contains(said, "loaded 1,000 rows") {
		t.Error(said)
	}
	pgtest.Equal(t, source, target)
	if n := target.Query("SELECT count(*) FROM pgsluice.tables WHERE status = 'loaded' AND (rows = 1000 OR table_name = 'none')"); n != "3" {
		t.Errorf("%s tables are loaded", n)
	}
}

// Statistics that cannot be gathered, on the source neither, are no reason to give up a load or a
// cutover; a view that cannot be refreshed is one, when all else is done.
func TestAnalyzeFails(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE t (a int PRIMARY KEY, b int)", "INSERT INTO t VALUES (0, 0)",
		"CREATE EXTENSION postgres_fdw", "CREATE SERVER away FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'nowhere.invalid')",
		"CREATE USER MAPPING FOR PUBLIC SERVER away", "CREATE TABLE p (a int) PARTITION BY LIST (a)",
		"CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)",
		"CREATE FOREIGN TABLE p2 PARTITION OF p FOR VALUES IN (2) SERVER away", "INSERT INTO p VALUES (1)",
		"CREATE TABLE d (a int PRIMARY KEY)", "INSERT INTO d VALUES (1)", "CREATE MATERIALIZED VIEW inverted AS SELECT 1 / a AS i FROM d",
		// Such a view had its rows when the server was within reach.
		"CREATE FOREIGN TABLE f (a int) SERVER away",
		"CREATE FUNCTION rows_of_f() RETURNS SETOF f LANGUAGE plpgsql AS $$ BEGIN IF to_regclass('pgsluice.streams') IS NOT NULL THEN RETURN QUERY SELECT * FROM public.f; END IF; END $$",
		"CREATE MATERIALIZED VIEW of_f AS SELECT * FROM rows_of_f()")
	expressions := source.Major >= 14 // statistics may be kept of them
	if expressions {
		source.Exec("CREATE STATISTICS inverse ON (1 / a), b FROM t")
	}
	e := pgtest.NewEnv(t, source, target)
	if said := load(t, e, "--slot", source.Name); expressions &&
		!strings.Contains(said, "could not analyze table public.t: ERROR: division by zero") ||
		!strings.Contains(said, `MATERIALIZED VIEW DATA public.of_f: ERROR: could not connect to server "away"`) {
		t.Error(said)
	}
	for _, table := range []string{"t", "d", "p1", "inverted"} {
		pgtest.EqualTable(t, source, target, table)
	}
	source.Exec("UPDATE d SET a = 0")
	cut := func() (int, string) {
		status, _, errs := e.Run(nil, "bash", "-c", `set -euo pipefail
			allow=$({ pgcutover missing --slot "$1" --json || true; } | jq -r '.[] | select(.name == "public.of_f") | "--allow-missing " + .id')
			pgcutover fence --slot "$1" $allow; pgdecode --slot "$1" --until now | pgapply >/dev/null
			{ pgdecode --slot "$1" | pgapply >/dev/null || true; } & pgcutover drain --slot "$1"; pgcutover finish --slot "$1"`, "cut", source.Name)
		return status, errs
	}
	if status, errs := cut(); status != 1 ||
		!strings.Contains(errs, "1 materialized views could not be refreshed: public.inverted: ERROR: division by zero") {
		t.Errorf("status %d: %s", status, errs)
	}
	target.Exec("DROP MATERIALIZED VIEW inverted")
	e.Must(nil, "pgcutover", "finish", "--slot", source.Name)
	e.Must(nil, "pgcutover", "unfence", "--force", "--slot", source.Name)
	if n := target.Query("SELECT reltuples FROM pg_class WHERE relname = 'p1'"); n != "1" {
		t.Errorf("p1 was not analyzed: reltuples is %s", n)
	}
}

// Sequences take no part in snapshots: what was made, dropped or renamed since then must not end a
// load when all rows are there.
func TestSequencesOfTheSnapshot(t *testing.T) {
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE t (id serial PRIMARY KEY)", "INSERT INTO t SELECT FROM generate_series(1, 10)",
		"CREATE SEQUENCE gone", "CREATE SEQUENCE old", "SELECT nextval('old')")
	e := pgtest.NewEnv(t, source, target)
	_, token := hold(t, e, "--slot", source.Name)
	source.Exec("CREATE TABLE later (id serial PRIMARY KEY)", "CREATE SEQUENCE lone", "DROP SEQUENCE gone",
		"ALTER SEQUENCE old RENAME TO new", "SELECT nextval('new')")
	load(t, e, "--slot", source.Name, "--snapshot", token)
	pgtest.EqualTable(t, source, target, "t")
	if got := target.Query("SELECT string_agg(sequencename || ' ' || coalesce(last_value, 0), ', ' ORDER BY 1) FROM pg_sequences WHERE schemaname = 'public'"); got != "gone 0, old 2, t_id_seq 10" {
		t.Errorf("got %s", got)
	}
}

// The source's schema changes while a load is interrupted. What the target has is kept; where that
// does not fit, the hint is what helps.
func TestSchemaChangesBetweenRuns(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE changed (id int PRIMARY KEY)",
		"INSERT INTO changed SELECT generate_series(1, 100000)", "CREATE TABLE dropped (id int PRIMARY KEY)",
		"INSERT INTO dropped VALUES (1)",
		"SELECT lo_create(5)")
	e := pgtest.NewEnv(t, source, target)
	// Half of it, which is in the middle of the largest table.
	e.Bash(`pgextract --slot "$1" --jobs 1 >"$2/load"; head -c $(($(stat -c %s "$2/load") / 2)) "$2/load" | pgapply || (($? == 65))`,
		source.Name, t.TempDir())
	target.Exec(`INSERT INTO pgsluice.tables (stream_id, schema_name, table_name, source_schema, source_table, status)
		SELECT stream_id, 'pg_catalog', 'pg_largeobject', 'pg_catalog', 'pg_largeobject', 'queued' FROM pgsluice.streams ON CONFLICT DO NOTHING`)
	source.Exec("DROP TABLE dropped", "ALTER TABLE changed ADD more text DEFAULT 'm'",
		"CREATE TABLE new (id int PRIMARY KEY)", "INSERT INTO new VALUES (1)", "SELECT lo_unlink(5)")
	_, said, _, status := pipe(e, nil, []string{"--slot", source.Name, "--resume"})
	if status != 78 || !strings.Contains(said, "TABLE public.changed has changed on the source") ||
		!strings.Contains(said, `hint: On the target: ALTER TABLE "public"."changed" ADD COLUMN "more"`) {
		t.Fatalf("status %d: %s", status, said)
	}
	target.Exec(`ALTER TABLE "public"."changed" ADD COLUMN "more" text DEFAULT 'm'`)
	said += load(t, e, "--slot", source.Name, "--resume")
	if !strings.Contains(said, "table public.dropped of an earlier run is no longer on the source") {
		t.Error(said)
	}
	target.Exec("DROP TABLE dropped")
	pgtest.Equal(t, source, target)
	if n := target.Query("SELECT load_status FROM pgsluice.streams"); n != "loaded" {
		t.Errorf("the load is %s", n)
	}
	unpublish(source, source.Name)
	equalSchema(t, source, target)
}

// Limits that are set for the role or the database are no limits of a load; a read-only target is
// so for others.
func TestSettingsOfTheDatabase(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE t (id int PRIMARY KEY, v text)",
		"INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 50000) i",
		"CREATE INDEX ON t (v, id)",
		"CREATE TABLE other (id int REFERENCES t)", "INSERT INTO other SELECT generate_series(1, 1000)",
		"CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM t")
	for _, d := range []*pgtest.DB{source, target} {
		sets := []string{"statement_timeout = '20ms'", "lock_timeout = '5ms'",
			"idle_in_transaction_session_timeout = '50ms'", "search_path = nothing",
			"row_security = on", "default_transaction_isolation = 'serializable'", "bytea_output = 'escape'",
			"DateStyle = 'German'", "standard_conforming_strings = off",
			"default_transaction_read_only = on"}
		if d.Major >= 14 {
			sets = append([]string{"idle_session_timeout = '1s'"}, sets...)
		}
		for _, set := range sets {
			d.Exec("ALTER DATABASE " + d.Name + " SET " + set)
		}
	}
	e := pgtest.NewEnv(t, source, target)
	_, _, status, _ := pipe(e, nil, []string{"--slot", source.Name})
	if status != 78 {
		t.Errorf("a read-only source: status %d", status)
	}
	if status, _, errs := e.Run(nil, "pgextract", "--slot", source.Name); status != 78 ||
		!strings.Contains(errs, "hint: The source is a standby, or default_transaction_read_only") {
		t.Errorf("status %d: %s", status, errs)
	}
	for _, d := range []*pgtest.DB{source, target} {
		t.Cleanup(func() { d.Exec("BEGIN READ WRITE; ALTER DATABASE " + d.Name + " RESET ALL; COMMIT") })
	}
	source.Exec("BEGIN READ WRITE; ALTER DATABASE " + source.Name + " RESET default_transaction_read_only; COMMIT")
	load(t, e, "--slot", source.Name)
	target.Exec("BEGIN READ WRITE; ALTER DATABASE " + target.Name + " RESET ALL; COMMIT")
	source.Exec("ALTER DATABASE " + source.Name + " RESET ALL")
	pgtest.Equal(t, source, target)
}

// A tablespace that the target does not have is left out.
func TestTablespaces(t *testing.T) {
	source, target := pgtest.Pair(t)
	space := `"Space ""of"" ` + source.Name + `"`
	dir := fmt.Sprintf("%s/pgsluice-space-%d-%s", os.TempDir(), os.Getpid(), source.Name)
	// It must be the server's own. A command that ends before it was sent the row makes COPY fail.
	source.Exec("COPY (SELECT) TO PROGRAM 'cat >/dev/null; mkdir -m 700 " + dir + "'")
	source.Exec("CREATE TABLESPACE "+space+" LOCATION '"+dir+"'",
		"CREATE TABLE t (id int PRIMARY KEY USING INDEX TABLESPACE "+space+", v text) TABLESPACE "+space,
		"INSERT INTO t SELECT i, i FROM generate_series(1, 100) i",
		"CREATE INDEX byv ON t (v) TABLESPACE "+space,
		"CREATE MATERIALIZED VIEW m TABLESPACE "+space+" AS SELECT * FROM t")
	t.Cleanup(func() {
		source.Exec("DROP TABLE t CASCADE")
		source.Exec("DROP TABLESPACE "+space, "COPY (SELECT) TO PROGRAM 'cat >/dev/null; rmdir "+dir+"'")
	})
	e := pgtest.NewEnv(t, source, target)
	said := load(t, e, "--slot", source.Name)
	if strings.Count(said, "the target has no tablespace") != 1 {
		t.Error(said)
	}
	pgtest.Equal(t, source, target)
	unpublish(source, source.Name)
	equalSchema(t, source, target, "--no-tablespaces")
}

// A check that looks at another table, at its own, or at the time, may not hold before all rows are
// there; it waits for that, also one of a domain. One that does not hold then, holds for what is
// written from now on, and is named.
func TestChecksWait_C22(t *testing.T) {
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE small (id int PRIMARY KEY)", "INSERT INTO small VALUES (1)",
		"CREATE TABLE large (a int, b text)", "ALTER TABLE large REPLICA IDENTITY FULL",
		"CREATE FUNCTION known(i int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM public.small WHERE id = i)'",
		"INSERT INTO large SELECT 1, repeat('x', 100) FROM generate_series(1, 20000)",
		`ALTER TABLE large ADD CONSTRAINT "is known" CHECK (known(a))`,
		`COMMENT ON CONSTRAINT "is known" ON large IS 'in small'`,
		"CREATE FUNCTION above(i int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN i IS NULL OR EXISTS (SELECT FROM public.tree WHERE id = i); END'",
		"CREATE TABLE tree (id int PRIMARY KEY, parent int)", "INSERT INTO tree VALUES (1, 2), (2, NULL)",
		"ALTER TABLE tree ADD CONSTRAINT above CHECK (above(parent))",
		"CREATE DOMAIN \"a d\" AS int CONSTRAINT known CHECK (known(VALUE))",
		"CREATE TABLE first (d \"a d\" PRIMARY KEY)", "INSERT INTO first VALUES (1)",
		"COMMENT ON CONSTRAINT known ON DOMAIN \"a d\" IS 'too'",
		"CREATE TABLE parent (d timestamptz CHECK (d < clock_timestamp()))",
		"CREATE TABLE child (CHECK (d < clock_timestamp() + '1 day')) INHERITS (parent)",
		"INSERT INTO child VALUES (now())", "INSERT INTO parent VALUES (now())",
		"CREATE TABLE gate (open bool PRIMARY KEY)", "INSERT INTO gate VALUES (true)",
		"CREATE FUNCTION gated() RETURNS bool LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM public.gate)'",
		"CREATE TABLE behind (id int PRIMARY KEY, CONSTRAINT gated CHECK (gated()))", "INSERT INTO behind VALUES (1)", "DELETE FROM gate")
	e := pgtest.NewEnv(t, source, target)
	_, said, _, status := pipe(e, []string{"--jobs", "1"}, []string{"--slot", source.Name, "--jobs", "1"})
	if status != 1 || !strings.Contains(said, "gated") {
		t.Errorf("status %d: %s", status, said)
	}
	pgtest.Equal(t, source, target)
	if n := target.Query("SELECT count(*) FROM pgsluice.deferred WHERE state = 'failed'"); n != "1" {
		t.Errorf("%s objects failed", n)
	}
	if _, err := target.Try("INSERT INTO behind VALUES (2)"); err == nil {
		t.Error("the check does not hold for new rows")
	}
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("INSERT INTO gate VALUES (true)")
	}
	load(t, e, "--slot", source.Name, "--resume")
	unpublish(source, source.Name)
	equalSchema(t, source, target)
}

// One table that cannot be loaded does not keep the others from it, and the next run gets on: rows
// that the source has, however it came to them, arrive.
func TestOneTableRefused_C22(t *testing.T) {
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE bad (id int PRIMARY KEY, v int)",
		"INSERT INTO bad SELECT i, -i FROM generate_series(1, 5000) i",
		"ALTER TABLE bad ADD CONSTRAINT \"po sitive\" CHECK (v > 0) NOT VALID",
		"CREATE DOMAIN pos AS int", "CREATE TABLE worse (id int PRIMARY KEY, v pos)",
		"INSERT INTO worse VALUES (1, -1)",
		"ALTER DOMAIN pos ADD CONSTRAINT positive CHECK (VALUE > 0) NOT VALID",
		"UPDATE pg_constraint SET convalidated = true WHERE conname IN ('po sitive', 'positive')")
	for i := range 10 {
		source.Exec(fmt.Sprintf("CREATE TABLE good%[1]d (id int PRIMARY KEY); INSERT INTO good%[1]d SELECT generate_series(1, 100)", i))
	}
	e := pgtest.NewEnv(t, source, target)
	_, said, _, status := pipe(e, []string{"--jobs", "2"}, []string{"--slot", source.Name, "--jobs", "2"})
	if status != 1 || !strings.Contains(said, `ALTER TABLE "public"."bad" DROP CONSTRAINT "po sitive"`) ||
		!strings.Contains(said, `ALTER DOMAIN "public"."pos" DROP CONSTRAINT "positive"`) {
		t.Errorf("status %d: %s", status, said)
	}
	for i := range 10 {
		pgtest.EqualTable(t, source, target, fmt.Sprintf("good%d", i))
	}
	if n := target.Query("SELECT string_agg(table_name, ' ' ORDER BY table_name) FROM pgsluice.tables WHERE status <> 'loaded' AND error <> ''"); n != "bad worse" {
		t.Errorf("not loaded: %s", n)
	}
	if status, _, _ := e.Run(nil, "pgdecode", "--slot", source.Name, "--until", "now", "--output", t.TempDir()+"/x"); status != 0 {
		t.Errorf("pgdecode: %d", status)
	}
	_, said, _, status = pipe(e, nil, []string{"--slot", source.Name, "--resume"})
	if status != 1 {
		t.Errorf("status %d: %s", status, said)
	}
	pgtest.Equal(t, source, target)
	if n := target.Query("SELECT load_status || (SELECT count(*) FROM pgsluice.deferred WHERE state = 'failed') FROM pgsluice.streams"); n != "loaded2" {
		t.Errorf("%s: %s", n, said)
	}
	for _, sql := range []string{"INSERT INTO bad VALUES (0, 0)", "INSERT INTO worse VALUES (0, 0)"} {
		if _, err := target.Try(sql); err == nil {
			t.Errorf("%s: the check is gone", sql)
		}
	}
}
