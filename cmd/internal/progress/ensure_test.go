package progress_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// A schema in which others have something to say is refused, whatever that is; nothing of theirs is
// executed.
func TestForeignSchema_P6(t *testing.T) {
	d := pgtest.Target(t).Database(t, "")
	ctx := pgtest.Context(t)
	other, mover := "other_"+d.Name, "mover_"+d.Name
	d.Exec("CREATE ROLE "+other+" LOGIN", "CREATE ROLE "+mover+" LOGIN", "GRANT CREATE ON DATABASE "+d.Name+" TO "+other+", "+mover)
	t.Cleanup(func() {
		d.Exec("DROP SCHEMA IF EXISTS pgsluice CASCADE", "DROP OWNED BY "+other+", "+mover, "DROP ROLE "+other+", "+mover)
	})
	as := func(role, sql string) string { return "SET SESSION AUTHORIZATION " + role + "; " + sql }
	c := connect(t, d.As(mover, ""))
	refused := func(what string) {
		t.Helper()
		for name, err := range map[string]error{"Trust": progress.Trust(ctx, c), "Ensure": progress.Ensure(ctx, c)} {
			var f *fault.Error
			if !errors.As(err, &f) || f.Status != fault.Permission || f.Hint == "" {
				t.Errorf("%s: %s: %v", what, name, err)
			} else if !strings.Contains(what, "trigger") && !strings.Contains(what, "rule") &&
				!strings.Contains(what, "default") && !strings.Contains(what, "policy") &&
				!strings.Contains(err.Error(), other) {
				t.Errorf("%s: %s does not name the role: %v", what, name, err)
			}
		}
	}
	d.Exec(as(other, "CREATE SCHEMA pgsluice"))
	refused("another role's schema")
	d.Exec("DROP SCHEMA pgsluice")
	for what, sql := range map[string][2]string{
		"a table in a schema of ours": {as(other, "CREATE TABLE pgsluice.ddl (a int)"), "DROP TABLE pgsluice.ddl"},
		"a function in a schema of ours": {as(other,
			"CREATE FUNCTION pgsluice.f() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
			"DROP FUNCTION pgsluice.f()"},
		"a type in a schema of ours": {as(other, "CREATE TYPE pgsluice.e AS ENUM ('a')"), "DROP TYPE pgsluice.e"},
		"a right to create":          {"SELECT 1", "SELECT 1"},
		"a table of ours": {"ALTER TABLE pgsluice.spill OWNER TO " + other,
			"ALTER TABLE pgsluice.spill OWNER TO " + mover},
		"a right to write": {"GRANT INSERT ON pgsluice.deferred TO " + other,
			"REVOKE ALL ON pgsluice.deferred FROM " + other},
		"a right to write a column": {"GRANT UPDATE (definition) ON pgsluice.deferred TO " + other,
			"REVOKE ALL (definition) ON pgsluice.deferred FROM " + other},
		"a right to make a trigger": {"GRANT TRIGGER ON pgsluice.streams TO " + other,
			"REVOKE ALL ON pgsluice.streams FROM " + other},
		"a trigger": {"CREATE TRIGGER x BEFORE INSERT ON pgsluice.streams FOR EACH ROW EXECUTE PROCEDURE public.tr()",
			"DROP TRIGGER x ON pgsluice.streams"},
		"a rule": {"CREATE RULE x AS ON INSERT TO pgsluice.streams DO ALSO SELECT public.f()",
			"DROP RULE x ON pgsluice.streams"},
		"a default": {"ALTER TABLE pgsluice.streams ALTER start_lsn SET DEFAULT public.f()",
			"ALTER TABLE pgsluice.streams ALTER start_lsn DROP DEFAULT"},
		"a CHECK, which is as a default": {"ALTER TABLE pgsluice.streams ADD CONSTRAINT x CHECK (public.f() IS NULL)",
			"ALTER TABLE pgsluice.streams DROP CONSTRAINT x"},
		"an index, which is as a default": {"CREATE INDEX x ON pgsluice.streams ((public.f()))", "DROP INDEX pgsluice.x"},
		"a policy": {"ALTER TABLE pgsluice.streams ENABLE ROW LEVEL SECURITY",
			"ALTER TABLE pgsluice.streams DISABLE ROW LEVEL SECURITY"},
		"a right of everybody to write, too": {"GRANT INSERT ON pgsluice.cutover TO PUBLIC, " + other,
			"REVOKE ALL ON pgsluice.cutover FROM PUBLIC, " + other},
	} {
		d.Exec("CREATE OR REPLACE FUNCTION public.f() RETURNS pg_lsn IMMUTABLE LANGUAGE sql AS 'SELECT NULL::pg_lsn'",
			"CREATE OR REPLACE FUNCTION public.tr() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
		must(t, progress.Ensure(ctx, c))
		d.Exec("GRANT USAGE, CREATE ON SCHEMA pgsluice TO "+other, sql[0])
		if what != "a right to create" {
			d.Exec("REVOKE CREATE ON SCHEMA pgsluice FROM " + other)
		}
		refused(what)
		d.Exec(sql[1], "REVOKE ALL ON SCHEMA pgsluice FROM "+other)
		if err := progress.Trust(ctx, c); err != nil {
			t.Errorf("%s: refused when it is gone: %v", what, err)
		}
	}
	// To look is allowed.
	d.Exec("GRANT USAGE ON SCHEMA pgsluice TO PUBLIC", "GRANT SELECT ON ALL TABLES IN SCHEMA pgsluice TO "+other)
	must(t, progress.Trust(ctx, c))
	// A superuser does not work in another role's schema either.
	if err := progress.Trust(ctx, connect(t, d.URI)); fault.StatusOf(err) != fault.Permission || !strings.Contains(err.Error(), mover) {
		t.Errorf("a superuser: %v", err)
	}
	// What an older program has left is not taken for ours.
	d.Exec("COMMENT ON TABLE pgsluice.streams IS 'one row for each slot whose stream is applied here'")
	if err := progress.Ensure(ctx, c); fault.StatusOf(err) != fault.Config {
		t.Errorf("another layout: %v", err)
	}
	if _, err := progress.Streams(ctx, c, ""); fault.StatusOf(err) != fault.Config {
		t.Errorf("another layout: %v", err)
	}
}

// Nothing that others have put in the place of our tables is read: a view of theirs calls their
// functions with the rights of whoever reads it.
func TestForeignView_P6(t *testing.T) {
	d := pgtest.Target(t).Database(t, "")
	ctx := pgtest.Context(t)
	other := "other_" + d.Name
	d.Exec("CREATE ROLE "+other, "GRANT CREATE ON DATABASE "+d.Name+" TO "+other)
	t.Cleanup(func() { d.Exec("DROP OWNED BY "+other, "DROP ROLE "+other) })
	c := connect(t, d.URI)
	must(t, progress.Ensure(ctx, c))
	columns := d.Query(`SELECT string_agg(format('NULL::%s AS %I', CASE attname WHEN 'stream_id' THEN 'integer' ELSE format_type(atttypid, atttypmod) END, attname), ', ' ORDER BY attnum)
		FROM pg_attribute WHERE attrelid = 'pgsluice.streams'::regclass AND attnum > 0`)
	comment := d.Query("SELECT obj_description('pgsluice.streams'::regclass, 'pg_class')")
	d.Exec("DROP SCHEMA pgsluice CASCADE", "CREATE TABLE public.seen (role text)",
		"SET SESSION AUTHORIZATION "+other+"; CREATE SCHEMA pgsluice",
		"SET SESSION AUTHORIZATION "+
			other+"; CREATE FUNCTION pgsluice.f() RETURNS bool LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.seen VALUES (current_user); RETURN false; END'",
		"SET SESSION AUTHORIZATION "+other+"; CREATE VIEW pgsluice.streams AS SELECT "+columns+
			" WHERE pgsluice.f(); COMMENT ON VIEW pgsluice.streams IS '"+comment+"'",
		"GRANT USAGE ON SCHEMA pgsluice TO PUBLIC")
	if list, err := progress.Streams(ctx, c, ""); err != nil || len(list) != 0 {
		t.Errorf("%d streams, %v", len(list), err)
	}
	if got := d.Query("SELECT count(*) FROM public.seen"); got != "0" {
		t.Error("a function of another role has been executed")
	}
}

// A schema that a DBA has made for the role is used, also without the right to create schemas;
// default privileges give nobody rights in it.
func TestSchemaMadeForUs_P6(t *testing.T) {
	d := pgtest.Target(t).Database(t, "")
	ctx := pgtest.Context(t)
	mover, app := "mover_"+d.Name, "app_"+d.Name
	d.Exec("CREATE ROLE "+mover+" LOGIN", "CREATE ROLE "+app,
		"ALTER DEFAULT PRIVILEGES FOR ROLE "+mover+" GRANT ALL ON TABLES TO "+app+", PUBLIC",
		"ALTER DEFAULT PRIVILEGES FOR ROLE "+mover+" GRANT ALL ON SEQUENCES TO "+app,
		"ALTER DEFAULT PRIVILEGES FOR ROLE "+mover+" GRANT ALL ON SCHEMAS TO "+app)
	t.Cleanup(func() {
		d.Exec("DROP SCHEMA IF EXISTS pgsluice CASCADE", "DROP OWNED BY "+mover, "DROP OWNED BY "+app, "DROP ROLE "+mover+", "+app)
	})
	for _, sql := range [][]string{
		{"CREATE SCHEMA pgsluice AUTHORIZATION " + mover},
		{"CREATE SCHEMA pgsluice", "GRANT USAGE, CREATE ON SCHEMA pgsluice TO " + mover},
		{"GRANT CREATE ON DATABASE " + d.Name + " TO " + mover},
	} {
		d.Exec(sql...)
		c := connect(t, d.As(mover, ""))
		for range 2 {
			if err := progress.Ensure(ctx, c); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
		}
		s, err := progress.Open(ctx, c, key)
		must(t, err)
		if !free(t, ctx, c, s.ID, progress.WorkLock(progress.Applying)) {
			t.Error("its lock cannot be taken")
		}
		must(t, progress.Remove(ctx, c))
		if _, err := progress.Streams(ctx, c, ""); err != nil {
			t.Error(err)
		}
		// What is not ours is left.
		if got, want := d.Query("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgsluice'"), "0"; got != want && len(sql) == 1 {
			t.Errorf("%s: the schema is still there", sql)
		}
		d.Exec("DROP SCHEMA IF EXISTS pgsluice")
		must(t, c.Close(ctx))
	}
}
