package main_test

import (
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

const shop = `CREATE SCHEMA app; CREATE SCHEMA log;
	CREATE TYPE app.state AS ENUM ('new', 'paid');
	CREATE TABLE app.customers (id serial PRIMARY KEY, name text);
	CREATE TABLE app.orders (id bigint GENERATED ALWAYS AS IDENTITY, customer int REFERENCES app.customers, state app.state DEFAULT 'new', day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
	CREATE TABLE app.orders_old PARTITION OF app.orders FOR VALUES FROM (MINVALUE) TO ('2024-01-01');
	CREATE TABLE app.orders_new PARTITION OF app.orders FOR VALUES FROM ('2024-01-01') TO (MAXVALUE);
	CREATE TABLE app."Items" (id int PRIMARY KEY, of int);
	CREATE TABLE log.entries (id int PRIMARY KEY, v text);
	CREATE INDEX ON app."Items" (of);
	CREATE VIEW app.paid AS SELECT id, customer FROM app.orders WHERE state = 'paid';
	CREATE FUNCTION app.one() RETURNS int LANGUAGE sql AS 'SELECT 1';
	INSERT INTO app.customers (name) SELECT 'c' || i FROM generate_series(1, 20) i;
	INSERT INTO app.orders (customer, day) SELECT 1 + i % 20, '2023-10-01'::date + i FROM generate_series(1, 200) i;
	INSERT INTO app."Items" SELECT i, i FROM generate_series(1, 50) i;
	INSERT INTO log.entries VALUES (1, 'x')`

func TestSelection(t *testing.T) {
	pgtest.Slow(t)
	source := pgtest.Source(t).Database(t, "")
	source.Exec(shop)
	for _, test := range []struct {
		args           []string
		tables, filled string
	}{
		{[]string{"--schema", "app"}, "Items customers orders orders_new orders_old", "Items customers orders_new orders_old"},
		{[]string{"--schema", "l*"}, "entries", "entries"},
		{[]string{"--exclude-table", "app.order*", "--exclude-table", "app.paid"}, "Items customers entries", "Items customers entries"},
		{[]string{"--exclude-table-data", "app.orders", "--exclude-table-data", `*."Items"`},
			"Items customers entries orders orders_new orders_old", "customers entries"},
		{[]string{"--schema", "app", "--exclude-table", "app.orders", "--exclude-table", "paid",
			"--exclude-table", "app.p*", "--exclude-table-data", "app.customers"}, "Items customers",
			"Items"},
	} {
		target := pgtest.Target(t).Database(t, "")
		e := pgtest.NewEnv(t, source, target)
		slot := target.Name + "_s"
		load(t, e, append(test.args, "--slot", slot)...)
		list := target.Query(`SELECT string_agg(relname, ' ' ORDER BY relname COLLATE "C") FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('app', 'log'))`)
		if list != test.tables {
			t.Errorf("%v: the target has %s", test.args, list)
		}
		var filled []string
		for _, name := range strings.Fields(test.tables) {
			q := target.Query(`SELECT oid::regclass FROM pg_class WHERE relname = '` + name +
				`' AND relkind = 'r' AND relnamespace::regnamespace::text IN ('app', 'log')`)
			if q != "" && target.Query("SELECT count(*) FROM "+q) != "0" {
				filled = append(filled, name)
				pgtest.EqualTable(t, source, target, q)
			}
		}
		if got := strings.Join(filled, " "); got != test.filled {
			t.Errorf("%v: %s have rows", test.args, got)
		}
		published := source.Query(`SELECT string_agg(tablename, ' ' ORDER BY tablename COLLATE "C") FROM pg_publication_tables WHERE pubname = '` + slot + `'`)
		if published != test.filled {
			t.Errorf("%v: %s are published", test.args, published)
		}
	}
	e := pgtest.NewEnv(t, source, pgtest.Target(t).Database(t, ""))
	for _, args := range [][]string{{"--table", "nothing"}, {"--schema", "a.b"}, {"--table", `"x`}, {"--schema", "zzz"}} {
		if status, out, said := e.Run(nil, "pgextract", append(args, "--slot", "never")...); status != 64 || len(out) > 0 {
			t.Errorf("%v: exit status %d, %s", args, status, said)
		}
	}
	if n := source.Query("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'never'"); n != "0" {
		t.Error("a slot was made for a load that was refused")
	}
}

// Tables that are named come with their partitions and sequences, and what is selected can be cut
// over.
func TestTables(t *testing.T) {
	source, target := pgtest.Pair(t)
	source.Exec(shop)
	target.Exec("CREATE SCHEMA app", "CREATE TYPE app.state AS ENUM ('new', 'paid')")
	e := pgtest.NewEnv(t, source, target)
	load(t, e, "--slot", source.Name, "--table", "app.orders", "--table", "app.customers")
	source.Exec("INSERT INTO app.orders (customer, day) VALUES (3, '2023-01-01')", "INSERT INTO log.entries VALUES (2, 'y')")
	if out := string(e.Must(nil, "pgcutover", "status")); strings.Contains(out, "missing") || strings.Contains(out, "problem") {
		t.Errorf("status: %s", out)
	}
	cutover(t, e, source.Name)
	for _, table := range []string{"app.orders_old", "app.orders_new", "app.customers"} {
		pgtest.EqualTable(t, source, target, table)
	}
	if v := target.Query("SELECT nextval('app.customers_id_seq')"); v != "21" {
		t.Errorf("the next id is %s", v)
	}
}

// Schemas and tables arrive under other names, with all that belongs to them, through load, sync
// and cutover.
func TestRename(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	source.Exec(shop)
	e := pgtest.NewEnv(t, source, target)
	rename := []string{"--rename", "app=Shop 2", "--rename", "log.entries=lines"}
	said := loadInto(t, e, append([]string{"--rename", `"app"=quoted`}, rename...), "--slot", source.Name)
	if n := strings.Count(said, "this load has no table or schema"); n != 1 || !strings.Contains(said, `--rename "app"=quoted: this load`) {
		t.Errorf("of a name that is none: %s", said)
	}
	source.Exec("INSERT INTO log.entries VALUES (2, 'y')", `UPDATE app."Items" SET of = -id`,
		"INSERT INTO app.customers (name) VALUES ('new')")
	const script = `set -euo pipefail
		pgcutover fence --slot "$1"
		pgdecode --slot "$1" --until now | pgapply "${@:2}" >/dev/null
		pgdecode --slot "$1" | pgapply "${@:2}" >/dev/null & sync=$!
		pgcutover drain --slot "$1"
		pgcutover verify --slot "$1" >&2
		pgcutover finish --slot "$1"
		wait $sync || true
		pgcutover unfence --force --slot "$1"`
	e.Must(nil, "bash", append([]string{"-c", script, "cutover", source.Name}, rename...)...)
	unpublish(source, source.Name)
	source.Exec(`ALTER SCHEMA app RENAME TO "Shop 2"`, "ALTER TABLE log.entries RENAME TO lines")
	pgtest.Equal(t, source, target)
	// The names of constraints and indexes stay.
	equalSchema(t, source, target)
	if v := target.Query(`SELECT nextval('"Shop 2".customers_id_seq')`); v != "22" {
		t.Errorf("the next id is %s", v)
	}
}

// What cannot be renamed is named before anything is written.
func TestCannotRename(t *testing.T) {
	source, target := pgtest.Pair(t)
	source.Exec(shop, `CREATE FUNCTION app.two() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM app.orders'`)
	e := pgtest.NewEnv(t, source, target)
	_, said, _, status := pipe(e, []string{"--rename", "app=shop"}, nil)
	if status != 78 || !strings.Contains(said, "FUNCTION two()") || !strings.Contains(said, "--data-only") ||
		strings.Contains(said, "FUNCTION one()") {
		t.Errorf("exit status %d\n%s", status, said)
	}
	if n := target.Query("SELECT count(*) FROM pg_namespace WHERE nspname IN ('app', 'shop', 'log')"); n != "0" {
		t.Error("something was written")
	}
}
