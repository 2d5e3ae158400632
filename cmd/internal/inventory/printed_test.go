package inventory_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// read returns a session on a database, and what Read finds there.
func read(t *testing.T, d *pgtest.DB) (*pgx.Conn, []inventory.Object) {
	t.Helper()
	ctx := pgtest.Context(t)
	c, err := pgdial.Server{Side: "source", DSN: d.URI, App: "test"}.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	list, err := inventory.Read(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	return c, list
}

// What is printed without the server's help is what the server prints.
func TestPrinted(t *testing.T) {
	d := pgtest.Source(t).Database(t, "")
	ctx := pgtest.Context(t)
	d.Exec(`CREATE SCHEMA "we ird"; CREATE TYPE mood AS ENUM ('a'); CREATE DOMAIN dom AS text;
		CREATE TABLE "we ird"."T a" (a int, "b b" text, c varchar(10), d text COLLATE "C", e int[], f jsonb, g point, h name, i inet, m mood, o dom, r int4range,
			x int DEFAULT 3, y text DEFAULT 'a' || 'b', z date DEFAULT current_date, s serial)`)
	for _, of := range []string{`(a)`, `(a, "b b")`, `(c)`, `(d)`, `USING gin (e)`, `USING gin (f)`, `USING gin (f jsonb_path_ops)`, `USING gist (g)`, `(h)`, `USING hash (a)`, `(a DESC)`, `(a NULLS FIRST)`,
		`("b b" text_pattern_ops)`, `("b b" COLLATE "C")`, `("b b" varchar_ops)`, `(a) WHERE a > 3`, `((a + 1))`, `(a, (a + 1))`, `(a) WITH (fillfactor = 50)`, `USING brin (a)`, `USING gist (i inet_ops)`,
		`USING spgist (g)`, `(i cidr_ops)`, `(m)`, `(o)`, `(r)`, `USING gist (r)`} {
		d.Exec(`CREATE INDEX ON "we ird"."T a" ` + of)
	}
	d.Exec(`CREATE UNIQUE INDEX "i ""1" ON "we ird"."T a" (a)`)
	for _, sql := range []string{`CREATE INDEX ON "we ird"."T a" (a) INCLUDE (c)`, `CREATE UNIQUE INDEX ON "we ird"."T a" (a) NULLS NOT DISTINCT`, `CREATE TABLE gen (a int, b int GENERATED ALWAYS AS (a * 2) STORED)`,
		`CREATE TABLE parts (a int) PARTITION BY RANGE (a); CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (10); CREATE INDEX ON parts (a)`, `CREATE INDEX ON ONLY parts (a, a)`} {
		_, _ = d.Try(sql) // not every version has it
	}
	c, list := read(t, d)
	seen := 0
	for _, o := range list {
		var want string
		var err error
		switch o.Class {
		case inventory.Index:
			err = c.QueryRow(ctx, `SELECT pg_catalog.pg_get_indexdef(x.oid) FROM pg_catalog.pg_class x JOIN pg_catalog.pg_namespace n ON n.oid = x.relnamespace WHERE n.nspname = $1 AND x.relname = $2`, o.Schema, o.Name).Scan(&want)
		case inventory.Column:
			err = c.QueryRow(ctx, `SELECT coalesce((SELECT pg_catalog.pg_get_expr(f.adbin, f.adrelid) FROM pg_catalog.pg_attrdef f WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum), '')
				FROM pg_catalog.pg_attribute a WHERE a.attrelid = pg_catalog.format('%I.%I', $1::text, $2::text)::pg_catalog.regclass AND a.attname = $3`, o.Schema, o.Table, o.Name).Scan(&want)
		default:
			continue
		}
		seen++
		if err != nil || o.Definition != want {
			t.Errorf("%v is %q, and the server prints %q %v", o.Key, o.Definition, want, err)
		}
	}
	if seen < 40 {
		t.Errorf("only %d objects", seen)
	}
}

// Rights that nobody has changed are those that the server stands for.
func TestRights_Default(t *testing.T) {
	d := pgtest.Source(t).Database(t, "")
	d.Exec(`CREATE TABLE by_default (a int); CREATE TABLE said (a int); GRANT SELECT ON said TO PUBLIC; REVOKE SELECT ON said FROM PUBLIC`)
	_, list := read(t, d)
	rights := make(map[string][][]string)
	for _, o := range list {
		if o.Class == inventory.Relation {
			rights[o.Name] = o.ACL
		}
	}
	if a, b := rights["by_default"], rights["said"]; len(a) < 7 || len(a) != len(b) {
		t.Errorf("by default %v, the same said %v", a, b)
	}
}
