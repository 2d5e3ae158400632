package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// grantsOf lists the rights that are granted in a database, and what policies are for: without the
// roles named in it, if there are any.
func grantsOf(d *pgtest.DB, without ...string) string {
	names := "'" + strings.Join(append(without, ""), "','") + "'"
	return d.Query(`WITH a AS (
		SELECT format('function %s', p.oid::regprocedure) AS o, coalesce(p.proacl, acldefault('f', p.proowner)) AS acl FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
		UNION ALL SELECT format('schema %s', nspname), coalesce(nspacl, acldefault('n', nspowner)) FROM pg_namespace WHERE nspname IN ('public', 'app')
		UNION ALL SELECT format('table %s', c.oid::regclass), coalesce(relacl, acldefault('r', relowner)) FROM pg_class c WHERE relnamespace IN ('public'::regnamespace, 'app'::regnamespace) AND relkind = 'r'
		UNION ALL SELECT format('column %s.%s', attrelid::regclass, attname), attacl FROM pg_attribute WHERE attacl IS NOT NULL AND attrelid > 16384
		UNION ALL SELECT format('lo %s', oid), coalesce(lomacl, acldefault('L', lomowner)) FROM pg_largeobject_metadata
		UNION ALL SELECT format('default %s %s %s', defaclrole::regrole, defaclnamespace::regnamespace, defaclobjtype), defaclacl FROM pg_default_acl),
	r AS (SELECT a.o, x.grantee, CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee) END AS name, x.privilege_type, x.is_grantable FROM a, aclexplode(a.acl) x)
	SELECT coalesce(string_agg(line, E'\n' ORDER BY line COLLATE "C"), '') FROM (
		SELECT format('%s: %s %s %s', o, name, privilege_type, is_grantable) AS line FROM r WHERE name NOT IN (` + names + `) AND privilege_type <> 'MAINTAIN' -- which older servers do not have
		UNION ALL SELECT format('policy %s %s %s', polname, polpermissive, n) FROM pg_policy, LATERAL (SELECT pg_get_userbyid(u) AS n FROM unnest(polroles) u) v WHERE n NOT IN (` + names + `)
		UNION ALL SELECT format('owner of lo %s: %s', oid, pg_get_userbyid(lomowner)) FROM pg_largeobject_metadata WHERE pg_get_userbyid(lomowner) NOT IN (` + names + `)) v`)
}

// failures returns what the target knows of objects that could not be created.
func failures(d *pgtest.DB) string {
	return d.Query("SELECT coalesce(string_agg(format('%s %s because of %s: %s | %s', type, name, because, error, definition), E'\n' ORDER BY id), '') FROM pgsluice.deferred WHERE state = 'failed'")
}

// cutOver goes on to the end of a migration in which nothing has changed.
func cutOver(e *pgtest.Env, slot string) (status int, said string) {
	status, _, said = e.Run(nil, "bash", "-c", `set -euo pipefail; pgdecode --slot "$1" --until now | pgapply >/dev/null; pgcutover fence --slot "$1"
		{ pgdecode --slot "$1" | pgapply >/dev/null || true; } & pgcutover drain --slot "$1"; pgcutover open --slot "$1"; pgcutover finish --slot "$1"`, "cut", slot)
	return status, said
}

// A role that the target does not have costs the statements that name it, and no others: rights are
// never wider than on the source. When it is there, they are executed, by whatever comes first.
func TestMissingRole_C6_C17_C24(t *testing.T) {
	t.Parallel()
	for _, again := range []string{"resume", "finish"} {
		t.Run(again, func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Pair(t)
			app, gone := `app "of" `+source.Name, `gone TO `+source.Name
			role := func(d *pgtest.DB, name string) {
				d.Exec("CREATE ROLE " + ident(name))
				t.Cleanup(func() {
					d.Exec("BEGIN READ WRITE; DROP OWNED BY " + ident(name) + "; DROP ROLE " + ident(name) + "; COMMIT")
				})
			}
			for _, d := range []*pgtest.DB{source, target} {
				role(d, app)
			}
			role(source, gone)
			both := ident(app) + ", " + ident(gone)
			source.Exec("CREATE SCHEMA app", "REVOKE ALL ON SCHEMA public FROM PUBLIC", "GRANT USAGE ON SCHEMA public, app TO "+both,
				"CREATE FUNCTION secret() RETURNS text LANGUAGE sql SECURITY DEFINER AS $$ SELECT 'x'::text $$",
				"REVOKE ALL ON FUNCTION secret() FROM PUBLIC",
				"GRANT EXECUTE ON FUNCTION secret() TO "+both,
				"CREATE TABLE app.t (id int PRIMARY KEY, v text)", "INSERT INTO app.t VALUES (1, 'a')",
				"GRANT SELECT (v), UPDATE (v) ON app.t TO "+both,
				"GRANT INSERT, DELETE ON app.t TO "+ident(gone)+" WITH GRANT OPTION",
				"SET ROLE "+ident(gone)+"; GRANT INSERT ON app.t TO "+ident(app),
				"CREATE TABLE app.u (id int PRIMARY KEY)", "ALTER TABLE app.u OWNER TO "+ident(gone),
				"REVOKE DELETE ON app.u FROM "+ident(gone),
				"ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
				"ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO "+both,
				"ALTER TABLE app.t ENABLE ROW LEVEL SECURITY",
				"CREATE POLICY allow ON app.t TO "+ident(gone)+", "+ident(app)+" USING (true)",
				"CREATE POLICY forbid ON app.t AS RESTRICTIVE FOR SELECT TO "+both+" USING (id > 1)",
				"CREATE POLICY lone ON app.t TO "+ident(gone)+" USING (true)")
			for i := 1; i <= 5; i++ {
				source.Exec(fmt.Sprintf("SELECT lo_from_bytea(%[1]d, 'x'); GRANT SELECT ON LARGE OBJECT %[1]d TO %[2]s; COMMENT ON LARGE OBJECT %[1]d IS 'a;b'", i, both))
			}
			source.Exec("ALTER LARGE OBJECT 2 OWNER TO "+ident(app), "ALTER LARGE OBJECT 3 OWNER TO "+ident(gone))
			e := pgtest.NewEnv(t, source, target)
			if target.Major < 15 { // pg_dump from 15 on takes it for granted that nobody has this right
				target.Exec("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
			}
			load := func(more string) string { return e.Bash("pgextract --slot " + source.Name + more + " | pgapply 2>&1") }
			said := load("")
			if strings.Count(said, "does not exist on the target") != 1 || !strings.Contains(said, "CREATE ROLE "+ident(gone)+";") {
				t.Errorf("the failures do not have one cause with one remedy: %s", said)
			}
			if a, b := grantsOf(source, gone), grantsOf(target, gone); a != b {
				// What the missing role owns is ours until it is there, and what it has granted is
				// not granted.
				a = without(a, "table app.u:", "lo 3:", "table app.t: "+app+" INSERT")
				b = without(b, "table app.u:", "lo 3:", "owner of lo 3:", "table app.t: "+app+" INSERT")
				if a != b {
					t.Errorf("rights of the roles that are there:\n%s\n\nare on the target:\n%s\n\n%s", a, b, failures(target))
				}
			}
			if n := target.Query("SELECT count(*) FROM pgsluice.deferred WHERE state = 'failed' AND definition NOT LIKE '%" +
				gone + "%'"); n != "0" {
				t.Errorf("failed without need: %s", failures(target))
			}
			ids := "SELECT coalesce(string_agg(id::text, ' ' ORDER BY id), '') FROM pgsluice.deferred WHERE state = 'failed'"
			before := target.Query(ids)
			load(" --resume")
			if after := target.Query(ids); after != before {
				t.Errorf("another try has changed the ids from %s to %s", before, after)
			}
			role(target, gone)
			if again == "resume" {
				load(" --resume")
			} else if status, said := cutOver(e, source.Name); status != 0 {
				t.Fatalf("status %d: %s", status, said)
			}
			if a, b := grantsOf(source), grantsOf(target); a != b {
				t.Errorf("rights\n%s\n\nare on the target:\n%s", a, b)
			}
			if f := failures(target); f != "" {
				t.Errorf("still failed: %s", f)
			}
		})
	}
}

// without returns lines but for those with a prefix.
func without(lines string, prefixes ...string) string {
	var b strings.Builder
next:
	for line := range strings.Lines(lines) {
		for _, p := range prefixes {
			if strings.HasPrefix(line, p) {
				continue next
			}
		}
		b.WriteString(line)
	}
	return strings.TrimSpace(b.String())
}

// The values of a column that no newer server can have are named, on both ends, and remembered.
func TestWithOIDs_C23(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Start(t, 10).Database(t, ""), pgtest.Target(t).Database(t, "")
	source.Exec(`CREATE TABLE "old ones" (id int PRIMARY KEY) WITH OIDS`, `INSERT INTO "old ones" VALUES (1)`,
		"CREATE TABLE plain (id int PRIMARY KEY)")
	e := pgtest.NewEnv(t, source, target)
	for range 2 {
		said := e.Bash("pgextract --slot " + source.Name + " --resume | pgapply 2>&1")
		if f := failures(target); strings.Count(f, "WARNING") != 2 || !strings.Contains(f, "old ones") || strings.Contains(f, "plain") {
			t.Errorf("%s\n%s", f, said)
		}
	}
	pgtest.Equal(t, source, target)
}

// What fails because of something else says so, is told with that as one cause, and is made when
// the first cause is gone, in the order of its needs.
func TestFirstCause_C21(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	source.Exec("CREATE FUNCTION f(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN i; END'",
		"CREATE TABLE t (id int PRIMARY KEY, v int)", "INSERT INTO t VALUES (1, 1)",
		"CREATE UNIQUE INDEX one ON t (f(v))", "COMMENT ON INDEX one IS 'c'",
		"CREATE VIEW a AS SELECT f(id) FROM t", "CREATE VIEW b AS SELECT * FROM a",
		"CREATE MATERIALIZED VIEW m AS SELECT * FROM b",
		"CREATE UNIQUE INDEX of_m ON m (f)", "GRANT SELECT ON b TO PUBLIC",
		"ALTER TABLE t ENABLE ROW LEVEL SECURITY",
		"CREATE POLICY p ON t AS RESTRICTIVE USING (f(id) > 0)",
		"CREATE TABLE late (id int PRIMARY KEY, v int DEFAULT f(1))",
		"INSERT INTO late VALUES (1)")
	if source.Major >= 12 {
		source.Exec("ALTER TABLE late ADD w int GENERATED ALWAYS AS (f(id)) STORED")
	}
	target.Exec("CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$",
		"CREATE EVENT TRIGGER no ON ddl_command_start WHEN TAG IN ('CREATE FUNCTION') EXECUTE PROCEDURE no()",
		"ALTER EVENT TRIGGER no ENABLE ALWAYS")
	e := pgtest.NewEnv(t, source, target)
	status, _, said := e.Run(nil, "bash", "-c", `pgextract --slot "$1" | pgapply`, "load", source.Name)
	if status != 1 || !strings.Contains(said, "not today") {
		t.Errorf("status %d: %s", status, said)
	}
	pgtest.EqualTable(t, source, target, "t")
	const q = "SELECT count(*) FILTER (WHERE because IS NULL), count(*) > 4, count(DISTINCT because) FROM pgsluice.deferred WHERE state = 'failed'"
	if n := target.Query(q); n != "1\tt\t1" {
		t.Errorf("causes: %s\n%s", n, failures(target))
	}
	target.Exec("DROP EVENT TRIGGER no", "DROP FUNCTION no()")
	e.Bash("pgextract --slot " + source.Name + " --resume | pgapply")
	if f := failures(target); f != "" {
		t.Errorf("still failed: %s", f)
	}
	pgtest.Equal(t, source, target)
	if n := target.Query("SELECT count(*) FROM pg_class WHERE relname IN ('one', 'a', 'b', 'm', 'of_m')") + target.Query("SELECT count(*) FROM m") + target.Query("SELECT count(*) FROM pg_policy"); n != "511" {
		t.Errorf("there are %s", n)
	}
	if status, said := cutOver(e, source.Name); status != 0 {
		t.Errorf("status %d: %s", status, said)
	}
}
