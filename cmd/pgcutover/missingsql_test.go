package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Whatever the owner of the target's database presets, no constant of the source becomes a
// statement of those who execute what missing --sql prints: neither with psql, nor as one query,
// which the server reads before it executes the settings in it.
func TestMissingStrings(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE t (a int PRIMARY KEY)")
	m := &migration{source: source, target: target, slot: "mig_" + source.Name, Env: pgtest.NewEnv(t, source, target)}
	m.Bash("pgextract --slot " + m.slot + " | pgapply")
	target.Exec("ALTER DATABASE " + target.Name + " SET standard_conforming_strings = off")
	const constants = `'a\', '; CREATE TABLE pwned (); --'`
	source.Exec(`CREATE VIEW v AS SELECT * FROM (VALUES (`+constants+`)) v`, `ALTER TABLE t ADD b text DEFAULT 'c\'`,
		`COMMENT ON TABLE t IS '\'`, `ALTER TABLE t ADD CONSTRAINT c CHECK (b <> ALL (ARRAY[`+constants+`]))`)
	out, _ := m.cut(1, "missing", "--sql")
	if text, _ := m.cut(1, "missing"); strings.Contains(text, `'a\'`) {
		t.Errorf("a remedy is not safe:\n%s", text)
	}
	if _, err := target.Try(out); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	target.Exec("DROP VIEW v")
	if status, _, errs := m.Run([]byte(out), "psql", "-Xqf", "-", target.URI); status != 0 {
		t.Errorf("psql: %s", errs)
	}
	if got := target.Query("SELECT v.*, pg_catalog.to_regclass('pwned') FROM v"); got != `a\`+"\t; CREATE TABLE pwned (); --\tNULL" {
		t.Errorf("the view has %q", got)
	}
	m.nothingMissing()
}

// What a superuser executes of missing --sql runs the expressions of other roles with the rights of
// the owner only, who can neither leave that role nor change the session for what follows.
func TestMissingAsOwner(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	role := "app_" + source.Name
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("CREATE ROLE " + role + " LOGIN")
		t.Cleanup(func() { d.Exec("DROP OWNED BY "+role+" CASCADE", "DROP ROLE "+role) })
	}
	const body = `LANGUAGE plpgsql AS $$BEGIN
		BEGIN EXECUTE 'RESET ROLE'; EXCEPTION WHEN OTHERS THEN END;
		PERFORM set_config('search_path', 'app', false), set_config('standard_conforming_strings', 'off', false);
		IF current_user !~ '^app_' THEN RAISE EXCEPTION 'executed as %%', current_user; END IF;
		RETURN %s; END$$`
	source.Exec("CREATE SCHEMA app AUTHORIZATION "+role, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1)", "ALTER TABLE t OWNER TO "+role,
		"SET ROLE "+role+"; CREATE FUNCTION app.f() RETURNS text "+fmt.Sprintf(body, "current_user")+
			"; CREATE FUNCTION app.g(text) RETURNS bool "+fmt.Sprintf(body, "true")+
			"; CREATE FUNCTION app.h(int) RETURNS int IMMUTABLE "+fmt.Sprintf(body, "1")+
			"; CREATE DOMAIN app.d AS text CHECK (app.g(VALUE))")
	m := &migration{source: source, target: target, slot: "mig_" + source.Name, Env: pgtest.NewEnv(t, source, target)}
	m.Bash("pgextract --slot " + m.slot + " | pgapply")
	source.Exec("CREATE INDEX i ON t (app.h(a))") // its schema is closed to the owner
	app := &pgtest.DB{Server: source.Server, Name: source.Name, URI: source.As(role, "")}
	if _, err := app.Try(`SET search_path = public; ALTER TABLE t ADD y text DEFAULT app.f(), ADD CHECK (app.g(a::text)); CREATE MATERIALIZED VIEW app.mv AS SELECT app.f() AS who; CREATE MATERIALIZED VIEW app.none AS SELECT 1 AS a WITH NO DATA;
			CREATE VIEW app.v AS SELECT '{x}'::app.d[] AS x, 'a\' AS y; COMMENT ON VIEW app.v IS 'x\'; GRANT SELECT ON app.v TO PUBLIC`); err != nil {
		t.Fatal(err)
	}
	out, _ := m.cut(1, "missing", "--sql")
	if status, _, errs := m.Run([]byte(out), "psql", "-Xqf", "-", target.URI); status != 0 || errs != "" {
		t.Errorf("psql: %s\n%s", errs, out)
	}
	if got := target.Query("SELECT mv.who = t.y, t.y FROM app.mv, t"); got != "t\t"+role {
		t.Errorf("executed as %q", got)
	}
	const may = "SELECT has_schema_privilege('%s', 'public', 'CREATE')"
	if target.Query(fmt.Sprintf(may, role)) != source.Query(fmt.Sprintf(may, role)) {
		t.Error("a right that was lent is left")
	}
	m.nothingMissing()
}
