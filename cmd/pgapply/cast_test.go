package main_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Values reach the target through the input functions of their types, and are compared as the key
// compares them. The casts that users have created are not called: they may do something else.
func TestCastsOfUsers(t *testing.T) {
	t.Parallel()
	var schema strings.Builder
	schema.WriteString(`CREATE SCHEMA app; CREATE EXTENSION citext SCHEMA app;
		CREATE TYPE app.status AS ENUM ('active', 'closed', 'a "b" \c, {}', 'NULL'); CREATE TYPE app.word AS ENUM ('one', 'two', 'three', 'four', 'five');
		CREATE DOMAIN app.kind AS app.word; CREATE DOMAIN app.state AS app.status; CREATE TYPE app.pair AS (a int, b text); CREATE DOMAIN app.note AS varchar(20);
		CREATE FUNCTION app.shown(app.word) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'same'::text $$;
		CREATE CAST (app.word AS text) WITH FUNCTION app.shown(app.word) AS IMPLICIT;`)
	types := []string{"app.status", "app.pair", "app.status[]", "date", "box", "pg_catalog.varchar[]"}
	for n, typ := range types {
		fmt.Fprintf(&schema, `CREATE FUNCTION app.f%d(text) RETURNS %s LANGUAGE sql IMMUTABLE AS 'SELECT NULL::%[2]s';
			CREATE CAST (text AS %[2]s) WITH FUNCTION app.f%[1]d(text);`, n, typ)
	}
	schema.WriteString(`CREATE TABLE t (id int PRIMARY KEY, s app.status, d app.state, p app.pair, r regclass, x date, b box, c app.citext, n app.note);
		CREATE TABLE arrays (id int PRIMARY KEY, l app.status[], v varchar[], p app.pair[]);
		CREATE TABLE k (w app.word PRIMARY KEY, n int); CREATE TABLE k2 (s app.state, i int, n int, PRIMARY KEY (s, i));
		CREATE TABLE k3 (w app.kind PRIMARY KEY, n int);
		CREATE TABLE later (id int PRIMARY KEY, w app.word, n int, UNIQUE (w, n) DEFERRABLE INITIALLY DEFERRED);
		CREATE TABLE bare (w app.word, s app.state, b box); ALTER TABLE bare REPLICA IDENTITY FULL;`)
	p := newSynced(t, schema.String())
	p.source.Exec(`INSERT INTO t SELECT i, 'closed', 'a "b" \c, {}', ROW(i, 'x,"y')::app.pair, 't'::regclass, '2020-01-01', '(1,1),(0,0)', 'Ab', 'long enough' FROM generate_series(1, 9) i`,
		"INSERT INTO t SELECT i, 'NULL', NULL, NULL, 1, NULL FROM generate_series(10, 19) i",
		"INSERT INTO t SELECT i, 'active', 'closed' FROM generate_series(1001, 1400) i",
		"INSERT INTO arrays SELECT i, '{active,NULL,closed}', '{a,b}', ARRAY[ROW(1, 'z')::app.pair] FROM generate_series(1, 9) i",
		"INSERT INTO k SELECT w, 1 FROM unnest(enum_range(NULL::app.word)) w", "INSERT INTO k3 TABLE k",
		"INSERT INTO later SELECT i, CASE WHEN i % 3 > 0 THEN 'one'::app.word END, CASE WHEN i % 3 > 0 THEN i ELSE 0 END FROM generate_series(1, 9) i",
		"INSERT INTO k2 SELECT 'closed', i, 1 FROM generate_series(1, 9) i",
		"INSERT INTO bare SELECT w, 'closed', '(1,1),(0,0)' FROM unnest(enum_range(NULL::app.word)) w")
	p.run()
	pgtest.Equal(t, p.source, p.target)
	p.source.Exec(`UPDATE t SET s = 'a "b" \c, {}', d = 'active', b = '(2,2),(0,0)' WHERE id < 15`, "UPDATE t SET s = 'closed' WHERE id = 1400",
		"UPDATE arrays SET l = '{closed}'", "UPDATE later SET n = n + 1", "UPDATE k SET n = 2", "UPDATE k3 SET n = 2",
		"UPDATE k2 SET n = 2 WHERE i < 5", "DELETE FROM k2 WHERE i > 5",
		"DELETE FROM k WHERE w::varchar = 'two'", "UPDATE k SET n = 3 WHERE w::varchar = 'one'",
		"UPDATE bare SET s = 'active' WHERE w::varchar = 'one'", "DELETE FROM bare WHERE w::varchar = 'three'")
	p.run()
	pgtest.Equal(t, p.source, p.target)
}
