package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// presets are settings that a database may have for all of its sessions, and that change how values
// and statements are read or printed, or how long a session lives. It has begun before
// idle_session_timeout can be set, so that must leave a busy machine the time for it.
var presets = []string{
	"standard_conforming_strings = off", "backslash_quote = off", "array_nulls = off",
	"transform_null_equals = on", "quote_all_identifiers = on", "xmloption = document", "xmlbinary = hex",
	"bytea_output = escape", "extra_float_digits = -10", "IntervalStyle = sql_standard",
	"DateStyle = 'SQL, DMY'", "TimeZone = 'Asia/Kathmandu'", "gin_fuzzy_search_limit = 1",
	"check_function_bodies = on", "row_security = on", "lock_timeout = '3s'",
	"default_transaction_isolation = serializable", "default_transaction_deferrable = on",
	"idle_in_transaction_session_timeout = '1s'", "statement_timeout = '20s'", "escape_string_warning = off", "synchronize_seqscans = on",
	"14 idle_session_timeout = '1s'", "17 transaction_timeout = '5s'", "-12 default_with_oids = on",
}

// constants is a schema that has a backslash, a quote or an array in every kind of place.
const constants = `SET standard_conforming_strings = on; SET transform_null_equals = off; SET array_nulls = on;
CREATE DOMAIN path AS text CHECK (VALUE <> E'\\x\'') DEFAULT 'c:\tmp\new';
CREATE FUNCTION f(t text DEFAULT '\d\\') RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT t || '\n' $$;
CREATE TABLE c (id int PRIMARY KEY, p path, t text DEFAULT 'a\b''c' CHECK (t !~ '^\d+$'), a text[] DEFAULT '{NULL,"\"n"}', n text DEFAULT NULL, b bytea DEFAULT '\x005c27', i interval DEFAULT '-1 day 2:03',
	d timestamptz DEFAULT '2020-03-02 01:00+00', f float8 DEFAULT 0.1::float8 + 0.2, j jsonb DEFAULT '{"a\\b": null}', x xml, m money);
CREATE INDEX c_i ON c (t) WHERE t LIKE 'a\_%' OR (n = NULL) IS NULL;
CREATE INDEX c_x ON c ((t || '\'));
ALTER TABLE c ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON c USING (t <> '\secret\');
CREATE VIEW v AS SELECT id, t || '\t' AS "T", (n = NULL) AS never, a = '{NULL}' AS nulls, '\x41'::bytea AS b FROM c WHERE t <> '\';
CREATE MATERIALIZED VIEW mv AS SELECT id, regexp_replace(t, '\s', '\\&') AS r FROM c;
CREATE RULE r AS ON DELETE TO v DO INSTEAD UPDATE c SET n = '\gone' WHERE id = old.id;
CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.n := '\tr'; RETURN new; END $$;
CREATE TRIGGER tr BEFORE INSERT ON c FOR EACH ROW WHEN (new.t = '\') EXECUTE PROCEDURE tr();
CREATE TABLE parts (k text, v int) PARTITION BY LIST (k);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN ('a\b', '\');
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN ('a\\b', NULL);
ALTER TABLE parts_1 REPLICA IDENTITY FULL; ALTER TABLE parts_2 REPLICA IDENTITY FULL;
COMMENT ON TABLE c IS 'a \ and a ''';
INSERT INTO c (id) VALUES (1); INSERT INTO c (id, t, x, m) VALUES (2, '\', '<a/>text', 12.50);
INSERT INTO parts VALUES ('a\b', 1), ('a\\b', 2), ('\', 3), (NULL, 4);
REFRESH MATERIALIZED VIEW mv;`

// definitions prints everything that the schema has a constant in.
const definitions = `SET standard_conforming_strings = on; SET quote_all_identifiers = off; SET search_path = ''; SET datestyle = ISO; SET timezone = UTC; SET intervalstyle = postgres; SET bytea_output = hex; SET extra_float_digits = 3; SET array_nulls = on;
SELECT 'default', c.relname || '.' || d.adnum, pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public'
UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(k.oid) FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace WHERE n.nspname = 'public'
UNION ALL SELECT 'domain', typname, typdefault FROM pg_type WHERE typtype = 'd' AND typname = 'path'
UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT 'policy', policyname, qual FROM pg_policies
UNION ALL SELECT 'view', c.relname, pg_get_viewdef(c.oid) FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('v', 'm')
UNION ALL SELECT 'rule', rulename, definition FROM pg_rules WHERE schemaname = 'public'
UNION ALL SELECT 'trigger', tgname, pg_get_triggerdef(t.oid) FROM pg_trigger t WHERE NOT tgisinternal
UNION ALL SELECT 'function', p.proname, pg_get_functiondef(p.oid) FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
UNION ALL SELECT 'bound', relname, pg_get_expr(relpartbound, oid) FROM pg_class WHERE relispartition
UNION ALL SELECT 'comment', 'c', obj_description('public.c'::regclass)
UNION ALL SELECT 'row', 'c', w::text FROM public.c w UNION ALL SELECT 'row', 'mv', x::text FROM public.mv x UNION ALL SELECT 'row', 'v', x::text FROM public.v x
UNION ALL SELECT 'row', tableoid::regclass::text, x::text FROM public.parts x
ORDER BY 1, 2, 3`

// Whatever both databases preset, statements and values are on the target what they are on the
// source.
func TestPresets_C10_C19(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	if source.Major < 11 {
		t.Skip("an UPDATE moves a row to another partition from 11 on")
	}
	source.Exec(constants)
	slot := "p_" + source.Name
	for _, d := range []*pgtest.DB{source, target} {
		for i, p := range presets {
			var from int
			if n, _ := fmt.Sscanf(p, "%d ", &from); n == 1 {
				if from > 0 && d.Major < from || from < 0 && d.Major >= -from {
					continue
				}
				_, p, _ = strings.Cut(p, " ")
			}
			on := "DATABASE " + d.Name
			if i%2 > 0 {
				on = "ROLE postgres IN " + on
			}
			d.Exec("ALTER " + on + " SET " + p)
		}
	}
	e := pgtest.NewEnv(t, source, target)
	e.Must(e.Must(nil, "pgextract", "--slot", slot, "--format", "text"), "pgapply")
	source.Exec(`SET array_nulls = on; SET transaction_isolation = 'read committed'; INSERT INTO c (id, t, a) VALUES (3, 'new'||chr(92), '{NULL,x}'); UPDATE c SET a = a || '{NULL,"NULL"}', n = chr(92) WHERE id = 1;
		UPDATE parts SET k = 'a'||chr(92)||chr(92)||'b' WHERE k = 'a'||chr(92)||'b'; DELETE FROM c WHERE id = 2; REFRESH MATERIALIZED VIEW mv`)
	e.Start(nil, nil, "bash", pgtest.Root()+"/scripts/sync", slot)
	e.Must(nil, "pgcutover", "wait", "caught-up", "--slot", slot, "--timeout", "60s")
	for _, step := range []string{"fence", "drain", "verify", "open", "finish"} {
		e.Must(nil, "pgcutover", step, "--slot", slot)
	}
	query := definitions
	if source.Major != target.Major { // they print these in other ways
		query = strings.Replace(query, "SELECT 'default'", "SELECT * FROM (SELECT 'default'", 1)
		query = strings.Replace(query, "\nORDER BY",
			") x(kind, name, definition) WHERE kind NOT IN ('constraint', 'view', 'rule')\nORDER BY", 1)
	}
	a, b := source.Query(query), target.Query(query)
	if a != b {
		t.Errorf("source:\n%s\n\ntarget:\n%s", a, b)
	}
}
