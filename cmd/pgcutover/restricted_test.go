package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A pasted is a block of statements that check prints, and who is to execute it.
type pasted struct {
	side, as string
	sql      []string
}

// statements returns what check prints to be pasted.
func statements(out string) (list []pasted) {
	for _, line := range strings.Split(out, "\n") {
		if rest, ok := strings.CutPrefix(line, "\tOn the "); ok {
			side, as, _ := strings.Cut(strings.TrimSuffix(rest, ":"), ", as ")
			list = append(list, pasted{side: side, as: as})
		} else if sql, ok := strings.CutPrefix(line, "\t\t"); ok {
			list[len(list)-1].sql = append(list[len(list)-1].sql, sql)
		}
	}
	return list
}

// paste executes what check prints, as the roles that it names, and returns how much that was.
func paste(t *testing.T, source, target *pgtest.DB, out string) (n int) {
	t.Helper()
	for _, p := range statements(out) {
		d := source
		if p.side == "target" {
			d = target
		}
		as := &pgtest.DB{Server: d.Server, Name: d.Name, URI: d.URI}
		if p.as != "superuser" {
			as.URI = d.As(strings.Trim(p.as, `"`), "")
		}
		for _, sql := range p.sql {
			n++
			if _, err := as.Try(sql); err != nil {
				t.Errorf("on the %s, as %s: %v", p.side, p.as, err)
			}
		}
	}
	return n
}

// levels returns the lines of check that are not ok.
func levels(out string) (errs, warnings []string) {
	for _, line := range strings.Split(out, "\n") {
		if s, ok := strings.CutPrefix(line, "error\t"); ok {
			errs = append(errs, s)
		} else if s, ok := strings.CutPrefix(line, "warning\t"); ok {
			warnings = append(warnings, s)
		}
	}
	return errs, warnings
}

// check finds everything that a role without superuser lacks, at once, on every version; when what
// it prints has been executed by those whom it names, it finds nothing any more.
func TestCheckRestricted_H5_C6_C9(t *testing.T) {
	for _, versions := range [][2]int{{10, 10}, {15, 15}, {18, 18}, {15, 18}} {
		t.Run(fmt.Sprint(versions), func(t *testing.T) {
			if versions[0] == versions[1] && versions[0] > 10 {
				pgtest.Long(t) // 15 to 18 has the rules of both
			}
			t.Parallel()
			source, target := pgtest.Start(t, versions[0]).Database(t, ""), pgtest.Start(t, versions[1]).Database(t, "")
			source.Exec("CREATE ROLE mover LOGIN", "CREATE ROLE \"The app\" LOGIN", "CREATE ROLE other",
				"CREATE ROLE reader", "CREATE ROLE gone",
				"ALTER DATABASE "+source.Name+" OWNER TO \"The app\"",
				`SET ROLE "The app"; CREATE SCHEMA app; CREATE TABLE app."T 1" (id int PRIMARY KEY, v text); GRANT SELECT ON app."T 1" TO reader; CREATE TABLE app.forced (id int PRIMARY KEY);
				ALTER TABLE app.forced ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY p ON app.forced TO gone USING (false); CREATE TABLE app.forced2 (id int PRIMARY KEY);
				ALTER TABLE app.forced2 ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY`,
				"GRANT CREATE ON SCHEMA public TO other; SET ROLE other; CREATE TABLE public.theirs (id int PRIMARY KEY); CREATE SEQUENCE public.numbers; SELECT lo_create(4711); SELECT lo_create(4712)",
				"REVOKE CREATE ON SCHEMA public FROM other, PUBLIC",
				"REVOKE SELECT ON pg_catalog.pg_prepared_xacts FROM PUBLIC")
			target.Exec("CREATE ROLE mover LOGIN CREATEROLE", `CREATE ROLE "The app"`)
			e := pgtest.NewEnv(t, source, target)
			e.Source, e.Target = source.As("mover", ""), target.As("mover", "")
			check := func(status int) string {
				t.Helper()
				got, out, said := e.Run(nil, "pgcutover", "check", "--slot", "mig")
				if got != status && !(status == 0 && got == 1) { // 1: there are only warnings
					t.Errorf("status %d, not %d\n%s%s", got, status, out, said)
				}
				return string(out)
			}
			out := check(78)
			for _, want := range []string{"no REPLICATION", "app.forced, app.forced2", "4711, 4712",
				`public.numbers`, "The app", "other", "gone", "reader", "could not be examined",
				"may not create a publication"} {
				if !strings.Contains(out, want) {
					t.Errorf("check does not find %q:\n%s", want, out)
				}
			}
			if n := paste(t, source, target, out); n < 10 {
				t.Errorf("%d statements\n%s", n, out)
			}
			// What could not be examined before may have findings of its own.
			out = check(0)
			if errs, warnings := levels(out); len(errs) > 0 || len(statements(out)) > 0 {
				t.Errorf("it is not silent: %q %q\n%s", errs, warnings, out)
			}
		})
	}
}

// The owner's role was made by the target's role itself, which from 16 on has only ADMIN on it: it
// is told what it can do about that by itself.
func TestCheckOwnerByCreator_C6(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Source(t).Database(t, ""), pgtest.Start(t, 18).Database(t, "")
	owner := "owner_" + source.Name
	source.Exec("CREATE ROLE "+owner, "CREATE SCHEMA s AUTHORIZATION "+owner, "SET ROLE "+owner+"; CREATE TABLE s.t (id int PRIMARY KEY)")
	t.Cleanup(func() { source.Exec("DROP SCHEMA s CASCADE", "DROP ROLE "+owner) })
	target.Exec("CREATE ROLE mover LOGIN CREATEROLE", "ALTER DATABASE "+target.Name+" OWNER TO mover", "SET ROLE mover; CREATE ROLE "+owner)
	e := pgtest.NewEnv(t, source, target)
	e.Target = target.As("mover", "")
	status, out, _ := e.Run(nil, "pgcutover", "check", "--slot", "mig")
	if status != 78 || !strings.Contains(string(out), "\tOn the target, as \"mover\":") {
		t.Errorf("status %d\n%s", status, out)
	}
	paste(t, source, target, string(out))
	if status, out, _ := e.Run(nil, "pgcutover", "check", "--slot", "mig"); status > 1 {
		t.Errorf("status %d\n%s", status, out)
	}
}

// pgextract names all that it may not read before there is a slot.
func TestExtractClosed_C9(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	role := "closed_" + source.Name
	source.Exec("CREATE ROLE "+role+" LOGIN REPLICATION", "GRANT CREATE ON DATABASE "+source.Name+" TO "+role,
		"CREATE SCHEMA s", "CREATE TABLE s.t (id int PRIMARY KEY)",
		"CREATE TABLE forced (id int PRIMARY KEY)",
		"ALTER TABLE forced OWNER TO "+
			role, "ALTER TABLE forced ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
		"SELECT lo_create(1)", "SELECT lo_create(2)", "CREATE SEQUENCE s.q")
	t.Cleanup(func() { source.Exec("DROP OWNED BY "+role, "DROP ROLE "+role) })
	e := pgtest.NewEnv(t, source, target)
	e.Source = source.As(role, "")
	status, _, said := e.Run(nil, "pgextract", "--slot", source.Name)
	for _, want := range []string{"s.t", "s.q", "public.forced", "1, 2", "BYPASSRLS"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not named in\n%s", want, said)
		}
	}
	if n := source.Query("SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = '" +
		source.Name + "') + (SELECT count(*) FROM pg_publication)"); status != 77 || n != "0" {
		t.Errorf("status %d, %s slots and publications\n%s", status, n, said)
	}
}

// The databases have the same LC_COLLATE, and sort by other rules.
func TestCheckCollation_C13(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, 18)
	options := []string{"LOCALE_PROVIDER icu ICU_LOCALE 'sv-SE'", "LOCALE_PROVIDER libc",
		"LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'",
		"LOCALE_PROVIDER icu ICU_LOCALE 'sv-SE' ICU_RULES '&a < b'"}
	var dbs []*pgtest.DB
	for _, o := range options {
		dbs = append(dbs, server.Database(t, o+" LC_COLLATE 'C' LC_CTYPE 'C' ENCODING 'UTF8' TEMPLATE template0"))
	}
	same := server.Database(t, options[0]+" LC_COLLATE 'C' LC_CTYPE 'C' ENCODING 'UTF8' TEMPLATE template0")
	for _, d := range dbs[1:] {
		e := pgtest.NewEnv(t, dbs[0], d)
		_, out, _ := e.Run(nil, "pgcutover", "check")
		if level, _ := finding(string(out), "collation and character type"); level != "warning" {
			t.Errorf("%s", out)
		}
	}
	dbs[0].Exec("CREATE COLLATION mine (provider = icu, locale = 'de')",
		"CREATE TABLE t (v text COLLATE mine, w text COLLATE \"de-x-icu\")")
	same.Exec("CREATE COLLATION mine (provider = icu, locale = 'fr', deterministic = false)")
	e := pgtest.NewEnv(t, dbs[0], same)
	_, out, _ := e.Run(nil, "pgcutover", "check")
	if level, _ := finding(string(out), "databases have the collation"); level != "ok" {
		t.Errorf("%s", out)
	}
	if level, _ := finding(string(out), "public.mine"); level != "warning" {
		t.Errorf("%s", out)
	}
	same.Exec("DELETE FROM pg_collation WHERE collname = 'de-x-icu'")
	if _, out, _ = e.Run(nil, "pgcutover", "check"); !strings.Contains(string(out),
		"error\tcolumns have collations that the target does not have: de-x-icu") {
		t.Errorf("%s", out)
	}
}

// Rows without a parent are named with their number and a query before the source is closed; one
// can go on with them.
func TestOrphans_C30(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	m := &migration{source: source, target: target, slot: "mig_" + source.Name, Env: pgtest.NewEnv(t, source, target)}
	source.Exec(`CREATE TABLE p (a int, b text, PRIMARY KEY (a, b)); CREATE TABLE c (id int PRIMARY KEY, "A" int, b text, CONSTRAINT "c's parent" FOREIGN KEY ("A", b) REFERENCES p MATCH FULL, up int);
		ALTER TABLE c ADD CONSTRAINT self FOREIGN KEY (up) REFERENCES c NOT VALID; CREATE TABLE fine (id int PRIMARY KEY, c int REFERENCES c);
		INSERT INTO p VALUES (1, 'x'); SET session_replication_role = replica; INSERT INTO c SELECT g, 1, CASE WHEN g < 4 THEN 'none' ELSE 'x' END, 99 FROM generate_series(1, 9) g; INSERT INTO c VALUES (10, 5, NULL, 1)`)
	m.Bash("pgextract --slot " + m.slot + " | pgapply")
	out, _ := m.cut(0, "check")
	for _, want := range []string{"4 rows of public.c on the source violate foreign key c's parent",
		"9 rows of public.c on the source violate foreign key self"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	var rows []string
	for _, p := range statements(out) {
		for _, sql := range p.sql {
			rows = append(rows, m.source.Query("SELECT count(*) FROM ("+strings.TrimSuffix(sql, ";")+") x"))
		}
	}
	if got := strings.Join(rows, " "); got != "4 9" {
		t.Errorf("the queries show %s rows\n%s", got, out)
	}
	lines := m.missing()
	if len(lines) != 1 || lines[0].Name != "public.c.c's parent" || lines[0].Problem != "orphans" ||
		lines[0].Class != "integrity" || !strings.HasPrefix(lines[0].Cause, "4 rows ") {
		t.Fatalf("%+v", lines)
	}
	m.cut(0, "missing", "--allow-orphans")
	for _, args := range [][]string{{"fence"}, {"fence", "--check"}} {
		_, errs := m.cut(78, args...)
		says(t, errs, "c's parent: 4 rows of public.c")
	}
	if got := m.source.Query("SHOW default_transaction_read_only"); got != "off" {
		t.Error("the source was closed")
	}
	m.cut(0, "fence", "--check", "--allow-orphans")
	m.cut(0, "missing", "--allow-missing", lines[0].ID)
	m.cut(0, "fence", "--check")
	m.target.Exec("DELETE FROM pgsluice.allowed")
	m.source.Exec("DELETE FROM c WHERE id IN (1, 2, 3, 10)")
	m.cut(0, "fence")
}

// Functions that rely on the search path where the load, an index or a materialized view calls them
// are found, and those that do not are left alone. When they have the path that check prints,
// everything loads.
func TestSearchPathFunctions_C11(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	m := &migration{source: source, target: target, slot: "mig_" + source.Name, Env: pgtest.NewEnv(t, source, target)}
	generated := ""
	if source.Major >= 12 {
		generated = ", g int GENERATED ALWAYS AS (app.twice(id)) STORED"
	}
	source.Exec(`CREATE SCHEMA app; SET search_path = app; CREATE TABLE "Limits" (most int); INSERT INTO "Limits" VALUES (1000);
		CREATE FUNCTION mul(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';
		CREATE FUNCTION twice(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT mul($1)';
		CREATE FUNCTION fits(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN $1 <= (SELECT most FROM "Limits"); END $$;
		CREATE FUNCTION deep(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT app.twice($1) -- mul(1)
			+ length(''fits(1)'')';
		CREATE FUNCTION fine(int) RETURNS int IMMUTABLE LANGUAGE sql SET search_path = app AS 'SELECT mul($1)';
		CREATE FUNCTION unused(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT mul($1)';
		CREATE FUNCTION later(int) RETURNS int LANGUAGE sql AS 'SELECT mul($1)';
		CREATE TABLE t (id int PRIMARY KEY, d int DEFAULT app.later(1) ` + generated + `, CHECK (app.fine(id) > 0));
		CREATE INDEX deep ON t (app.deep(id)); CREATE INDEX part ON t (id) WHERE app.fits(id);
		INSERT INTO t SELECT g FROM generate_series(1, 20) g; CREATE MATERIALIZED VIEW mv AS SELECT app.deep(id) FROM t`)
	status, out, _ := m.Run(nil, "pgcutover", "check", "--slot", m.slot)
	for _, want := range []string{"app.twice(integer)", "app.fits(integer)", "app.later(integer)"} {
		if !strings.Contains(string(out), "function "+want) {
			t.Errorf("%s is not found", want)
		}
	}
	for _, not := range []string{"app.fine", "app.unused", "app.mul", "app.deep"} {
		if strings.Contains(string(out), "function "+not+"(") {
			t.Errorf("%s is found", not)
		}
	}
	if n := paste(t, source, target, string(out)); status != 78 || n != 3 || t.Failed() {
		t.Fatalf("status %d, %d statements\n%s", status, n, out)
	}
	if out, _ := m.cut(0, "check"); len(statements(out)) > 0 {
		t.Errorf("it is not silent:\n%s", out)
	}
	m.Bash("pgextract --slot " + m.slot + " | pgapply")
	pgtest.Equal(t, source, target)
}

// A load that fails for such a function says which one it is, and what mends it.
func TestSearchPathMessage_C11(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	if source.Major < 12 {
		t.Skip("generated columns exist from PostgreSQL 12 on")
	}
	source.Exec(`CREATE SCHEMA app; SET search_path = app; CREATE FUNCTION mul(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';
		CREATE FUNCTION twice(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT mul($1)';
		CREATE FUNCTION slowly(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN mul($1); END';
		CREATE TABLE t (id int PRIMARY KEY, g int GENERATED ALWAYS AS (app.twice(id)) STORED); CREATE TABLE u (id int PRIMARY KEY, g int GENERATED ALWAYS AS (app.slowly(id)) STORED);
		CREATE TABLE v (id int PRIMARY KEY); CREATE INDEX ON v (app.slowly(id)); INSERT INTO t VALUES (1); INSERT INTO u VALUES (1); INSERT INTO v VALUES (1)`)
	e := pgtest.NewEnv(t, source, target)
	status, _, said := e.Run(nil, "bash", "-c", "set -o pipefail; pgextract --slot "+source.Name+" | pgapply")
	for _, want := range []string{"ALTER FUNCTION app.twice(integer) SET search_path = ",
		"ALTER FUNCTION app.slowly(integer) SET search_path = "} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not said", want)
		}
	}
	if status == 0 || t.Failed() {
		t.Errorf("status %d\n%s", status, said)
	}
}
