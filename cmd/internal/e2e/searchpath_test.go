package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// evilSQL makes functions, operators and views that have the names of PostgreSQL's own. Each makes
// a role superuser if it is called by one, and is counted by the server. Its parameters are the
// schema and the role.
const evilSQL = `
CREATE FUNCTION %[1]s.attack() RETURNS boolean LANGUAGE plpgsql AS $a$ BEGIN
	IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) current_user) THEN ALTER ROLE %[2]s SUPERUSER; END IF;
	RETURN true;
EXCEPTION WHEN others THEN RETURN true; END $a$;
CREATE FUNCTION %[1]s.marker() RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
DO $do$
DECLARE f record; arguments text; body text;
BEGIN
	SET LOCAL search_path = pg_catalog;
	FOR f IN SELECT p.proname, p.proargtypes, p.proretset, format_type(p.prorettype, NULL) AS result FROM pg_proc p
		WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND p.pronargs <= 5 AND p.provariadic = 0 AND p.proallargtypes IS NULL AND NOT p.proretset
		AND NOT EXISTS (SELECT FROM pg_type y WHERE y.oid = ANY (p.proargtypes::oid[] || p.prorettype) AND y.typtype = 'p' AND y.typname <> 'void')
		AND (p.proname ~ '^(pg|has|current|txid|to_|set_|format|lo_|quote|array_|json|inet|string|name|text|oid|int|bool|lsn|timestamp)'
			OR p.proname IN ('now', 'clock_timestamp', 'date_trunc', 'hashtext', 'nextval', 'setval', 'age', 'host', 'upper', 'lower', 'substr', 'md5', 'left', 'length', 'concat', 'timeofday', 'obj_description', 'version', 'strpos', 'ltrim', 'mod', 'abs'))
	LOOP
		SELECT coalesce(string_agg(format_type(t, NULL), ', ' ORDER BY o), '') INTO arguments FROM unnest(f.proargtypes::oid[]) WITH ORDINALITY v(t, o);
		SELECT format('pg_catalog.%%I(%%s)', f.proname, coalesce(string_agg('$' || o, ', ' ORDER BY o), '')) INTO body FROM unnest(f.proargtypes::oid[]) WITH ORDINALITY v(t, o);
		BEGIN
			EXECUTE format('CREATE FUNCTION %[1]s.%%I(%%s) RETURNS %%s LANGUAGE plpgsql AS $f$ BEGIN PERFORM %[1]s.attack(); %%s %%s; END $f$', f.proname, arguments, f.result,
				CASE f.result WHEN 'void' THEN 'PERFORM' ELSE 'RETURN' END, body);
		EXCEPTION WHEN OTHERS THEN NULL; END;
	END LOOP;
	FOR f IN SELECT o.oprname, o.oid, format_type(o.oprleft, NULL) AS l, format_type(o.oprright, NULL) AS r, format_type(o.oprresult, NULL) AS result FROM pg_operator o
		WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprkind = 'b' AND o.oprname IN ('=', '<>', '~', '!~', '||', '<', '>', '<=', '>=', '-', '+', '*', '/', '~~')
		AND NOT EXISTS (SELECT FROM pg_type y WHERE y.oid IN (o.oprleft, o.oprright, o.oprresult) AND y.typtype = 'p')
	LOOP
		EXECUTE format('CREATE FUNCTION %[1]s.%%I(%%s, %%s) RETURNS %%s LANGUAGE plpgsql AS $f$ BEGIN PERFORM %[1]s.attack(); RETURN $1 OPERATOR(pg_catalog.%%s) $2; END $f$',
			'op' || f.oid, f.l, f.r, f.result, f.oprname);
		EXECUTE format('CREATE OPERATOR %[1]s.%%s (LEFTARG = %%s, RIGHTARG = %%s, PROCEDURE = %[1]s.%%I)', f.oprname, f.l, f.r, 'op' || f.oid);
	END LOOP;
	FOR f IN SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind IN ('r', 'v') AND c.relname !~ '^pg_(authid|statistic|shadow|user_mapping|largeobject$)' LOOP
		BEGIN
			EXECUTE format('CREATE VIEW %[1]s.%%I AS SELECT * FROM pg_catalog.%%1$I WHERE %[1]s.attack()', f.relname);
		EXCEPTION WHEN OTHERS THEN NULL; END;
	END LOOP;
END $do$`

// Whoever may create objects in a database, and presets the search path of those who connect to it,
// has nothing of his called by any program, on either side.
func TestSearchPath_P5(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	server := pgtest.Start(t, pgtest.Source(t).Major, "track_functions=all")
	source, target := server.Database(t, ""), server.Database(t, "")
	attacker, mover := "attacker", "mover"
	source.Exec("CREATE ROLE "+attacker+" LOGIN", "CREATE ROLE "+mover+" LOGIN SUPERUSER REPLICATION")
	schema := "evil"
	if server.Major < 15 {
		schema = "public" // where everybody may create
	}
	for _, d := range []*pgtest.DB{source, target} {
		if schema == "evil" {
			d.Exec("ALTER DATABASE "+d.Name+" OWNER TO "+attacker, "CREATE SCHEMA evil AUTHORIZATION "+attacker)
		}
		d.Exec("SET SESSION AUTHORIZATION "+attacker+"; "+fmt.Sprintf(evilSQL, schema, attacker),
			"ALTER DATABASE "+d.Name+" SET search_path = "+schema+", pg_catalog",
			`ALTER ROLE postgres IN DATABASE `+d.Name+` SET search_path = ''`)
		if n := d.Query("SELECT count(*) FROM pg_proc WHERE pronamespace = '" + schema + "'::regnamespace"); len(n) < 3 {
			t.Fatalf("%s functions were made", n)
		}
	}
	source.Exec("CREATE SCHEMA app", "CREATE TABLE app.t (id int PRIMARY KEY, v text)",
		"INSERT INTO app.t SELECT g, 'v' FROM generate_series(1, 100) g", "CREATE TABLE app.log (v text)",
		"CREATE TABLE app.child (id int REFERENCES app.t)", "CREATE SEQUENCE app.s",
		"SELECT lo_from_bytea(0, 'abc')", "CREATE VIEW app.w AS SELECT * FROM app.t",
		"CREATE MATERIALIZED VIEW app.m AS SELECT id FROM app.t")
	e := pgtest.NewEnv(t, source, target)
	e.Source, e.Target = source.As(mover, ""), target.As(mover, "")
	calls := func(d *pgtest.DB) string {
		return d.Query("SELECT coalesce(string_agg(funcname || ' ' || calls, ', '), '') FROM pg_stat_user_functions WHERE schemaname = '" +
			schema + "' AND funcname <> 'marker'")
	}
	after := func(what string) {
		t.Helper()
		if got := source.Query("SELECT rolsuper FROM pg_roles WHERE rolname = '" + attacker + "'"); got != "f" {
			t.Errorf("the role was made superuser by: %s", what)
			source.Exec("ALTER ROLE " + attacker + " NOSUPERUSER")
		}
		for side, d := range map[string]*pgtest.DB{"source": source, "target": target} {
			if got := calls(d); got != "" {
				t.Errorf("%s: functions called on the %s: %.300s", what, side, got)
				d.Exec("SELECT pg_stat_reset()")
			}
		}
	}
	run := func(script string) {
		t.Helper()
		e.Bash(script)
		after(script)
	}
	slot := source.Name
	run("pgcutover check --slot " + slot + " || (($? == 1))")
	if server.Major >= 14 {
		run("pgcutover ddl install")
		run("pgcutover ddl check")
	}
	run("pgextract --slot " + slot + " --schema app | pgapply")
	run("pgextract --slot " + slot + " --schema app --resume | pgapply")
	run("pgextract --schema app | cat >/dev/null")
	run("pgcutover wait loaded --slot " + slot)
	run("pgextract --slot " + slot + " --table app.t --reload | pgapply")
	run("dir=$(mktemp -d); pgextract --hold >$dir/held & held=$!; for i in {1..300}; do ! grep -q '^snapshot' $dir/held || break; sleep 0.1; done; " +
		"pgextract --schema app --snapshot $(sed -n 's/^snapshot\t//p' $dir/held) >/dev/null; kill $held; wait $held || true; rm -r $dir")
	// A transaction in progress, and a statement that changes the schema.
	c := source.Connect()
	tx, err := c.Begin(pgtest.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(pgtest.Context(t), "INSERT INTO app.log SELECT repeat('x', 1000) FROM generate_series(1, 20000)"); err != nil {
		t.Fatal(err)
	}
	source.Exec("INSERT INTO app.t VALUES (1001, 'a')", "UPDATE app.t SET v = 'b' WHERE id = 1", "DELETE FROM app.t WHERE id = 2")
	run("pgdecode --slot " + slot + " --until now | pgapply")
	sync := e.Start(nil, nil, "bash", pgtest.Root()+"/scripts/sync", slot)
	if err := tx.Commit(pgtest.Context(t)); err != nil {
		t.Fatal(err)
	}
	run("pgcutover wait caught-up --timeout 60s --slot " + slot)
	run("pgcutover status --slot " + slot)
	run("pgcutover status --json --slot " + slot)
	run("pgcutover fence --slot " + slot)
	run("pgcutover unfence --slot " + slot)
	run("pgcutover fence --slot " + slot)
	run("pgcutover drain --slot " + slot)
	run("pgcutover verify --slot " + slot)
	run("pgcutover open --slot " + slot)
	run("pgcutover finish --slot " + slot)
	sync.Wait(soon)
	after("scripts/sync")
	pgtest.EqualTable(t, source, target, "app.t")
	pgtest.EqualTable(t, source, target, "app.log")
	if server.Major >= 14 {
		run("pgcutover ddl uninstall")
	}
	run("pgcutover cleanup --slot " + slot)
	// The server counts with a delay: when it has counted this one, it has counted all.
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("SELECT " + schema + ".marker()")
		pgtest.Wait(t, 30*time.Second, "calls are counted", func() bool {
			return d.Query("SELECT calls FROM pg_stat_user_functions WHERE funcname = 'marker'") != ""
		})
	}
	after("everything")
}
