package main_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A synced pair has the same tables on both sides, and a slot for the changes of the source.
type synced struct {
	t              *testing.T
	source, target *pgtest.DB
	env            *pgtest.Env
	slot           string
}

// newSynced creates tables on both sides.
func newSynced(t *testing.T, schema string) *synced {
	t.Helper()
	source, target := pgtest.Pair(t)
	s := &synced{t, source, target, pgtest.NewEnv(t, source, target), "s_" + source.Name}
	source.Exec(schema, "CREATE PUBLICATION "+s.slot+" FOR ALL TABLES")
	target.Exec(schema)
	source.Exec("SELECT pg_create_logical_replication_slot('" + s.slot + "', 'pgoutput')")
	return s
}

// run applies what the source has committed since the slot was created.
func (s *synced) run() {
	s.t.Helper()
	s.env.Must(s.env.Must(nil, "pgdecode", "--slot", s.slot, "--until", "now"), "pgapply", "--adopt")
}

// Of a table without a key, the row that a change is of is the same to the last character, and not
// only equal to the one that the change is of.
func TestFullIsTheSameText_C14(t *testing.T) {
	t.Parallel()
	// Rows that are equal, with texts that differ, and one that the column's type knows no equality
	// for.
	values := []struct{ name, typ, a, b string }{
		{"interval", "interval", "1 mon", "30 days"},
		{"numeric", "numeric", "1.50", "1.5"},
		{"double", "float8", "-0", "0"},
		{"single", "float4", "0", "-0"},
		{"object", "jsonb", `{"a": 1.0}`, `{"a": 1}`},
		{"insensitive", "citext", "Ab", "aB"},
		{"blanks", "bpchar", "a", "a "},
		{"numbers", "numeric[]", "{1.0,2}", "{1,2.00}"},
		{"ranges", "numrange", "[1.0,2)", "[1,2.0)"},
		{"amount", "amount", "3.0", "3.00"},
		{"fields", "fields", "(1.0,x)", "(1,x)"},
		{"nothing", "fields", "(,)", ""}, // b is NULL
		{"document", "json", `{"a":1}`, `{"a": 1}`},
		{"markup", "xml", "<a/>", "<a></a>"},
		{"area", "box", "(2,2),(0,0)", "(4,1),(0,0)"},
		{"numbered", "interval[]", "{24:00:00}", "{\"1 day\"}"},
	}
	var schema strings.Builder
	schema.WriteString("CREATE EXTENSION citext; CREATE DOMAIN amount AS numeric; CREATE TYPE fields AS (n numeric, t text);")
	s := pgtest.Source(t)
	if s.Major >= 12 && pgtest.Target(t).Major >= 12 {
		schema.WriteString("CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);")
		values = append(values, struct{ name, typ, a, b string }{"collated", "text COLLATE ci", "Ab", "aB"})
	}
	for _, v := range values {
		fmt.Fprintf(&schema, "CREATE TABLE t_%s (v %s, n int); ALTER TABLE t_%[1]s REPLICA IDENTITY FULL; INSERT INTO t_%[1]s VALUES ('%[3]s', 0), (nullif('%[4]s', '')::%[5]s, 0), ('%[3]s', 0), ('%[3]s', 5), (nullif('%[4]s', '')::%[5]s, 5);",
			v.name, v.typ, v.a, v.b, strings.TrimSuffix(v.typ, " COLLATE ci"))
		if v.typ != "json" && v.typ != "xml" && v.typ != "box" {
			fmt.Fprintf(&schema, "CREATE INDEX ON t_%s (v);", v.name)
		}
	}
	p := newSynced(t, schema.String())
	for _, v := range values {
		// Whichever an index or a scan comes to first, these rows are meant.
		p.source.Exec(fmt.Sprintf("DELETE FROM t_%s WHERE ctid = '(0,2)'", v.name),
			fmt.Sprintf("UPDATE t_%s SET n = 6 WHERE ctid = '(0,5)'", v.name),
			fmt.Sprintf("INSERT INTO t_%s VALUES ('%s', 7)", v.name, v.a))
	}
	p.run()
	pgtest.Equal(t, p.source, p.target)
}

// Keys of types whose equality is not PostgreSQL's own find their rows, by the index of the key.
func TestKeysOfOtherOperators_C15(t *testing.T) {
	t.Parallel()
	const schema = `CREATE SCHEMA x; CREATE EXTENSION ltree SCHEMA x; CREATE EXTENSION isn SCHEMA x; CREATE EXTENSION citext SCHEMA x; CREATE EXTENSION hstore SCHEMA x; CREATE EXTENSION cube SCHEMA x;
		CREATE FUNCTION x.half(a int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a / 2';
		CREATE TYPE x.pt AS (a int, b int);
		CREATE FUNCTION x.pt_cmp(p x.pt, q x.pt) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT pg_catalog.btint4cmp(p.a * 1000 + p.b, q.a * 1000 + q.b)';
		CREATE FUNCTION x.pt_lt(p x.pt, q x.pt) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT x.pt_cmp(p, q) < 0';
		CREATE FUNCTION x.pt_le(p x.pt, q x.pt) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT x.pt_cmp(p, q) <= 0';
		CREATE FUNCTION x.pt_eq(p x.pt, q x.pt) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN x.pt_cmp(p, q) = 0; END';
		CREATE FUNCTION x.pt_ge(p x.pt, q x.pt) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT x.pt_cmp(p, q) >= 0';
		CREATE FUNCTION x.pt_gt(p x.pt, q x.pt) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT x.pt_cmp(p, q) > 0';
		CREATE OPERATOR x.<<< (LEFTARG = x.pt, RIGHTARG = x.pt, FUNCTION = x.pt_lt);
		CREATE OPERATOR x.<<= (LEFTARG = x.pt, RIGHTARG = x.pt, FUNCTION = x.pt_le);
		CREATE OPERATOR x.=== (LEFTARG = x.pt, RIGHTARG = x.pt, FUNCTION = x.pt_eq, COMMUTATOR = OPERATOR(x.===));
		CREATE OPERATOR x.>>= (LEFTARG = x.pt, RIGHTARG = x.pt, FUNCTION = x.pt_ge);
		CREATE OPERATOR x.>>> (LEFTARG = x.pt, RIGHTARG = x.pt, FUNCTION = x.pt_gt);
		CREATE OPERATOR CLASS x.pt_ops DEFAULT FOR TYPE x.pt USING btree AS OPERATOR 1 x.<<<, OPERATOR 2 x.<<=, OPERATOR 3 x.===, OPERATOR 4 x.>>=, OPERATOR 5 x.>>>, FUNCTION 1 x.pt_cmp(x.pt, x.pt);
		CREATE DOMAIN x.path AS x.ltree;
		CREATE TABLE trees (k x.ltree PRIMARY KEY, n int); CREATE TABLE books (k x.isbn13 PRIMARY KEY, n int); CREATE TABLE words (k x.citext PRIMARY KEY, n int);
		CREATE TABLE points (k x.pt PRIMARY KEY, n int); CREATE TABLE paths (k x.path, l int, n int, PRIMARY KEY (l, k));
		CREATE TYPE x.pair AS (a int, b numeric); CREATE TABLE pairs (k x.pair PRIMARY KEY, n int);
		CREATE TABLE bags (k x.hstore, c x.cube, t x.ltree, n int); ALTER TABLE bags REPLICA IDENTITY FULL;
		CREATE TABLE whole (k x.ltree PRIMARY KEY, n int); ALTER TABLE whole REPLICA IDENTITY FULL;`
	p := newSynced(t, schema)
	const rows = 40
	all := func(sql string) {
		for table, key := range map[string]string{"trees": "('a.b' || i)::x.ltree",
			"books": "('978030640' || lpad(i::text, 3, '0') || '?')::x.isbn13",
			"words": "('W' || i)::x.citext", "points": "ROW(i, i)::x.pt", "pairs": "ROW(i, i)::x.pair",
			"paths": "('a.c' || i)::x.ltree", "bags": "('k=>' || i)::x.hstore", "whole": "('w.b' || i)::x.ltree"} {
			more, values := "", ""
			switch table {
			case "paths":
				more, values = "l, ", "i, "
			case "bags":
				more, values = "c, t, ", "('(' || i || ')')::x.cube, ('z.y' || i)::x.ltree, "
			}
			p.source.Exec("SET search_path = x, public; " +
				strings.NewReplacer("{table}", "public."+table, "{key}", key, "{more}", more, "{values}",
					values).Replace(sql))
		}
	}
	all(fmt.Sprintf("INSERT INTO {table} (k, {more}n) SELECT {key}, {values}0 FROM generate_series(1, %d) i", rows))
	p.run()
	// Many at once, a few, one; deletes; and keys that change, for citext only in their case.
	all("UPDATE {table} SET n = 1; UPDATE {table} t SET n = 2 FROM generate_series(3, 4) i WHERE t.k::text = ({key})::text; DELETE FROM {table} t USING generate_series(10, 20) i WHERE t.k::text = ({key})::text")
	all("DELETE FROM {table} t USING generate_series(21, 21) i WHERE t.k::text = ({key})::text")
	p.source.Exec("UPDATE words SET k = 'w1' WHERE k::text = 'W1'; UPDATE trees SET k = 'new' WHERE k::text = 'a.b1'; UPDATE words SET n = 5 WHERE k::text = 'w1'; UPDATE pairs SET k = ROW(1, 1.0)::x.pair WHERE k::text = '(1,1)'; UPDATE points SET k = ROW(1, 999)::x.pt WHERE k::text = '(1,1)'")
	p.run()
	pgtest.Equal(t, p.source, p.target)
	pgtest.Wait(t, 20*time.Second, "the index of each key has been used", func() bool {
		return p.target.Query("SELECT count(*) FROM pg_stat_user_indexes WHERE indexrelname ~ '_pkey$' AND schemaname = 'public' AND idx_scan = 0") == "0"
	})
}
