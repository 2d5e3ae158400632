package e2e

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/format"
)

// statements returns the ddl records of a stream, and its raw bytes as text.
func statements(t *testing.T, stream []byte) (list []*format.DDL) {
	t.Helper()
	r := format.NewReader(bytes.NewReader(stream))
	for {
		rec, err := r.Next()
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		if d, ok := rec.(*format.DDL); ok {
			list = append(list, d)
		}
	}
}

// recordingSource makes a source with a slot whose changes of the schema are recorded, or skips the
// test on servers that cannot.
func recordingSource(t *testing.T) (*pgtest.DB, *pgtest.Env) {
	t.Helper()
	server := pgtest.Source(t)
	if server.Major < 14 {
		t.Skip("statements are recorded from 14 on")
	}
	source := server.Database(t, "")
	source.Exec("CREATE TABLE t (a int PRIMARY KEY)")
	env := &pgtest.Env{T: t, Dir: pgtest.Programs(t, false), Source: source.URI}
	env.Must(nil, "pgextract", "--slot", source.Name, "--data-only")
	return source, env
}

// role makes a role of a database's server that goes with the test.
func role(t *testing.T, d *pgtest.DB, name, options string) string {
	t.Helper()
	name += "_" + d.Name
	d.Exec("CREATE ROLE " + name + " LOGIN " + options)
	t.Cleanup(func() {
		_, _ = d.Try("BEGIN READ WRITE; DROP OWNED BY " + name + "; COMMIT")
		d.Exec("BEGIN READ WRITE; DROP ROLE " + name + "; COMMIT")
	})
	return name
}

// as runs SQL as another role, in a session of its own.
func as(d *pgtest.DB, name, sql string) (string, error) {
	other := *d
	other.URI = d.As(name, "")
	return other.Try(sql)
}

// Whoever may connect may write logical messages. None of them becomes a statement, and none stops
// what is decoded.
func TestForgedDDLMessage_P1_P2(t *testing.T) {
	t.Parallel()
	source, env := recordingSource(t)
	nobody := role(t, source, "nobody", "")
	forge := func() {
		t.Helper()
		for _, content := range []string{`{"query":"DROP TABLE t","nth":1,"tag":"DROP TABLE","search_path":"public","role":"postgres"}`,
			"garbage", "{", ""} {
			for _, prefix := range []string{"pgsluice.ddl", "pgsluice"} {
				if _, err := as(source, nobody, "SELECT pg_logical_emit_message(true, '"+prefix+"', '"+
					content+"'), pg_logical_emit_message(false, '"+prefix+"', '"+content+"')"); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	forge()
	env.Must(nil, "pgcutover", "ddl", "install")
	forge()
	source.Exec("ALTER TABLE t ADD b int", "INSERT INTO t VALUES (1, 2)")
	got := summary(t, env.Must(nil, "pgdecode", "--slot", source.Name, "--until", "now"))
	if want := "ALTER TABLE t ADD b int;\ncommit\nt 1\ncommit"; strings.Join(got, "\n") != want {
		t.Errorf("the stream has\n%s", strings.Join(got, "\n"))
	}
}

// Nobody but the triggers writes the table, whatever rights the installer's defaults or a
// predefined role would give, and nobody calls a function of ours.
func TestDDLRights_P1_P7(t *testing.T) {
	t.Parallel()
	source, env := recordingSource(t)
	app := role(t, source, "app", "IN ROLE pg_write_all_data, pg_read_all_data")
	source.Exec("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO "+app+
		"; ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO "+app+
		"; ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO "+app,
		"GRANT CREATE ON SCHEMA public TO "+app)
	for range 2 {
		env.Must(nil, "pgcutover", "ddl", "install")
	}
	for _, sql := range []string{
		"INSERT INTO pgsluice.ddl (query, statement) VALUES ('DROP TABLE t', '{\"nth\":1,\"tag\":\"DROP TABLE\",\"role\":\"postgres\"}')",
		"UPDATE pgsluice.ddl SET query = ''; SELECT pgsluice.record()",
		"SELECT pgsluice.note()", "SELECT pgsluice.sort()",
		"CREATE TRIGGER x BEFORE INSERT ON pgsluice.ddl FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
	} {
		if _, err := as(source, app, sql); err == nil {
			t.Errorf("%s: it is allowed", sql)
		}
	}
	if got := source.Query(`SELECT count(*) FROM pg_proc p WHERE pronamespace = 'pgsluice'::regnamespace AND (prorettype <> 'event_trigger'::regtype
		OR has_function_privilege('` + app + `', oid, 'EXECUTE') AND has_schema_privilege('` + app + `', 'pgsluice', 'USAGE') AND NOT pg_has_role('` + app + `', 'pg_read_all_data', 'USAGE'))`); got != "0" {
		t.Errorf("%s functions can be called by others", got)
	}
	// What a statement cannot see of its own must not be forged either.
	if _, err := as(source, app, `SET pgsluice.invoker = '{"role":"postgres","path":["public"]}'; SET pgsluice.dropped = '[["table",["public","t"],[]]]';
		CREATE FUNCTION public.json_build_object(text, name, text, name[]) RETURNS json LANGUAGE sql AS 'SELECT ''{"role":"postgres"}''::json'; SET search_path = public, pg_catalog;
		CREATE TABLE mine (); DROP TABLE IF EXISTS nothing`); err != nil {
		t.Fatal(err)
	}
	list := statements(t, env.Must(nil, "pgdecode", "--slot", source.Name, "--until", "now"))
	if len(list) != 2 || list[1].SQL != "CREATE TABLE mine ();" {
		t.Fatalf("%d statements: %+v", len(list), list)
	}
	for _, d := range list {
		if d.Owner != app {
			t.Errorf("%s is recorded as %q", d.SQL, d.Owner)
		}
	}
	if d := list[1]; len(d.Objects) != 1 || d.Objects[0].Type != "table" ||
		strings.Join(d.Objects[0].Names, ".") != "public.mine" || d.Type != "CREATE TABLE" {
		t.Errorf("%+v", d)
	}
	// If somebody is given the right after all, nothing is believed, and nothing is left out in
	// silence.
	source.Exec("GRANT INSERT ON pgsluice.ddl TO " + app)
	if status, _, errs := env.Run(nil, "pgdecode", "--slot", source.Name, "--until", "now"); status != 78 ||
		!strings.Contains(errs, "hint: ") {
		t.Errorf("status %d: %s", status, errs)
	}
	if status, _, _ := env.Run(nil, "pgcutover", "ddl", "check"); status != 78 {
		t.Errorf("check has status %d", status)
	}
	env.Must(nil, "pgcutover", "ddl", "install")
	env.Must(nil, "pgdecode", "--slot", source.Name, "--until", "now")
}

// A schema that somebody else has made beforehand is not used: its owner could replace what is in
// it.
func TestPreownedSchemaOnSource_P6(t *testing.T) {
	t.Parallel()
	source, env := recordingSource(t)
	app := role(t, source, "app", "")
	source.Exec("GRANT CREATE ON DATABASE " + source.Name + " TO " + app)
	if _, err := as(source, app, `CREATE SCHEMA pgsluice; CREATE TABLE pgsluice.ddl (id int PRIMARY KEY, query text, statement text);
		CREATE FUNCTION pgsluice.record() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'`); err != nil {
		t.Fatal(err)
	}
	if status, _, errs := env.Run(nil, "pgcutover", "ddl", "install"); status != 77 ||
		!strings.Contains(errs, app) || !strings.Contains(errs, "hint: ") {
		t.Errorf("status %d: %s", status, errs)
	}
	// A function alone, in a schema of a superuser's, is not taken over either.
	source.Exec("ALTER SCHEMA pgsluice OWNER TO postgres", "DROP TABLE pgsluice.ddl")
	if status, _, errs := env.Run(nil, "pgcutover", "ddl", "install"); status != 77 || !strings.Contains(errs, "pgsluice.record") {
		t.Errorf("status %d: %s", status, errs)
	}
	if n := source.Query("SELECT count(*) FROM pg_event_trigger"); n != "0" {
		t.Errorf("%s event triggers were made", n)
	}
	// A table of that name which is published is no record.
	source.Exec("CREATE TABLE pgsluice.ddl (id int PRIMARY KEY, query text, statement text)",
		"ALTER PUBLICATION "+source.Name+" ADD TABLE pgsluice.ddl",
		`INSERT INTO pgsluice.ddl VALUES (1, 'DROP TABLE t', '{"nth":1,"tag":"DROP TABLE","role":"postgres"}')`, "INSERT INTO t VALUES (1)")
	if got := summary(t, env.Must(nil, "pgdecode", "--slot", source.Name, "--until", "now")); strings.Join(got, "\n") != "t 1\ncommit" {
		t.Errorf("the stream has %q", got)
	}
}

// A slot that an ordinary role makes when the triggers are there carries what they record.
func TestDDLInstalledBefore_P7(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	server := pgtest.Source(t)
	if server.Major < 14 {
		t.Skip("statements are recorded from 14 on")
	}
	source := server.Database(t, "")
	env := &pgtest.Env{T: t, Dir: pgtest.Programs(t, false), Source: source.URI}
	app := role(t, source, "app", "REPLICATION")
	source.Exec("GRANT CREATE ON DATABASE "+source.Name+" TO "+app, "CREATE SCHEMA app AUTHORIZATION "+app)
	env.Must(nil, "pgcutover", "ddl", "install")
	source.Exec("CREATE TABLE app.t (a int PRIMARY KEY); ALTER TABLE app.t OWNER TO " + app)
	env.Source = source.As(app, "")
	env.Must(nil, "pgextract", "--slot", source.Name, "--data-only")
	if _, err := as(source, app, "ALTER TABLE app.t ADD b int"); err != nil {
		t.Fatal(err)
	}
	if got := summary(t, env.Must(nil, "pgdecode", "--slot", source.Name, "--until",
		"now")); strings.Join(got, "\n") != "ALTER TABLE app.t ADD b int;\ncommit" {
		t.Errorf("the stream has %q", got)
	}
	// Publications that nobody has asked it for stay as they are, and those of others, too.
	source.Exec("CREATE PUBLICATION other", "CREATE PUBLICATION another")
	if _, err := as(source, app, "SET pgsluice.carry = on; ALTER PUBLICATION other OWNER TO postgres"); err != nil {
		t.Log(err) // newer servers refuse it
	}
	if got := source.Query("SELECT string_agg(pubname, ',') FROM pg_publication_tables WHERE schemaname = 'pgsluice'"); got != source.Name {
		t.Errorf("pgsluice.ddl is in %s", got)
	}
}

// Recording begins and ends while pgdecode runs.
func TestDDLInstalledMeanwhile_P1(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, env := recordingSource(t)
	file := t.TempDir() + "/stream"
	p := env.Start(nil, nil, "pgdecode", "--slot", source.Name, "--output", file)
	pgtest.Wait(t, 30*time.Second, "the slot to be read", func() bool {
		return source.Query("SELECT active FROM pg_replication_slots WHERE slot_name = '"+source.Name+"'") == "t"
	})
	env.Must(nil, "pgcutover", "ddl", "install")
	source.Exec("ALTER TABLE t ADD b int")
	env.Must(nil, "pgcutover", "ddl", "uninstall") // waits until that has been read
	source.Exec("ALTER TABLE t ADD never int")
	env.Must(nil, "pgcutover", "ddl", "install")
	source.Exec("ALTER TABLE t ADD d int", "INSERT INTO t VALUES (1)")
	pgtest.Wait(t, 30*time.Second, "the row to arrive", func() bool {
		b, err := os.ReadFile(file)
		return err == nil && bytes.Contains(b, []byte("ADD d int"))
	})
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	p.Wait(soon)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := summary(t, b); strings.Join(got[:4], "\n") != "ALTER TABLE t ADD b int;\ncommit\nALTER TABLE t ADD d int;\ncommit" {
		t.Errorf("the stream has %q", got)
	}
}

// Several statements in one query, with the transaction around them in it, and what is beside them.
func TestTwoDDLOneQuery_P4_P9(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, env := recordingSource(t)
	app := role(t, source, "app", "")
	source.Exec("GRANT CREATE ON SCHEMA public TO " + app)
	env.Must(nil, "pgcutover", "ddl", "install")
	var want []string
	do := func(sql string, records ...string) {
		t.Helper()
		if _, err := as(source, "postgres", sql); err != nil {
			t.Fatal(err)
		}
		want = append(want, records...)
	}
	do("begin; insert into t values (2); drop table t; create table t(id int primary key, v text); commit",
		"drop table t;", "create table t(id int primary key, v text);")
	do("begin; create table a (x int); commit; create table b (x int); begin; create table c (x int); commit",
		"create table a (x int);", "create table b (x int);", "create table c (x int);")
	do("CREATE ROLE secret_"+source.Name+" PASSWORD 'hidden'; CREATE TABLE d (x int); DROP ROLE secret_"+
		source.Name, "CREATE TABLE d (x int);")
	do("do $$ begin perform 'hidden'; create table e (x int); end $$", "create table e (x int);")
	do("create function f() returns void language sql as 'create table g (x int)'",
		"create function f() returns void language sql as 'create table g (x int)';")
	do("select 'hidden', f()", "DO ")
	do("begin; create table h (x text default 'hidden'); rollback; create table h (x int); create table i (x int)", "DO ", "DO ")
	do("create table k (x int); set session_replication_role = replica; create table l (x int); set session_replication_role = origin; create table m (x int)",
		"DO ", "DO ")
	do("select E'a'\n'\\'; create table evil (x int); --'; create table n (x int)", "create table n (x int);")
	do("set standard_conforming_strings = off")
	do("comment on table n is 'x'; create table o (x int)", "comment on table n is 'x';", "create table o (x int);")
	do("do $$ begin execute 'create table p (x int); create table q (x int)'; execute 'create table r (x int)'; end $$",
		"create table p (x int);", "create table q (x int);", "create table r (x int);")
	do("do $$ begin begin execute 'create table s (x int); create table p (x int)'; exception when others then null; end; execute 'create table s (x int); create table u (x int)'; end $$",
		"create table s (x int);", "create table u (x int);")
	stream := env.Must(nil, "pgdecode", "--slot", source.Name, "--until", "now")
	var got []string
	for _, d := range statements(t, stream) {
		if strings.HasPrefix(d.SQL, "DO ") {
			d.SQL = "DO "
		}
		got = append(got, d.SQL)
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if bytes.Contains(stream, []byte("hidden")) {
		t.Error("the stream has what ran beside a statement")
	}
}

// A statement comes with the settings that it was read with.
func TestDDLSettings_C19(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, env := recordingSource(t)
	env.Must(nil, "pgcutover", "ddl", "install")
	source.Exec(`SET standard_conforming_strings = off; SET escape_string_warning = off; SET array_nulls = off; SET DateStyle = 'German'`)
	source.Exec("ALTER DATABASE " + source.Name + " SET standard_conforming_strings = off")
	source.Exec(`SET DateStyle = 'German'; CREATE TABLE u (a text DEFAULT 'it\'s; '); CREATE TABLE v (a int)`)
	list := statements(t, env.Must(nil, "pgdecode", "--slot", source.Name, "--until", "now"))
	if len(list) != 2 || list[0].SQL != `CREATE TABLE u (a text DEFAULT 'it\'s; ');` || list[1].SQL != "CREATE TABLE v (a int);" {
		t.Fatalf("%+v", list)
	}
	if s := list[0].Settings; s["standard_conforming_strings"] != "off" ||
		!strings.HasPrefix(s["DateStyle"], "German") || s["array_nulls"] != "on" {
		t.Errorf("%v", s)
	}
}
