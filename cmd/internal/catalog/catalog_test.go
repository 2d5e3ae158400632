package catalog_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// begin makes a database, and a session as the programs open them.
func begin(t *testing.T) (*pgtest.DB, context.Context, *pgx.Conn) {
	t.Helper()
	d := pgtest.Source(t).Database(t, "")
	return d, pgtest.Context(t), connect(t, d)
}

func connect(t *testing.T, d *pgtest.DB) *pgx.Conn {
	t.Helper()
	c, err := pgdial.Server{Side: "source", DSN: d.URI, App: "test"}.Connect(pgtest.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func TestTables(t *testing.T) {
	d, ctx, c := begin(t)
	if list, err := catalog.Tables(ctx, c); err != nil || len(list) != 0 {
		t.Errorf("an empty database has %d tables, %v", len(list), err)
	}
	d.Exec(`CREATE SCHEMA "S s"`, `CREATE TYPE "S s"."Mood" AS ENUM ('a')`,
		`CREATE TABLE big (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, gone int, n numeric(10,2), m "S s"."Mood"[], v varchar(5))`,
		`ALTER TABLE big DROP COLUMN gone`, `INSERT INTO big (n) SELECT g FROM generate_series(1, 20000) g`, `ANALYZE big`,
		`CREATE TABLE "S s"."T t" (a int, b int)`, `CREATE UNLOGGED TABLE quick (a int PRIMARY KEY)`, `CREATE TEMP TABLE own (a int)`,
		`CREATE TABLE by_index (a int NOT NULL, b int)`, `CREATE UNIQUE INDEX by_index_a ON by_index (a)`,
		`ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_a`,
		`CREATE TABLE whole (a int, b int)`, `ALTER TABLE whole REPLICA IDENTITY FULL`,
		`CREATE TABLE hidden (a int PRIMARY KEY)`, `ALTER TABLE hidden REPLICA IDENTITY NOTHING`,
		`CREATE TABLE parent (a int PRIMARY KEY)`, `CREATE TABLE child (b int, PRIMARY KEY (a)) INHERITS (parent)`,
		`CREATE TABLE none ()`, `CREATE VIEW v AS SELECT 1`, `CREATE MATERIALIZED VIEW mv AS SELECT 1 AS a`,
		`CREATE TABLE parts (a int NOT NULL, b int) PARTITION BY RANGE (a)`,
		`CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (b)`,
		`CREATE TABLE parts_1_1 PARTITION OF parts_1 FOR VALUES FROM (0) TO (10)`, `CREATE SCHEMA pgsluice`,
		`CREATE TABLE pgsluice.streams (a int)`)
	list, err := catalog.Tables(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if list[0].Name != "big" {
		t.Errorf("%s is first, not the largest", list[0].Name)
	}
	oid := func(name string) uint32 {
		var v uint32
		if _, err := fmt.Sscan(d.Query("SELECT '"+name+"'::regclass::oid"), &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	var got []string
	for _, x := range list {
		var cols []string
		for _, col := range x.Columns {
			s := col.Name + " " + col.Type
			if col.Key {
				s += " key"
			}
			if col.Identity != "" {
				s += " identity " + col.Identity
			}
			cols = append(cols, s)
		}
		s := fmt.Sprintf("%s.%s %s%s (%s)", x.Schema, x.Name, x.Kind, x.ReplicaIdentity, strings.Join(cols, ", "))
		if x.Unlogged {
			s += " unlogged"
		}
		if x.Root != 0 {
			s += fmt.Sprintf(" root %v", x.Root == oid("parts"))
		}
		got = append(got, s)
		if x.Owner != "postgres" || x.Condition != "" || x.ID != oid(pgx.Identifier{x.Schema, x.Name}.Sanitize()) {
			t.Errorf("%+v", x)
		}
	}
	slices.Sort(got)
	want := []string{
		`S s.T t rd (a integer, b integer)`,
		`public.big rd (id integer key identity a, n numeric, m "S s"."Mood"[], v character varying)`,
		`public.by_index ri (a integer key, b integer)`,
		`public.child rd (a integer key, b integer)`,
		`public.hidden rn (a integer)`,
		`public.none rd ()`,
		`public.parent rd (a integer key)`,
		`public.parts pd (a integer, b integer)`,
		`public.parts_1 pd (a integer, b integer) root true`,
		`public.parts_1_1 rd (a integer, b integer) root true`,
		`public.quick rd (a integer key) unlogged`,
		`public.whole rf (a integer key, b integer key)`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if big := list[0]; big.Rows != 20000 || big.Bytes < 20000*28 || big.Pages != big.Bytes/8192 ||
		big.Columns[1].TypeMod != 10<<16|2+4 || big.Columns[3].TypeMod != 9 {
		t.Errorf("%+v", big)
	}
}

// Extensions bring their own tables; of those, what their users have written is marked as
// configuration.
func TestExtensionTables(t *testing.T) {
	d, ctx, c := begin(t)
	d.Exec("CREATE EXTENSION hstore", "CREATE TABLE mine (a int)", "CREATE TABLE theirs (a int)",
		"CREATE TABLE settings (a int)", "CREATE SEQUENCE theirs_seq",
		"ALTER EXTENSION hstore ADD TABLE theirs", "ALTER EXTENSION hstore ADD TABLE settings",
		"ALTER EXTENSION hstore ADD SEQUENCE theirs_seq",
		"UPDATE pg_extension SET extconfig = ARRAY['settings'::regclass::oid], extcondition = ARRAY['WHERE a > 5'] WHERE extname = 'hstore'")
	list, err := catalog.Tables(ctx, c)
	if err != nil || len(list) != 2 {
		t.Fatalf("%d tables, %v", len(list), err)
	}
	for _, x := range list {
		if want := map[string]string{"mine": "", "settings": "WHERE a > 5"}[x.Name]; x.Condition != want {
			t.Errorf("%s has the condition %q", x.Name, x.Condition)
		}
	}
	if list, err := catalog.Sequences(ctx, c); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}

// A swapper puts a view in the place of a sequence when its name has been read.
type swapper struct {
	swap func()
	once sync.Once
}

func (*swapper) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (s *swapper) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) { s.once.Do(s.swap) }

// What has a sequence's name by the time that it is read runs no code of its owner's.
func TestSequenceSwapped_P5(t *testing.T) {
	d, ctx, plain := begin(t)
	var known string
	if err := plain.QueryRow(ctx,
		"SELECT coalesce(pg_catalog.min(name), '') FROM pg_catalog.pg_settings WHERE name = 'restrict_nonsystem_relation_kind'").
		Scan(&known); err != nil {
		t.Fatal(err)
	}
	if known == "" {
		t.Skip("restrict_nonsystem_relation_kind exists from 12.20, 13.16, 14.13, 15.8 and 16.4 on")
	}
	d.Exec("CREATE SEQUENCE s", "CREATE FUNCTION evil() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RAISE 'called'; END $$")
	config := plain.Config()
	config.Tracer = &swapper{swap: func() { d.Exec("DROP SEQUENCE s; CREATE VIEW s AS SELECT evil() AS last_value, true AS is_called") }}
	c, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	if _, err := catalog.Sequences(ctx, c); err == nil || strings.Contains(err.Error(), "called") {
		t.Errorf("the view's function was called: %v", err)
	}
}

// A server with room for few locks has any number of sequences read, some of them at a time.
func TestSequencesFewLocks(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	d := pgtest.Start(t, 0, "max_locks_per_transaction=10", "max_connections=5", "max_prepared_transactions=0", "max_wal_senders=1",
		"max_replication_slots=1", "max_worker_processes=1").Database(t, "")
	const some = 100
	for from := 0; from < 1000; from += some {
		d.Exec(fmt.Sprintf("DO $$ BEGIN FOR i IN %d..%d LOOP EXECUTE 'CREATE SEQUENCE s' || i || ' START ' || i + 1; END LOOP; END $$", from, from+some-1))
	}
	d.Exec("SELECT setval('s500', 7000)")
	list, err := catalog.Sequences(pgtest.Context(t), connect(t, d))
	if err != nil || len(list) != 1000 {
		t.Fatalf("%d sequences, %v", len(list), err)
	}
	for _, s := range list {
		n, _ := strconv.Atoi(s.Name[1:])
		if want := int64(n + 1); s.LastValue != want && s.Name != "s500" || s.IsCalled != (s.Name == "s500") {
			t.Fatalf("%+v", s)
		}
	}
}

func TestSequences(t *testing.T) {
	d, ctx, c := begin(t)
	d.Exec("CREATE SEQUENCE a", "CREATE SEQUENCE b", "SELECT setval('b', 77)",
		`CREATE TABLE t (id bigserial, x int GENERATED BY DEFAULT AS IDENTITY)`,
		"INSERT INTO t SELECT FROM generate_series(1, 3)", `CREATE SEQUENCE "C c" INCREMENT -1 MINVALUE -100 START -5`)
	list, err := catalog.Sequences(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range list {
		got = append(got, fmt.Sprintf("%s.%s %d %v %v", s.Schema, s.Name, s.LastValue, s.IsCalled, s.Known))
	}
	slices.Sort(got)
	want := []string{"public.C c -5 false true", "public.a 1 false true", "public.b 77 true true",
		"public.t_id_seq 3 true true", "public.t_x_seq 3 true true"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	role := "seq_" + d.Name
	d.Exec("CREATE ROLE "+role+" LOGIN", "GRANT SELECT ON SEQUENCE a TO "+role)
	t.Cleanup(func() { d.Exec("DROP OWNED BY "+role, "DROP ROLE "+role) })
	weak, err := pgx.Connect(ctx, d.As(role, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer weak.Close(ctx)
	if list, err = catalog.Sequences(ctx, weak); err != nil || len(list) != 5 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, s := range list {
		if s.Known != (s.Name == "a") {
			t.Errorf("%+v", s)
		}
	}
}

func TestKeyIndexes(t *testing.T) {
	d, ctx, c := begin(t)
	d.Exec("CREATE TABLE t (a int PRIMARY KEY, b int UNIQUE DEFERRABLE INITIALLY DEFERRED, c int)",
		"ALTER TABLE t ADD CONSTRAINT c UNIQUE (c) DEFERRABLE",
		"CREATE UNIQUE INDEX no_constraint ON t (c, a)", "CREATE MATERIALIZED VIEW full_mv AS SELECT 1 AS a",
		"CREATE MATERIALIZED VIEW empty_mv AS SELECT 1 AS a WITH NO DATA")
	keys, err := catalog.KeyIndexes(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range keys {
		got = append(got, fmt.Sprintf("%s %v %v %v %s", k.Name, k.Primary, k.Deferrable, k.Deferred, k.Create))
	}
	slices.Sort(got)
	want := []string{
		"c false true false CREATE UNIQUE INDEX c ON public.t USING btree (c)",
		"t_b_key false true true CREATE UNIQUE INDEX t_b_key ON public.t USING btree (b)",
		"t_pkey true false false CREATE UNIQUE INDEX t_pkey ON public.t USING btree (a)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	populated, err := catalog.Populated(ctx, c)
	if err != nil || len(populated) != 1 {
		t.Errorf("%v, %v", populated, err)
	}
}

func TestLookup(t *testing.T) {
	d, ctx, c := begin(t)
	if r, err := catalog.Lookup(ctx, c, "public", "none"); err != nil || r != nil {
		t.Errorf("%+v, %v", r, err)
	}
	d.Exec(`CREATE DOMAIN money_like AS numeric(10,2)`, `CREATE DOMAIN area AS box`,
		`CREATE TABLE "T" (a int, gone int, b text NOT NULL DEFAULT 'x', c int GENERATED ALWAYS AS IDENTITY, d money_like, e box, f area, g int[], h box[], i json, j varchar(5), k xml, l point[])`,
		`ALTER TABLE "T" DROP COLUMN gone`, `ALTER TABLE "T" ADD PRIMARY KEY (c, a)`,
		`CREATE UNIQUE INDEX u ON "T" (b)`, `CREATE UNIQUE INDEX part ON "T" (b) WHERE a > 0`,
		`CREATE UNIQUE INDEX expr ON "T" (lower(b))`,
		`ALTER TABLE "T" ADD CONSTRAINT later UNIQUE (d) DEFERRABLE`, `CREATE VIEW v AS SELECT 1 AS one`)
	if d.Major >= 12 {
		d.Exec(`ALTER TABLE "T" ADD COLUMN m int GENERATED ALWAYS AS (a + 1) STORED`)
	}
	if d.Major >= 11 {
		d.Exec(`CREATE UNIQUE INDEX incl ON "T" (b) INCLUDE (a)`)
	}
	r, err := catalog.Lookup(ctx, c, "public", "T")
	if err != nil || r == nil || r.Kind != "r" || r.RowSecurity {
		t.Fatalf("%+v, %v", r, err)
	}
	equal := map[string]bool{"a": true, "b": true, "c": true, "d": true, "e": false, "f": false, "g": true,
		"h": false, "i": false, "j": true, "k": false, "l": false, "m": true}
	for i, col := range r.Columns {
		if i == 0 && (col.Name != "a" || col.Number != 1 || !col.NotNull || col.Type != "integer") ||
			i == 1 && (col.Name != "b" || col.Number != 3 || !col.Default || !col.NotNull) {
			t.Errorf("%+v", col)
		}
		if (col.Equal != nil) != equal[col.Name] || col.Equal != nil && (col.Equal.Schema != "pg_catalog" || col.Equal.Name != "=") {
			t.Errorf("%s %s: equality %v", col.Name, col.Type, col.Equal)
		}
		if col.Exact != slices.Contains([]string{"a", "b", "c", "j", "m"}, col.Name) {
			t.Errorf("%s %s: exact %v", col.Name, col.Type, col.Exact)
		}
		if (col.Identity == "a") != (col.Name == "c") || col.Generated != (col.Name == "m") {
			t.Errorf("%+v", col)
		}
	}
	var got []string
	for _, u := range r.Unique {
		got = append(got, fmt.Sprintf("%s %v %v %v %v", u.Name, u.Columns, u.Primary, u.Deferrable, u.NotNull))
	}
	want := []string{"T_pkey [c a] true false true", "incl [b] false false true", "later [d] false true false", "u [b] false false true"}
	if d.Major < 11 {
		want = slices.Delete(want, 1, 2)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	all, err := catalog.LookupAll(ctx, c, [][2]string{{"public", "T"}, {"public", "none"}, {"public", "v"}})
	if err != nil || len(all) != 2 || all[[2]string{"public", "v"}].Kind != "v" {
		t.Fatalf("%+v, %v", all, err)
	}
	one := all[[2]string{"public", "T"}]
	if one.OID != r.OID || len(one.Columns) != len(r.Columns) {
		t.Fatalf("%+v", one)
	}
	for i, col := range one.Columns {
		if w := r.Columns[i]; col.Name != w.Name || col.Number != w.Number || col.OID != w.OID ||
			col.Type != w.Type || col.Generated != w.Generated || col.Identity != w.Identity {
			t.Errorf("%+v, not %+v", col, w)
		}
	}
	d.Exec(`ALTER TABLE "T" ENABLE ROW LEVEL SECURITY`, `ALTER TABLE "T" FORCE ROW LEVEL SECURITY`)
	role := "rls_" + d.Name
	d.Exec("CREATE ROLE "+role+" LOGIN", `GRANT SELECT ON "T" TO `+role)
	t.Cleanup(func() { d.Exec("DROP OWNED BY "+role, "DROP ROLE "+role) })
	weak, err := pgx.Connect(ctx, d.As(role, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer weak.Close(ctx)
	if r, err = catalog.Lookup(ctx, weak, "public", "T"); err != nil || !r.RowSecurity {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestTypeNames(t *testing.T) {
	d, ctx, c := begin(t)
	d.Exec(`CREATE SCHEMA "S"`, `CREATE TYPE "S".mood AS ENUM ('a')`, `CREATE TYPE public.pair AS (a int)`)
	names, err := catalog.TypeNames(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{`"S".mood`: `"S".mood`, "pair": "public.pair",
		"int4": "integer", `"char"`: `"char"`, "varchar": "character varying", "int4[]": "integer[]"} {
		var oid uint32
		if _, err := fmt.Sscan(d.Query("SELECT '"+name+"'::regtype::oid"), &oid); err != nil {
			t.Fatal(err)
		}
		if names[oid] != want {
			t.Errorf("%s is %s, not %s", name, names[oid], want)
		}
	}
}

func TestKeyRange(t *testing.T) {
	d, ctx, c := begin(t)
	d.Exec(`CREATE TABLE big ("K k" bigint PRIMARY KEY)`,
		`INSERT INTO big VALUES (-9223372036854775808), (5), (9223372036854775807)`,
		`CREATE TABLE empty (k smallint PRIMARY KEY)`,
		`CREATE TABLE text_key (k text PRIMARY KEY)`, `CREATE TABLE two (a int, b int, PRIMARY KEY (a, b))`,
		`CREATE TABLE only_unique (a int UNIQUE)`)
	tables, err := catalog.Tables(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, x := range tables {
		from, to, key, err := catalog.KeyRange(ctx, c, x)
		if err != nil {
			t.Fatal(err)
		}
		if key != "" {
			got = append(got, fmt.Sprintf("%s %s %d %d", x.Name, key, from, to))
		}
	}
	slices.Sort(got)
	if want := []string{"big K k -9223372036854775808 9223372036854775807", "empty k 0 0"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}
