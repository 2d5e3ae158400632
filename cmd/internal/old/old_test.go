package old_test

import (
	"bufio"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/old"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestSQL(t *testing.T) {
	for _, c := range []struct{ sql, want string }{
		{"SELECT 1", "SELECT 1"},
		{"SELECT 'pg_catalog.pg_current_wal_lsn()'", "SELECT 'pg_catalog.pg_current_wal_lsn()'"},
		{"SELECT pg_catalog.pg_current_wal_lsn()", "SELECT pg_catalog.pg_current_xlog_location()"},
		{"BEGIN; SELECT pg_catalog.pg_current_wal_flush_lsn(); COMMIT", "BEGIN; SELECT pg_catalog.pg_current_xlog_flush_location(); COMMIT"},
		{"SELECT c.relname FROM pg_catalog.pg_class c", "SELECT c.relname FROM pg_catalog.pg_class c"},
		{"SELECT NOT temporary FROM pg_catalog.pg_replication_slots WHERE active",
			"SELECT NOT temporary FROM (SELECT s.*, false AS temporary FROM pg_catalog.pg_replication_slots s) pg_replication_slots WHERE active"},
		{"SELECT s.temporary FROM pg_catalog.pg_replication_slots s",
			"SELECT s.temporary FROM (SELECT s.*, false AS temporary FROM pg_catalog.pg_replication_slots s) s"},
		{"SELECT pg_catalog.pg_get_partkeydef(f(c.oid)) || 'x'", "SELECT nullif(pg_catalog.format('', (f(c.oid))), '') || 'x'"},
		{"SELECT pg_catalog.obj_description(p.oid, 'pg_publication')", "SELECT pg_catalog.obj_description(p.oid, 'pg_proc')"},
		{`COMMENT ON PUBLICATION "a" IS 'b'`, `COMMENT ON FUNCTION pgsluice."a"() IS 'b'`},
	} {
		if got := old.SQL(c.sql); got != c.want {
			t.Errorf("%s\nbecame %s\nnot    %s", c.sql, got, c.want)
		}
	}
	for _, c := range []struct{ sql, name, verb, does, tables string }{
		{`CREATE PUBLICATION "mig"`, "'mig'", "'CREATE'", "'insert,update,delete'", "ARRAY[]"},
		{`CREATE PUBLICATION "m'g" FOR TABLE ONLY "a"."b", ONLY "c,"."d" WITH (publish = 'insert')`, "'m''g'", "'CREATE'", "'insert'", `ARRAY['"a"."b"', '"c,"."d"']`},
		{`ALTER PUBLICATION "mig" ADD TABLE ONLY a.b`, "'mig'", "'ADD'", "", "ARRAY['a.b']"},
		{`ALTER PUBLICATION "mig" DROP TABLE a.b, a.c; SELECT 1`, "'mig'", "'DROP'", "", "ARRAY['a.b', 'a.c']"},
		{`DROP PUBLICATION IF EXISTS "mig"`, "'mig'", "", "", ""},
		{`CREATE PUBLICATION mig FOR TABLE a."$pgsluice$@name"`, "'mig'", "'CREATE'", "$_pgsluice$", `ARRAY['a."$pgsluice$@name"']`},
	} {
		got := old.SQL(c.sql)
		for _, want := range []string{c.name, c.verb, c.does, c.tables} {
			if !strings.Contains(got, want) || !strings.HasPrefix(got, "DO ") || strings.Contains(strings.ReplaceAll(got, "$@name", ""), "@") || strings.HasSuffix(c.sql, "SELECT 1") != strings.HasSuffix(got, "; SELECT 1") {
				t.Errorf("%s: no %s in %s", c.sql, want, got)
			}
		}
	}
}

// gated are used only on the target, which is newer.
var gated = []string{"pg_import_system_collations"}

// Whatever of pg_catalog our SQL names and 9.6 lacks is translated: testdata/lacks.txt is recorded
// from servers of 9.6 and 10.
func TestLacks(t *testing.T) {
	var code strings.Builder
	err := filepath.WalkDir(filepath.Join(pgtest.Root(), "cmd"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "/internal/old/") {
			return err
		}
		text, err := os.ReadFile(path)
		code.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	names, words := make(map[string]bool), make(map[string]bool)
	for _, m := range regexp.MustCompile(`pg_catalog\.(\w+\(?)`).FindAllStringSubmatch(code.String(), -1) {
		names[m[1]] = true
	}
	for _, w := range regexp.MustCompile(`\w+`).FindAllString(code.String(), -1) {
		words[w] = true
	}
	f, err := os.Open("testdata/lacks.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	var missing []string // relations
	seen := 0
	for lines.Scan() {
		kind, name, _ := strings.Cut(lines.Text(), " ")
		var used bool
		var sql string
		switch kind {
		case "relation":
			missing = append(missing, name)
			used, sql = names[name], "SELECT x.a FROM pg_catalog."+name+" x"
		case "function":
			used, sql = names[name+"("], "SELECT pg_catalog."+name+"(1)"
		case "column":
			relation, column, _ := strings.Cut(name, ".")
			if slices.Contains(missing, relation) {
				continue
			}
			used, sql, name = names[relation] && words[column], "SELECT x."+column+" FROM pg_catalog."+relation+" x", relation+" x"
		default:
			continue
		}
		if slices.Contains(gated, name) || !used {
			continue
		}
		seen++
		if got := old.SQL(sql); got == sql || kind != "column" && strings.Contains(got, "pg_catalog."+name) {
			t.Errorf("9.6 lacks %s %s, and the code uses it", kind, name)
		}
	}
	if seen < 15 {
		t.Errorf("only %d names are used", seen)
	}
}

// On a server of 9.6, what stands in for a catalog can be read, by a role that may nothing.
func TestStandIns(t *testing.T) {
	d := pgtest.Old(t).Database(t, "")
	d.Exec("CREATE SEQUENCE s INCREMENT 5 MAXVALUE 99 CYCLE; SELECT nextval('s'), nextval('s'); CREATE SEQUENCE untouched; GRANT SELECT ON s TO PUBLIC; CREATE TABLE t (a int); CREATE ROLE nobody LOGIN")
	c := d.Connect()
	ctx := context.Background()
	for _, sql := range []string{"SET search_path = ''", `CREATE PUBLICATION "p q" FOR TABLE ONLY public.t WITH (publish = 'insert')`,
		`CREATE PUBLICATION all_`, `ALTER PUBLICATION all_ ADD TABLE public.t`, `COMMENT ON PUBLICATION "p q" IS 'x'`,
		`CREATE TABLE public."$pgsluice$, @name's" ()`, `ALTER PUBLICATION all_ ADD TABLE public."$pgsluice$, @name's"`,
		`ALTER PUBLICATION all_ DROP TABLE public."$pgsluice$, @name's"`} {
		if _, err := c.Exec(ctx, old.SQL(sql)); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	if _, err := c.Exec(ctx, "SET SESSION AUTHORIZATION nobody"); err != nil {
		t.Fatal(err)
	}
	for sql, want := range map[string]string{
		"SELECT string_agg(pg_catalog.concat_ws(' ', pubname, pubinsert, pubupdate, pubdelete, puballtables, pg_catalog.obj_description(oid, 'pg_publication')), ',' ORDER BY pubname) FROM pg_catalog.pg_publication": "all_ t t t f,p q t f f f x",
		"SELECT string_agg(pg_catalog.concat_ws(' ', pubname, schemaname, tablename), ',' ORDER BY pubname) FROM pg_catalog.pg_publication_tables":                                                                     "all_ public t,p q public t",
		"SELECT string_agg(r.prrelid::pg_catalog.regclass::text, ',') FROM pg_catalog.pg_publication_rel r":                                                                                                            "public.t,public.t",
		"SELECT string_agg(g.relid::pg_catalog.regclass::text, ',') FROM pg_catalog.pg_publication p, LATERAL pg_catalog.pg_get_publication_tables(p.pubname::pg_catalog.text) g":                                      "public.t,public.t",
		"SELECT pg_catalog.concat_ws(' ', q.schemaname, q.last_value, q.start_value, q.increment_by, q.max_value, q.min_value, q.cache_size, q.cycle) FROM pg_catalog.pg_sequences q WHERE q.sequencename = 's'":       "public 6 1 5 99 1 1 t",
		"SELECT pg_catalog.concat_ws(' ', s.last_value) FROM pg_catalog.pg_sequences s WHERE s.sequencename = 'untouched'":                                                                                             "",
		"SELECT (pg_catalog.pg_sequence_last_value(s.seqrelid) + s.seqincrement)::text FROM pg_catalog.pg_sequence s WHERE s.seqrelid = 'public.s'::pg_catalog.regclass":                                               "11",
		"SELECT pg_catalog.concat(c.relispartition, c.relpartbound IS NULL, a.attidentity) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid WHERE a.attname = 'a' AND c.relname = 't'":  "ft",
		"SELECT coalesce(pg_catalog.string_agg(DISTINCT a.backend_type, ','), 'hidden') FROM pg_catalog.pg_stat_activity a WHERE a.pid = pg_catalog.pg_backend_pid()":                                                  "hidden",
		"SELECT (pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), '0/0') > 0)::text":                                                                                                                        "true",
	} {
		var got string
		if err := c.QueryRow(ctx, old.SQL(sql)).Scan(&got); err != nil || got != want {
			t.Errorf("%s\nreturned %q, %v\nnot      %q", sql, got, err, want)
		}
	}
	for _, name := range []string{"pg_subscription", "pg_partitioned_table", "pg_statistic_ext", "pg_collation", "pg_policy", "pg_stat_replication"} {
		if _, err := c.Exec(ctx, old.SQL("SELECT x.* FROM pg_catalog."+name+" x")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Exec(ctx, "RESET SESSION AUTHORIZATION"); err != nil {
		t.Fatal(err)
	}
	// No client is taken for autovacuum, whatever its query is, not even a superuser's.
	client := d.Connect()
	if _, err := client.Exec(ctx, "SET application_name = ''; RESET search_path"); err != nil {
		t.Fatal(err)
	}
	_, _ = client.Exec(ctx, "autovacuum: VACUUM public.t")
	var kind string
	if err := c.QueryRow(ctx, old.SQL("SELECT a.query || '/' || a.backend_type FROM pg_catalog.pg_stat_activity a WHERE a.pid = $1"), client.PgConn().PID()).
		Scan(&kind); err != nil || kind != "autovacuum: VACUUM public.t/client backend" {
		t.Errorf("%s, %v", kind, err)
	}
	for _, sql := range []string{`ALTER PUBLICATION "p q" DROP TABLE ONLY public.t`, "DROP PUBLICATION IF EXISTS all_", `DROP PUBLICATION IF EXISTS "p q"`, "DROP PUBLICATION IF EXISTS none"} {
		if _, err := c.Exec(ctx, old.SQL(sql)); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	if n := d.Query("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgsluice'"); n != "0" {
		t.Error("the schema is left")
	}
}
