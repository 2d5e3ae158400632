package main_test

import (
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Text of a database that is not UTF-8 is converted by the servers, names included.
func TestLatin1(t *testing.T) {
	source := pgtest.Source(t).Database(t, "ENCODING 'LATIN1' TEMPLATE template0")
	const utf8 = "&client_encoding=UTF8"
	source.URI += utf8
	source.Exec(`CREATE TABLE "Bücher" ("größe" text, PRIMARY KEY ("größe")); INSERT INTO "Bücher" VALUES ('äöü'), ('ÿ'); COMMENT ON TABLE "Bücher" IS 'schön'`)
	for _, encoding := range []string{"UTF8", "LATIN1"} {
		target := pgtest.Target(t).Database(t, "ENCODING '"+encoding+"' TEMPLATE template0")
		target.URI += utf8
		load(t, pgtest.NewEnv(t, source, target))
		const all = `SELECT "größe" FROM "Bücher" ORDER BY 1`
		if a, b := source.Query(all), target.Query(all); a != b {
			t.Errorf("%s: %q on the source, %q on the target", encoding, a, b)
		}
		const comment = `SELECT obj_description('"Bücher"'::regclass)`
		if got := target.Query(comment); got != "schön" {
			t.Errorf("%s: the comment is %q", encoding, got)
		}
	}
}

// Nobody knows what the text of an SQL_ASCII database is: its bytes arrive as they were, or nothing
// is written at all.
func TestSQLASCII(t *testing.T) {
	source := pgtest.Source(t).Database(t, "ENCODING 'SQL_ASCII' TEMPLATE template0")
	// A name and a value in LATIN1.
	name := string([]byte("\"n\xe4me\""))
	source.Exec("CREATE TABLE "+name+" (id int PRIMARY KEY, v text)",
		"INSERT INTO "+name+" VALUES (1, convert_from('\\xe4f6fc', 'SQL_ASCII'))",
		"CREATE TABLE plain (v text)")
	same := pgtest.Target(t).Database(t, "ENCODING 'SQL_ASCII' TEMPLATE template0")
	load(t, pgtest.NewEnv(t, source, same))
	if got := same.Query("SELECT encode(v::bytea, 'hex') FROM " + name); got != "e4f6fc" {
		t.Errorf("the bytes are %s", got)
	}

	target := pgtest.Target(t).Database(t, "")
	e := pgtest.NewEnv(t, source, target)
	_, said, _, status := pipe(e, nil, nil)
	if status != 78 || !strings.Contains(said, "SQL_ASCII") || !strings.Contains(said, "--encoding") {
		t.Errorf("exit status %d\n%s", status, said)
	}
	if got := target.Query("SELECT count(*) FROM pg_class WHERE relname = 'plain'"); got != "0" {
		t.Error("something was written")
	}

	// Whoever knows it can say so.
	loadInto(t, e, []string{"--encoding", "LATIN1"})
	if got := target.Query(`SELECT v FROM "näme"`); got != "äöü" {
		t.Errorf("got %q", got)
	}
}

// Rows that users have put into an extension's configuration tables belong to the database; those
// that the extension brings do not.
func TestExtensionConfiguration(t *testing.T) {
	source, target := pgtest.Pair(t)
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("CREATE EXTENSION hstore", "CREATE TABLE settings (id int PRIMARY KEY, theirs bool)", "CREATE TABLE internals (id int)",
			"INSERT INTO settings VALUES (1, true), (2, true)", "INSERT INTO internals VALUES (1)",
			"ALTER EXTENSION hstore ADD TABLE settings", "ALTER EXTENSION hstore ADD TABLE internals",
			"UPDATE pg_extension SET extconfig = ARRAY['settings'::regclass::oid], extcondition = ARRAY['WHERE NOT theirs'] WHERE extname = 'hstore'")
	}
	source.Exec("INSERT INTO settings VALUES (3, false), (4, false)", "INSERT INTO internals VALUES (2)")
	e := pgtest.NewEnv(t, source, target)
	load(t, e, "--slot", source.Name)
	pgtest.EqualTable(t, source, target, "settings")
	if got := target.Query("SELECT count(*) FROM internals"); got != "1" {
		t.Errorf("a table of the extension's own has %s rows", got)
	}
	// Again, with the rows that were loaded in the way.
	source.Exec("INSERT INTO settings VALUES (5, false)")
	load(t, e, "--slot", source.Name, "--table", "settings", "--reload")
	pgtest.EqualTable(t, source, target, "settings")
}
