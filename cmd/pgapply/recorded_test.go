package main_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/format"
)

// A guest is a role of the target that owns a schema of its own, and has no other rights.
func guest(t *testing.T, target *pgtest.DB, name string) string {
	t.Helper()
	name += "_" + target.Name
	target.Exec("CREATE ROLE "+name+" LOGIN", "CREATE SCHEMA app AUTHORIZATION "+name)
	t.Cleanup(func() {
		_, _ = target.Try("DROP OWNED BY " + name + " CASCADE")
		target.Exec("DROP ROLE " + name)
	})
	return name
}

// by is a recorded statement as pgdecode writes it.
func by(owner, tag, sql string, objects ...format.Object) *format.DDL {
	return &format.DDL{Section: format.Change, Type: tag, Owner: owner, SQL: sql + ";", SearchPath: "app", Objects: objects,
		Settings: map[string]string{"standard_conforming_strings": "on", "array_nulls": "on", "default_tablespace": "nowhere"}}
}

// object is one that a statement has made.
func object(kind string, names ...string) format.Object {
	return format.Object{Type: kind, Names: names}
}

// escape is a function that tries whatever could give it the rights of pgapply, or of what comes
// after it in the session.
const escape = `CREATE FUNCTION app.escape() RETURNS text LANGUAGE plpgsql AS $f$
DECLARE
	s text;
BEGIN
	FOREACH s IN ARRAY ARRAY['RESET ROLE', 'SET LOCAL ROLE NONE', 'SET ROLE postgres', 'RESET SESSION AUTHORIZATION', 'SET SESSION AUTHORIZATION postgres', 'ALTER ROLE %[1]s SUPERUSER',
		'DEALLOCATE ALL', 'PREPARE s0 AS SELECT app.grab()', 'PREPARE s1 AS SELECT app.grab()', 'PREPARE s2 AS SELECT app.grab()', 'SET standard_conforming_strings = off',
		'SET search_path = app', 'CREATE TEMP TABLE pg_class AS SELECT 1 AS oid', 'CREATE TEMP TABLE streams AS SELECT 1 AS oid',
		'CREATE TABLE app.later (a int)', 'INSERT INTO app.later VALUES (1)',
		'CREATE CONSTRAINT TRIGGER later AFTER INSERT ON app.later DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.trigger()',
		'ALTER TABLE app.later ENABLE ALWAYS TRIGGER later', 'INSERT INTO app.later VALUES (2)', 'SELECT pg_advisory_unlock_all()', 'DECLARE c CURSOR WITH HOLD FOR SELECT app.grab()'] LOOP
		BEGIN
			EXECUTE s;
		EXCEPTION WHEN OTHERS THEN NULL;
		END;
	END LOOP;
	RETURN current_user;
END $f$`

const grab = `CREATE FUNCTION app.%s AS $f$
BEGIN
	IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
		ALTER ROLE %s SUPERUSER;
	END IF;
	%s;
END $f$`

// A recorded statement, and all that it calls, runs as the role that ran it: what it makes is that
// role's, and nothing of it reaches what pgapply does before or after. Pgapply need not be a
// superuser.
func TestRecordedAsOwner_P3(t *testing.T) {
	for _, superuser := range []bool{true, false} {
		t.Run(fmt.Sprintf("superuser=%v", superuser), func(t *testing.T) {
			_, target := pgtest.Pair(t)
			app := guest(t, target, "app")
			env := pgtest.NewEnv(t, target, target)
			target.Exec("CREATE TABLE t (a text PRIMARY KEY)")
			if !superuser {
				mig := "mig_" + target.Name
				target.Exec("CREATE ROLE "+mig+" LOGIN", "ALTER TABLE t OWNER TO "+mig, "GRANT CREATE ON DATABASE "+target.Name+" TO "+mig)
				t.Cleanup(func() { target.Exec("DROP OWNED BY "+mig+" CASCADE", "DROP ROLE "+mig) })
				env.Target = target.As(mig, "")
			}
			s := newScribe(t)
			s.write(relation("a"))
			s.transaction(insert("1"))
			s.transaction(by(app, "CREATE FUNCTION", fmt.Sprintf(grab, "grab() RETURNS text LANGUAGE plpgsql", app, "RETURN current_user")),
				by(app, "CREATE FUNCTION", fmt.Sprintf(grab, "trigger() RETURNS trigger LANGUAGE plpgsql", app, "RETURN NULL")),
				by(app, "CREATE FUNCTION", fmt.Sprintf(escape, app)))
			s.transaction(insert("2"), by(app, "CREATE TABLE AS", "CREATE TABLE x AS SELECT escape() AS who",
				object("table", "app", "x")), insert("3"),
				by(app, "CREATE FUNCTION",
					"CREATE FUNCTION who() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::text'"),
				insert(`4'\`))
			s.transaction(insert("5"), by(app, "DROP FUNCTION", "DROP FUNCTION grab()",
				format.Object{Type: "function", Names: []string{"app", "grab"}}))
			s.transaction(insert("6"))
			stream := s.end()
			if !superuser {
				// Not before it may: then it says how to be allowed to.
				status, _, errs := env.Run(stream, "pgapply", "--adopt")
				if status != 77 || !strings.Contains(errs, "GRANT") {
					t.Fatalf("status %d: %s", status, errs)
				}
				with := ""
				if target.Major >= 16 {
					with = " WITH INHERIT TRUE, SET TRUE"
				}
				target.Exec("GRANT " + app + " TO mig_" + target.Name + with)
			}
			for range 2 {
				env.Must(stream, "pgapply", "--adopt")
			}
			if got := target.Query("SELECT string_agg(a, ' ' ORDER BY a) FROM t"); got != `1 2 3 4'\ 5 6` {
				t.Errorf("the target has %q", got)
			}
			if got := target.Query("SELECT who || ' ' || app.who() FROM app.x"); got != app+" "+app {
				t.Errorf("it ran as %q", got)
			}
			if got := target.Query("SELECT string_agg(DISTINCT tableowner::text, ',') FROM pg_tables WHERE schemaname = 'app'"); got != app {
				t.Errorf("the tables belong to %s", got)
			}
			if got := target.Query("SELECT rolsuper FROM pg_roles WHERE rolname = '" + app + "'"); got != "f" {
				t.Error("the role has become a superuser")
			}
		})
	}
}

// What is not the statement that the source has executed is not executed, or not committed.
func TestRecordedOther_P4(t *testing.T) {
	_, target := pgtest.Pair(t)
	app := guest(t, target, "app")
	env := pgtest.NewEnv(t, target, target)
	target.Exec("CREATE TABLE t (a text PRIMARY KEY)", "CREATE TABLE app.old (a int)", "ALTER TABLE app.old OWNER TO "+app)
	off := by(app, "CREATE TABLE", `CREATE TABLE z (a text DEFAULT '\'); CREATE TABLE evil (); --')`)
	off.Settings["standard_conforming_strings"] = "off"
	role := by(app, "CREATE TABLE", "CREATE TABLE y ()")
	role.Settings["role"] = "postgres"
	for name, c := range map[string]struct {
		ddl    *format.DDL
		status int
	}{
		"two statements":              {by(app, "CREATE TABLE", "CREATE TABLE x (); DROP TABLE t"), 1},
		"two statements, own role":    {by("", "CREATE TABLE", "CREATE TABLE app.x (); DROP TABLE public.t"), 1},
		"another command":             {by(app, "CREATE TABLE", "DROP TABLE old"), 1},
		"another object":              {by(app, "CREATE TABLE", "CREATE TABLE x ()", object("table", "app", "y")), 1},
		"not dropped":                 {by(app, "DROP TABLE", "DROP TABLE IF EXISTS nothing", object("table", "app", "old")), 1},
		"by other rules":              {by(app, "CREATE TABLE", `CREATE TABLE z (a text DEFAULT '\'); CREATE TABLE evil (); --')`), 1},
		"a setting that gives rights": {role, 78},
		"a role that is not there":    {by("nobody_"+target.Name, "CREATE TABLE", "CREATE TABLE x ()"), 78},
		"no right to it":              {by(app, "DROP TABLE", "DROP TABLE public.t", object("table", "public", "t")), 1},
		"undecided":                   {by(app, "CREATE TABLE", "DO $pgsluice$BEGIN RAISE EXCEPTION 'no'; END$pgsluice$"), 1},
		"undecided, and does not say so": {by(app, "CREATE TABLE",
			"DO $pgsluice$BEGIN RAISE EXCEPTION 'no'; EXCEPTION WHEN OTHERS THEN CREATE TABLE app.x (); END$pgsluice$"), 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScribe(t)
			s.write(relation("a"))
			s.transaction(insert(name), c.ddl)
			status, _, errs := env.Run(s.end(), "pgapply", "--adopt")
			if status != c.status || !strings.Contains(errs, "hint: ") {
				t.Errorf("status %d, want %d: %s", status, c.status, errs)
			}
			if got := target.Query("SELECT count(*) FROM t"); got != "0" {
				t.Errorf("the target has %s rows", got)
			}
			if got := target.Query("SELECT string_agg(relname, ' ') FROM pg_class WHERE relnamespace = 'app'::regnamespace AND relkind = 'r'"); got != "old" {
				t.Errorf("the target has %s", got)
			}
		})
	}
	s := newScribe(t)
	s.transaction(off)
	env.Must(s.end(), "pgapply", "--adopt")
	if got := target.Query("SELECT string_agg(relname, ' ') FROM pg_class WHERE relnamespace = 'app'::regnamespace AND relkind = 'r'"); got != "old z" &&
		got != "z old" {
		t.Errorf("the target has %s", got)
	}
}

// A statement means what it meant on the source, and what follows it is not changed by that.
func TestRecordedSettings_C19(t *testing.T) {
	_, target := pgtest.Pair(t)
	app := guest(t, target, "app")
	env := pgtest.NewEnv(t, target, target)
	target.Exec("CREATE TABLE t (a text PRIMARY KEY)")
	s := newScribe(t)
	s.write(relation("a"))
	for i, owner := range []string{app, ""} {
		d := by(owner, "CREATE TABLE",
			fmt.Sprintf(`CREATE TABLE app.s%d (a text DEFAULT 'it\'s', b text[] DEFAULT '{NULL}', c date DEFAULT '03/04/2020')`, i))
		d.Settings["standard_conforming_strings"], d.Settings["array_nulls"], d.Settings["DateStyle"] = "off", "off", "ISO, DMY"
		s.transaction(insert(fmt.Sprintf(`\%d'`, i)), d, insert(fmt.Sprintf(`%d\'`, i)))
	}
	env.Must(s.end(), "pgapply", "--adopt")
	for i := range 2 {
		target.Exec(fmt.Sprintf("INSERT INTO app.s%d DEFAULT VALUES", i))
		if got := target.Query(fmt.Sprintf("SELECT a, b[1] = 'NULL', c = '2020-04-03' FROM app.s%d", i)); got != "it's\tt\tt" {
			t.Errorf("%d: %s", i, got)
		}
	}
	if got := target.Query("SELECT count(*) FROM t"); got != "4" {
		t.Errorf("%s rows", got)
	}
}

// Rows that come after a statement in its transaction are read as those before it, whatever
// encoding the target has and whatever the role presets.
func TestRecordedEncoding_C19(t *testing.T) {
	target := pgtest.Target(t).Database(t, "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
	app := guest(t, target, "app")
	env := pgtest.NewEnv(t, target, target)
	target.Exec("CREATE TABLE t (a text PRIMARY KEY)")
	s := newScribe(t)
	s.write(relation("a"))
	s.transaction(insert("é1"), by(app, "CREATE TABLE", "CREATE TABLE x ()"), insert("é2"),
		by("", "CREATE TABLE", "CREATE TABLE y ()"), insert("é3"))
	env.Must(s.end(), "pgapply", "--adopt")
	if got := target.Query("SELECT string_agg(length(a)::text, ' ') FROM t"); got != "2 2 2" {
		t.Errorf("the texts have %s characters", got)
	}
}

// Neither a message nor the target's own table shows a statement that may have a password in it.
func TestRecordedPassword_P9(t *testing.T) {
	_, target := pgtest.Pair(t)
	env := pgtest.NewEnv(t, target, target)
	target.Exec("CREATE TABLE t (a text PRIMARY KEY)")
	s := newScribe(t)
	s.write(relation("a"))
	s.transaction(insert("1"), by("", "CREATE USER MAPPING",
		"CREATE USER MAPPING FOR CURRENT_USER SERVER nothing OPTIONS (password 'hidden')"))
	stream := s.end()
	status, _, errs := env.Run(stream, "pgapply", "--adopt")
	if status != 1 || strings.Contains(errs, "hidden") || !strings.Contains(errs, "CREATE USER MAPPING") {
		t.Errorf("status %d: %s", status, errs)
	}
	env.Must(stream, "pgapply", "--adopt", "--skip-lsn", "0/1100")
	if got := target.Query("SELECT count(*) FROM pgsluice.conflicts WHERE reason LIKE '%hidden%' OR tuple::text LIKE '%hidden%'"); got != "0" {
		t.Error("it stands in pgsluice.conflicts")
	}
}

// A constant whose type checks it by a function is checked when the statement is parsed, before it
// is executed.
func TestRecordedParsed_P3(t *testing.T) {
	_, target := pgtest.Pair(t)
	app := guest(t, target, "app")
	env := pgtest.NewEnv(t, target, target)
	s := newScribe(t)
	s.transaction(by(app, "CREATE FUNCTION", `CREATE FUNCTION app.checked(int) RETURNS bool LANGUAGE plpgsql AS $f$ BEGIN
			BEGIN
				RESET ROLE;
				ALTER ROLE `+app+` SUPERUSER;
			EXCEPTION WHEN OTHERS THEN NULL;
			END;
			RETURN true;
		END $f$`),
		by(app, "CREATE DOMAIN", "CREATE DOMAIN app.d AS int CHECK (app.checked(VALUE))"),
		by(app, "CREATE TABLE AS", "CREATE TABLE app.x AS SELECT '{1}'::app.d[] AS a"),
		by(app, "CREATE TABLE", "CREATE TABLE app.y (a app.d[] DEFAULT '{1}')"))
	env.Must(s.end(), "pgapply", "--adopt")
	if got := target.Query("SELECT rolsuper FROM pg_roles WHERE rolname = '" + app + "'"); got != "f" {
		t.Error("the role has become a superuser")
	}
	if got := target.Query("SELECT count(*) FROM app.x"); got != "1" {
		t.Errorf("%s rows", got)
	}
}

// In a transaction that is written ahead of its commit, beside others.
func TestRecordedAhead_P3(t *testing.T) {
	_, target := pgtest.Pair(t)
	app := guest(t, target, "app")
	env := pgtest.NewEnv(t, target, target)
	target.Exec("CREATE TABLE t (a text PRIMARY KEY)")
	pad := strings.Repeat("x", 1000)
	many := func(first int) (l []format.Record) {
		for i := range 3000 {
			l = append(l, insert(fmt.Sprintf("%d %s", first+i, pad)))
		}
		return l
	}
	s := newScribe(t)
	s.write(relation("a"))
	s.transaction(by(app, "CREATE FUNCTION", fmt.Sprintf(escape, app)))
	s.block(8, true, many(10000)...)
	s.block(9, true, many(40000)...)
	s.transaction(insert("1"), by(app, "CREATE TABLE AS", "CREATE TABLE a AS SELECT escape() AS who"), insert("2"))
	s.block(8, false, append([]format.Record{by(app, "CREATE TABLE AS", "CREATE TABLE b AS SELECT escape() AS who")}, many(20000)...)...)
	s.transaction(insert("3"))
	s.commit(8)
	s.commit(9)
	s.transaction(insert("4"))
	env.Must(s.end(), "pgapply", "--adopt")
	if got := target.Query("SELECT count(*) FROM t"); got != "9004" {
		t.Errorf("%s rows", got)
	}
	if got := target.Query("SELECT a.who || ' ' || b.who FROM app.a, app.b"); got != app+" "+app {
		t.Errorf("it ran as %q", got)
	}
}

// A schema that goes by another name on the target: the statement's text has the source's.
func TestRecordedRenamed(t *testing.T) {
	_, target := pgtest.Pair(t)
	app := guest(t, target, "app")
	env := pgtest.NewEnv(t, target, target)
	target.Exec("CREATE SCHEMA other", "CREATE TABLE app.x (a int)")
	s := newScribe(t)
	s.transaction(by(app, "CREATE TABLE", "CREATE TABLE y (a int)", object("table", "app", "y")))
	if status, _, errs := env.Run(s.end(), "pgapply", "--adopt", "--rename", "app=other"); status != 78 ||
		!strings.Contains(errs, "hint: ") {
		t.Errorf("status %d: %s", status, errs)
	}
	if got := target.Query("SELECT count(*) FROM pg_class WHERE relname = 'y'"); got != "0" {
		t.Error("it was executed")
	}
}
