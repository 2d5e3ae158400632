package ddl

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/sqltext"
	"github.com/pgsluice/pgsluice/format"
)

func TestStatement(t *testing.T) {
	for _, c := range []struct {
		query, tag string
		nth        int
		want       string // empty: it cannot be told
	}{
		{"ALTER TABLE t ADD a int", "ALTER TABLE", 1, "ALTER TABLE t ADD a int"},
		{" -- why\n ALTER TABLE t ADD a int ; \n", "ALTER TABLE", 1, "-- why\n ALTER TABLE t ADD a int"},
		{"ALTER TABLE t ADD a int; INSERT INTO t VALUES (1); CREATE INDEX ON t (a)", "CREATE INDEX", 2, "CREATE INDEX ON t (a)"},
		{"ALTER TABLE t ADD a int; INSERT INTO t VALUES (1); CREATE INDEX ON t (a)", "ALTER TABLE", 1, "ALTER TABLE t ADD a int"},
		{"create table a (); drop table a", "CREATE TABLE", 3, ""}, // no client's query has so many
		{"CREATE ROLE x; CREATE TABLE t (a text DEFAULT ';''')", "CREATE TABLE", 1, "CREATE TABLE t (a text DEFAULT ';''')"},
		{"SELECT 1; SELECT * INTO u FROM t", "SELECT INTO", 1, "SELECT * INTO u FROM t"},
		{"BEGIN; ALTER TABLE t ADD a int; COMMIT", "ALTER TABLE", 1, "ALTER TABLE t ADD a int"},
		// the count outlives a commit
		{"ALTER TABLE t ADD a int; COMMIT; ALTER TABLE t ADD b int", "ALTER TABLE", 1, "ALTER TABLE t ADD a int"},
		{"ALTER TABLE t ADD a int; COMMIT; ALTER TABLE t ADD b int", "ALTER TABLE", 2, "ALTER TABLE t ADD b int"},
		// and no rollback
		{"ALTER TABLE t ADD a int; ROLLBACK; ALTER TABLE t ADD b int", "ALTER TABLE", 1, ""},
		{"BEGIN; ROLLBACK; ALTER TABLE t ADD a int; COMMIT; ALTER TABLE t ADD b int; ROLLBACK", "ALTER TABLE",
			2, "ALTER TABLE t ADD b int"},
		{"ALTER TABLE t ADD a int; RESET ALL; ALTER TABLE t ADD b int", "ALTER TABLE", 1, ""},
		{"SET session_replication_role = replica; DROP TABLE a; RESET session_replication_role; DROP TABLE b", "DROP TABLE", 1, ""},
		{"SET standard_conforming_strings = off; CREATE TABLE a (b text DEFAULT 'x')", "CREATE TABLE", 1, ""},
		{"GRANT a TO b; GRANT SELECT ON database TO b; GRANT CREATE ON DATABASE d TO b; GRANT SELECT ON t TO b",
			"GRANT", 2, "GRANT SELECT ON t TO b"},
		{"COMMENT ON EVENT TRIGGER e IS ''; COMMENT ON TABLE t IS ''", "COMMENT", 1, "COMMENT ON TABLE t IS ''"},
		{"REINDEX TABLE t; CREATE INDEX ON t (a)", "CREATE INDEX", 1, "CREATE INDEX ON t (a)"},
		{"WITH x AS (SELECT 1) SELECT * INTO u FROM x; CREATE TABLE t AS TABLE u", "CREATE TABLE AS", 2, "CREATE TABLE t AS TABLE u"},
		{"(SELECT 1 AS a INTO u); CREATE TABLE t ()", "CREATE TABLE", 1, ""},
		{"SELECT f()", "ALTER TABLE", 1, ""},
		{"", "ALTER TABLE", 1, ""},
		{"DROP TABLE x; ALTER TABLE t ADD a int", "DROP TABLE", 2, ""},
		{`ALTER TABLE "a;b" ADD "c""; d" int; DROP TABLE x`, "ALTER TABLE", 1, `ALTER TABLE "a;b" ADD "c""; d" int`},
		{`COMMENT ON TABLE t IS E'it\'s; '; DROP TABLE x`, "COMMENT", 1, `COMMENT ON TABLE t IS E'it\'s; '`},
		{`COMMENT ON TABLE t IS 'back\'; DROP TABLE x`, "COMMENT", 1, `COMMENT ON TABLE t IS 'back\'`},
		{"CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $x$ SELECT 1; $x$; DROP TABLE x", "CREATE FUNCTION",
			1, "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $x$ SELECT 1; $x$"},
		{"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END; DROP TABLE x",
			"DROP TABLE", 2, "DROP TABLE x"},
		{"CREATE RULE r AS ON INSERT TO t DO (DELETE FROM a; DELETE FROM b); DROP TABLE x", "DROP TABLE", 2, "DROP TABLE x"},
		{"/* a /* nested; */ ; */ DROP TABLE x; DROP TABLE y", "DROP TABLE", 2, "DROP TABLE y"},
		{"CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)", "CREATE INDEX", 1, "CREATE UNIQUE INDEX  i ON t (a)"},
		{"DROP INDEX CONCURRENTLY i", "DROP INDEX", 1, "DROP INDEX  i"},
		{"ALTER TABLE p DETACH PARTITION c CONCURRENTLY", "ALTER TABLE", 1, "ALTER TABLE p DETACH PARTITION c"},
		{`CREATE TABLE "concurrently" (concurrently int)`, "CREATE TABLE", 1, `CREATE TABLE "concurrently" (concurrently int)`},
		{"ALTER TABLE t ADD a int DEFAULT $1", "ALTER TABLE", 1, "ALTER TABLE t ADD a int DEFAULT $1"},
		{"CREATE TABLE t (a int); SELECT 'never ended", "CREATE TABLE", 1, "CREATE TABLE t (a int)"},
		{"CREATE USER u; CREATE USER MAPPING FOR u SERVER s", "CREATE USER MAPPING", 1, "CREATE USER MAPPING FOR u SERVER s"},
	} {
		m := recorded{Tag: c.tag, Nth: c.nth, Fixed: true}
		s, ok := m.statement(c.query, sqltext.Rules{})
		got := s.Text
		if ok != (c.want != "") || ok && got != c.want {
			t.Errorf("%s, %s %d:\ngot  %q, %v\nwant %q", c.query, c.tag, c.nth, got, ok, c.want)
		}
	}
}

// A statement that a function executes in a loop goes on being counted.
func TestInner(t *testing.T) {
	m := recorded{Level: "inner", Tag: "CREATE TABLE", Nth: 3}
	if s, ok := m.statement("create table a (); drop table a", sqltext.Rules{}); !ok || s.Text != "create table a ()" {
		t.Errorf("%q, %v", s.Text, ok)
	}
}

// A query whose statements end elsewhere by the other rules is only cut if nothing has changed the
// rules.
func TestBackslash_P4(t *testing.T) {
	const query = `select '\'; create table a as select 1; --'; create table b (c int)`
	for _, c := range []struct {
		backslash, fixed bool
		tag, want        string
	}{
		{true, true, "CREATE TABLE", "create table b (c int)"},
		{true, false, "CREATE TABLE", ""},
		{false, true, "CREATE TABLE AS", "create table a as select 1"},
		{false, true, "CREATE TABLE", ""}, // not what the trigger saw
		{false, false, "CREATE TABLE AS", ""},
	} {
		m := recorded{Tag: c.tag, Nth: 1, Fixed: c.fixed}
		if s, ok := m.statement(query, sqltext.Rules{Backslash: c.backslash}); ok != (c.want != "") || ok && s.Text != c.want {
			t.Errorf("%+v: %q, %v", c, s.Text, ok)
		}
	}
}

func row(t *testing.T, m map[string]any) []byte {
	t.Helper()
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDecode(t *testing.T) {
	d := Decode([]byte("DROP TABLE a; DROP TABLE b"),
		row(t, map[string]any{"nth": 2, "tag": "DROP TABLE", "path": []string{"S", "public", "pg_temp_3"},
			"role":     "me",
			"settings": map[string]any{"standard_conforming_strings": "on", "unknown": nil},
			"objects":  []any{[]any{"table", []string{"public", "b"}, []string{}}}}))
	if d.SQL != "DROP TABLE b;" || d.SearchPath != `"S", public` || d.Owner != "me" ||
		d.Type != "DROP TABLE" || d.Section != format.Change ||
		len(d.Settings) != 1 || d.Settings["standard_conforming_strings"] != "on" || len(d.Objects) != 1 ||
		d.Objects[0].Type != "table" || d.Objects[0].Names[1] != "b" {
		t.Errorf("%+v", d)
	}
	if d := Decode([]byte("GRANT USAGE ON SCHEMA pgsluice TO x"), row(t, map[string]any{"nth": 1, "tag": "GRANT"})); d != nil {
		t.Errorf("%+v", d)
	}
}

// What cannot be told fails by tag and object, and the record has nothing of what ran beside it.
func TestDecodeFails_P9(t *testing.T) {
	for _, c := range []struct {
		query string
		row   []byte
		want  string
	}{
		{"SELECT f('secret')", row(t, map[string]any{"nth": 1, "tag": "DROP TABLE",
			"objects": []any{[]any{"table", []string{"public", "100%'s"}, nil}}}), "public.100%%''s"},
		{"CREATE USER x PASSWORD 'secret'; (SELECT 1); DROP TABLE a", row(t, map[string]any{"nth": 1, "tag": "DROP TABLE"}), "DROP TABLE"},
		{"DROP TABLE secret", []byte("{"), "not known"},
		{"DROP TABLE secret", []byte(`{"nth":1,"tag":"DROP TABLE","role":"` + "\xff" + `"}`), "DROP TABLE"},
	} {
		d := Decode([]byte(c.query), c.row)
		if !strings.HasPrefix(d.SQL, "DO $pgsluice$BEGIN RAISE EXCEPTION 'the source") ||
			!strings.Contains(d.SQL, c.want) || strings.Contains(d.SQL, "secret") {
			t.Errorf("%s: %+v", c.query, d)
		}
	}
}
