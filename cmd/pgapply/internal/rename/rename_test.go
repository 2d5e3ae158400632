package rename_test

import (
	"testing"

	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/rename"
)

func TestSQL(t *testing.T) {
	rules := rename.Rules{"app": "New \"App\"", "app.orders": "bills", "other.x": "y"}
	for _, test := range []struct{ kind, sql, want string }{
		{"SCHEMA", "CREATE SCHEMA app;", `CREATE SCHEMA "New ""App""";`},
		{"TABLE", "CREATE TABLE app.customers (app int, m app.mood DEFAULT 'app.x'::app.mood);",
			`CREATE TABLE "New ""App""".customers (app int, m "New ""App""".mood DEFAULT 'app.x'::"New ""App""".mood);`},
		{"TABLE", `CREATE TABLE "app"."orders" (id int); -- app.orders`, `CREATE TABLE "New ""App"""."bills" (id int); -- app.orders`},
		{"TABLE", `CREATE TABLE "App".orders (orders int);`, `CREATE TABLE "App".orders (orders int);`},
		{"DEFAULT", "ALTER TABLE ONLY app.t ALTER COLUMN id SET DEFAULT nextval('app.t_id_seq'::regclass);",
			`ALTER TABLE ONLY "New ""App""".t ALTER COLUMN id SET DEFAULT nextval('"New ""App""".t_id_seq'::regclass);`},
		{"COMMENT", "COMMENT ON TABLE app.orders IS 'app.orders: it''s app';",
			`COMMENT ON TABLE "New ""App"""."bills" IS 'app.orders: it''s app';`},
		{"ACL", "GRANT USAGE ON SCHEMA app TO app;", `GRANT USAGE ON SCHEMA "New ""App""" TO app;`},
		{"INDEX", "CREATE INDEX orders_i ON app.orders USING btree (orders);",
			`CREATE INDEX orders_i ON "New ""App"""."bills" USING btree (orders);`},
		{"VIEW", "CREATE VIEW app.v AS SELECT id FROM app.orders;", `CREATE VIEW "New ""App""".v AS SELECT id FROM "New ""App"""."bills";`},
		{"TABLE", "CREATE TABLE other.x (a int);", `CREATE TABLE other."y" (a int);`},
		{"FUNCTION", "CREATE FUNCTION app.f() RETURNS int LANGUAGE sql AS $_$ SELECT 1 $_$;",
			`CREATE FUNCTION "New ""App""".f() RETURNS int LANGUAGE sql AS $_$ SELECT 1 $_$;`},
	} {
		if got, err := rules.SQL(test.kind, test.sql); err != nil || got != test.want {
			t.Errorf("%s\ngot  %s, %v\nwant %s", test.sql, got, err, test.want)
		}
	}
	for _, test := range []struct{ kind, sql string }{
		{"FUNCTION", "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS $$ SELECT count(*) FROM app.t $$;"},
		{"FUNCTION", "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql SET search_path TO 'app' AS 'SELECT 1';"},
		{"FUNCTION", "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1 FROM orders';"},
		{"VIEW", "CREATE VIEW public.v AS SELECT app.id FROM public.t app;"},
		{"VIEW", "CREATE VIEW public.v AS SELECT orders.id FROM (app.orders JOIN public.t USING (id));"},
	} {
		if got, err := rules.SQL(test.kind, test.sql); err == nil {
			t.Errorf("%s\ngot %s", test.sql, got)
		}
	}
	moving := rename.Rules{"a.t": "b.t"}
	if got, err := moving.SQL("TABLE", "CREATE TABLE a.t (x int);"); err == nil {
		t.Errorf("got %s", got)
	}
	if got, err := moving.SQL("TABLE", "CREATE TABLE a.u (x int);"); err != nil || got != "CREATE TABLE a.u (x int);" {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestTable(t *testing.T) {
	rules := rename.Rules{"a": "b", "a.t": "u", "a.x": "c.y", "d.t": "e.t"}
	for from, want := range map[[2]string][2]string{{"a", "z"}: {"b", "z"}, {"a", "t"}: {"b", "u"},
		{"a", "x"}: {"c", "y"}, {"d", "t"}: {"e", "t"}, {"d", "q"}: {"d", "q"}} {
		if s, n := rules.Table(from[0], from[1]); s != want[0] || n != want[1] {
			t.Errorf("%v: %s.%s", from, s, n)
		}
	}
}

func FuzzSQL(f *testing.F) {
	for _, s := range []string{"", "a.b", `"a""b".c`, "E'\\'", "$a$ x $a$", "/* /* */ */", "--", "'", `"`, "$", "1.5e3", "\xff\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := (rename.Rules{"no such schema": "x"}).SQL("VIEW", s); err == nil && got != s {
			t.Errorf("%q became %q", s, got)
		}
	})
}
