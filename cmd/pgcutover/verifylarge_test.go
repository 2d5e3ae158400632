package main

import (
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Rows whose text would be longer than the server can make are compared by their columns.
func TestVerifyLargeRows_C18(t *testing.T) {
	pgtest.Long(t)
	source, target := pgtest.Pair(t)
	if source.Major < 12 || target.Major < 12 {
		t.Skip("generated columns exist from PostgreSQL 12 on")
	}
	m := begin(t, source, target)
	// Both sides make the values themselves: the text of the row would have 1.08 GB.
	const value = "bytea GENERATED ALWAYS AS (decode(repeat('00', n), 'hex')) STORED"
	source.Exec("CREATE TABLE large (id int PRIMARY KEY, n int, a "+value+", b "+value+")",
		"INSERT INTO large VALUES (1, 270000000), (2, 1)")
	m.load()
	m.cut(0, "wait", "caught-up", "--timeout", "30s", "--lag", "0")
	m.cut(0, "fence")
	m.cut(0, "drain")
	out, _ := m.cut(0, "verify")
	says(t, out, "equal\tpublic.large\t2\n")
	target.Exec("UPDATE large SET n = 2 WHERE id = 2")
	out, _ = m.cut(1, "verify")
	says(t, out, "row\tpublic.large\t(2)\tdifferent\n")
}

// A table of which no query can be planned, for a function of an index of its own that relies on
// its caller's search path, is compared all the same, without calling that function. One that
// cannot be read at all is named, and the others are compared.
func TestVerifyPathOfFunctions_C11(t *testing.T) {
	source, target := pgtest.Pair(t)
	const schema = "CREATE SCHEMA app; SET search_path = app; CREATE FUNCTION mul(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';" +
		"CREATE FUNCTION twice(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT mul($1)'; CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY);"
	source.Exec(schema+" CREATE INDEX ON t (app.twice(id))", "INSERT INTO app.u VALUES (1), (2)")
	if _, err := source.Try("SET search_path = app; INSERT INTO t VALUES (1, ''), (2, NULL), (3, E'a\\n\\\\')"); err != nil {
		t.Fatal(err)
	}
	target.Exec(schema + " ALTER FUNCTION twice SET search_path = app; CREATE INDEX ON t (app.twice(id))")
	m := &migration{source: source, target: target, slot: "mig_" + source.Name, Env: pgtest.NewEnv(t, source, target)}
	m.Bash("pgextract --data-only --slot " + m.slot + " | pgapply")
	m.startSync()
	m.cut(0, "wait", "caught-up", "--timeout", "30s", "--lag", "0")
	m.cut(0, "fence")
	m.cut(0, "drain")
	out, _ := m.cut(0, "verify")
	says(t, out, "equal\tapp.t\t3\n", "equal\tapp.u\t2\n")
	target.Exec("UPDATE app.t SET v = E'\\\\N\\t' WHERE id = 2")
	out, _ = m.cut(1, "verify")
	says(t, out, "different\tapp.t\t3 rows", "equal\tapp.u\t2\n")
	target.Exec("UPDATE app.t SET v = NULL WHERE id = 2")
	m.cut(0, "verify")
}
