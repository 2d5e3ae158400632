package ddl

import (
	"encoding/json"
	"strings"
	"testing"

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
		{"create table a (); drop table a", "CREATE TABLE", 3, "create table a ()"}, // executed again in a loop
		{"CREATE ROLE x; CREATE TABLE t (a text DEFAULT ';''')", "CREATE TABLE", 1, "CREATE TABLE t (a text DEFAULT ';''')"},
		{"SELECT 1; SELECT * INTO u FROM t", "SELECT INTO", 1, "SELECT * INTO u FROM t"},
		{"BEGIN; ALTER TABLE t ADD a int; COMMIT", "ALTER TABLE", 1, "ALTER TABLE t ADD a int"},
		{"ALTER TABLE t ADD a int; COMMIT; ALTER TABLE t ADD b int", "ALTER TABLE", 1, ""},
		{"SELECT f()", "ALTER TABLE", 1, ""},
		{"", "ALTER TABLE", 1, ""},
		{"DROP TABLE x; ALTER TABLE t ADD a int", "DROP TABLE", 2, ""},
		{`ALTER TABLE "a;b" ADD "c""; d" int; DROP TABLE x`, "ALTER TABLE", 1, `ALTER TABLE "a;b" ADD "c""; d" int`},
		{`COMMENT ON TABLE t IS E'it\'s; '; DROP TABLE x`, "COMMENT", 1, `COMMENT ON TABLE t IS E'it\'s; '`},
		{`COMMENT ON TABLE t IS 'back\'; DROP TABLE x`, "COMMENT", 1, `COMMENT ON TABLE t IS 'back\'`},
		{"CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $x$ SELECT 1; $x$; DROP TABLE x", "CREATE FUNCTION", 1, "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $x$ SELECT 1; $x$"},
		{"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END; DROP TABLE x", "DROP TABLE", 2, "DROP TABLE x"},
		{"CREATE RULE r AS ON INSERT TO t DO (DELETE FROM a; DELETE FROM b); DROP TABLE x", "DROP TABLE", 2, "DROP TABLE x"},
		{"/* a /* nested; */ ; */ DROP TABLE x; DROP TABLE y", "DROP TABLE", 2, "DROP TABLE y"},
		{"CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)", "CREATE INDEX", 1, "CREATE UNIQUE INDEX  i ON t (a)"},
		{"DROP INDEX CONCURRENTLY i", "DROP INDEX", 1, "DROP INDEX  i"},
		{"ALTER TABLE p DETACH PARTITION c CONCURRENTLY", "ALTER TABLE", 1, "ALTER TABLE p DETACH PARTITION c"},
		{`CREATE TABLE "concurrently" (concurrently int)`, "CREATE TABLE", 1, `CREATE TABLE "concurrently" (concurrently int)`},
		{"ALTER TABLE t ADD a int DEFAULT $1", "ALTER TABLE", 1, "ALTER TABLE t ADD a int DEFAULT $1"},
		{"CREATE TABLE t (a int); 'never ended", "CREATE TABLE", 1, "CREATE TABLE t (a int)"},
		{"CREATE USER u; CREATE USER MAPPING FOR u SERVER s", "CREATE USER MAPPING", 1, "CREATE USER MAPPING FOR u SERVER s"},
	} {
		got, ok := statement(c.query, c.tag, c.nth)
		if ok != (c.want != "") || ok && got != c.want {
			t.Errorf("%s, %s %d:\ngot  %q, %v\nwant %q", c.query, c.tag, c.nth, got, ok, c.want)
		}
	}
}

func TestDecode(t *testing.T) {
	b, err := json.Marshal(message{Query: "DROP TABLE a; DROP TABLE b", Nth: 2, Tag: "DROP TABLE", SearchPath: `"S", public`, Role: "me"})
	if err != nil {
		t.Fatal(err)
	}
	d, err := Decode(b)
	if err != nil || d.SQL != "DROP TABLE b;" || d.SearchPath != `"S", public` || d.Owner != "me" || d.Type != "DROP TABLE" || d.Section != format.Change {
		t.Errorf("%+v, %v", d, err)
	}
	b, err = json.Marshal(message{Query: "SELECT f('100%')", Nth: 1, Tag: "DROP TABLE"})
	if err != nil {
		t.Fatal(err)
	}
	if d, err = Decode(b); err != nil || !strings.HasPrefix(d.SQL, "DO $pgsluice$BEGIN RAISE EXCEPTION 'the source") || !strings.Contains(d.SQL, "''100%%''") {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := Decode([]byte("{")); err == nil {
		t.Error("nonsense was decoded")
	}
}

// Whatever a query is, its statements are parts of it, in order, and cutting it ends.
func FuzzSplit(f *testing.F) {
	for _, s := range []string{"a;b", "'", "$x$ ; $x$ ; y", "/* /* */", "E'\\'' ; x", "( ; )", "CREATE x BEGIN ATOMIC ; END ; y", "a CONCURRENTLY ;", "é;ü"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, q string) {
		rest := q
		for _, s := range split(q) {
			if len(s.words) == 0 {
				t.Fatal("a statement without words")
			}
			if strings.Contains(strings.ToUpper(s.text+q), "CONCURRENTLY") {
				continue
			}
			i := strings.Index(rest, s.text)
			if i < 0 {
				t.Fatalf("%q is not in what is left of %q", s.text, q)
			}
			rest = rest[i+len(s.text):]
		}
	})
}
