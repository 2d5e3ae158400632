package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A changed object is one of some kind that the source has otherwise since the load.
type changed struct {
	since  int    // the first version that has it
	before string // makes it, ahead of the load
	after  string // changes it
	names  []string
	byHand string // does on the target what no printed statement does
}

// Every kind of object that is otherwise on the source since the load is named, and nothing else
// is; the statements that are printed make it the same on the target.
func TestEveryKind_C5(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	role := "kinds_" + source.Name
	kinds := []changed{
		{before: `CREATE TABLE "Identity" (a int PRIMARY KEY, b text)`,
			after: `ALTER TABLE "Identity" REPLICA IDENTITY FULL`, names: []string{"public.Identity"}},
		{before: `CREATE TABLE by_index (a int NOT NULL, b text PRIMARY KEY); CREATE UNIQUE INDEX "by index" ON by_index (a)`,
			after: `ALTER TABLE by_index REPLICA IDENTITY USING INDEX "by index"`,
			names: []string{"public.by_index"}},
		{before: "CREATE TABLE clustered (a int PRIMARY KEY, b text); CREATE INDEX clustered_b ON clustered (b)",
			after: "ALTER TABLE clustered CLUSTER ON clustered_b",
			names: []string{"public.clustered.clustered_b"}},
		{since: 14, before: "CREATE TABLE compressed (a int, b text)",
			after: "ALTER TABLE compressed ALTER b SET COMPRESSION pglz",
			names: []string{"public.compressed.b"}},
		{before: "CREATE TABLE toasted (a text)",
			after:  "ALTER TABLE toasted SET (toast.autovacuum_enabled = off)",
			names:  []string{"public.toasted"},
			byHand: "ALTER TABLE toasted SET (toast.autovacuum_enabled = off)"},
		{since: 13, before: "CREATE TABLE counted (a int, b int); CREATE STATISTICS counts ON a, b FROM counted",
			after: "ALTER STATISTICS counts SET STATISTICS 77", names: []string{"public.counts"}},
		{before: "SELECT 1", after: "REVOKE CONNECT ON DATABASE " + source.Name +
			" FROM PUBLIC; GRANT TEMP ON DATABASE " + source.Name + " TO " + role,
			names: []string{target.Name, target.Name}},
		{before: "CREATE COLLATION sorted (lc_collate = 'C', lc_ctype = 'C')",
			after:  "DROP COLLATION sorted; CREATE COLLATION sorted (lc_collate = 'POSIX', lc_ctype = 'POSIX')",
			names:  []string{"public.sorted"},
			byHand: "DROP COLLATION sorted; CREATE COLLATION sorted (lc_collate = 'POSIX', lc_ctype = 'POSIX')"},
		{before: "CREATE CONVERSION converts FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8",
			after: "DROP CONVERSION converts; CREATE DEFAULT CONVERSION converts FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8; COMMENT ON CONVERSION converts IS 'new'",
			names: []string{"public.converts"}},
		{before: "CREATE OPERATOR === (PROCEDURE = int4eq, LEFTARG = int, RIGHTARG = int, RESTRICT = eqsel, JOIN = eqjoinsel)",
			after: "ALTER OPERATOR === (int, int) SET (RESTRICT = NONE, JOIN = neqjoinsel)",
			names: []string{"public.===(integer,integer)"}},
		{before: "SELECT 1", after: "CREATE OPERATOR !== (PROCEDURE = int4ne, LEFTARG = int, RIGHTARG = int, COMMUTATOR = OPERATOR(public.!==), MERGES); ALTER OPERATOR !== (int, int) OWNER TO " +
			role, names: []string{"public.!==(integer,integer)"}},
		{before: "CREATE OPERATOR FAMILY family USING btree; ALTER OPERATOR FAMILY family USING btree ADD OPERATOR 5 > (int4, int4)",
			after: "ALTER OPERATOR FAMILY family USING btree ADD OPERATOR 1 < (int4, int4), FUNCTION 1 (int4, int4) btint4cmp(int4, int4); ALTER OPERATOR FAMILY family USING btree DROP OPERATOR 5 (int4, int4)",
			names: []string{"public.family USING btree"}},
		{before: "SELECT 1", after: `CREATE OPERATOR CLASS "A class" FOR TYPE int4 USING btree AS OPERATOR 1 <, OPERATOR 3 =, OPERATOR 5 >, FUNCTION 1 btint4cmp(int4, int4)`,
			names: []string{`public."A class" USING btree`, `public."A class" USING btree`}},
		{before: "CREATE TEXT SEARCH DICTIONARY words (TEMPLATE = simple, accept = false); CREATE TEXT SEARCH CONFIGURATION searched (COPY = pg_catalog.english)",
			after: `ALTER TEXT SEARCH DICTIONARY words (accept = true, stopwords = 'english'); ALTER TEXT SEARCH CONFIGURATION searched ALTER MAPPING FOR word WITH words, simple; ALTER TEXT SEARCH CONFIGURATION searched DROP MAPPING FOR email`,
			names: []string{"public.words", "public.searched"}},
		{before: "SELECT 1", after: `CREATE TEXT SEARCH CONFIGURATION "New" (PARSER = "default"); ALTER TEXT SEARCH CONFIGURATION "New" ADD MAPPING FOR word, email WITH simple`,
			names: []string{`public."New"`}},
		{before: "SELECT 1", after: "CREATE TEXT SEARCH PARSER parses (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, LEXTYPES = prsd_lextype); CREATE TEXT SEARCH TEMPLATE template (INIT = dsimple_init, LEXIZE = dsimple_lexize)",
			names: []string{"public.parses", "public.template"}},
		{before: "CREATE TYPE shade AS ENUM ('a'); CREATE CAST (shade AS bytea) WITH INOUT",
			after: "DROP CAST (shade AS bytea); CREATE CAST (shade AS bytea) WITH INOUT AS ASSIGNMENT",
			names: []string{"(public.shade AS pg_catalog.bytea)"}},
		{before: "CREATE TRANSFORM FOR int LANGUAGE sql (FROM SQL WITH FUNCTION prsd_lextype(internal), TO SQL WITH FUNCTION int4recv(internal))",
			after: "DROP TRANSFORM FOR int LANGUAGE sql; CREATE TRANSFORM FOR int LANGUAGE sql (FROM SQL WITH FUNCTION prsd_lextype(internal))",
			names: []string{"for integer language sql"}},
		{before: "SELECT 1", after: "CREATE ACCESS METHOD method TYPE INDEX HANDLER bthandler; COMMENT ON ACCESS METHOD method IS 'like btree'",
			names: []string{"method"}},
		{before: `CREATE FUNCTION handler() RETURNS language_handler LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler'; CREATE TRUSTED LANGUAGE "My own" HANDLER handler`,
			after: `REVOKE USAGE ON LANGUAGE "My own" FROM PUBLIC; COMMENT ON LANGUAGE "My own" IS 'mine'`,
			names: []string{`"My own"`, `"My own"`}},
		{before: "CREATE FOREIGN DATA WRAPPER wraps OPTIONS (a '1', b '2'); CREATE SERVER serves TYPE 't' VERSION '1' FOREIGN DATA WRAPPER wraps OPTIONS (host 'x', port '1'); CREATE USER MAPPING FOR " +
			role + " SERVER serves OPTIONS (password 'secret')",
			after: "ALTER FOREIGN DATA WRAPPER wraps OPTIONS (DROP a, SET b 'it''s', ADD \"C\" '3'); ALTER SERVER serves VERSION '2' OPTIONS (SET host 'y', DROP port); GRANT USAGE ON FOREIGN SERVER serves TO " +
				role + "; ALTER USER MAPPING FOR " + role + " SERVER serves OPTIONS (SET password 'other')",
			names:  []string{"wraps", "serves", "serves", role + " on server serves"},
			byHand: "ALTER USER MAPPING FOR " + role + " SERVER serves OPTIONS (SET password 'other')"},
		{before: "CREATE TABLE p (a int PRIMARY KEY, b int); CREATE TABLE q (a int PRIMARY KEY); CREATE PUBLICATION pub_" +
			source.Name + " FOR TABLE p", after: "ALTER PUBLICATION pub_" + source.Name +
			" SET (publish = 'insert, update'); ALTER PUBLICATION pub_" + source.Name +
			" SET TABLE q; COMMENT ON PUBLICATION pub_" + source.Name + " IS 'mine'",
			names: []string{"pub_" + source.Name}},
		{since: 15, before: "CREATE TABLE r (a int PRIMARY KEY, b int); CREATE PUBLICATION rows_" +
			source.Name + " FOR TABLE r (a) WHERE (a > 1)",
			after: "ALTER PUBLICATION rows_" + source.Name + " SET TABLE r (a) WHERE (a > 2)",
			names: []string{"rows_" + source.Name}},
	}
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("CREATE ROLE " + role)
		t.Cleanup(func() { d.Exec("DROP OWNED BY "+role, "DROP ROLE "+role) })
	}
	m := &migration{source: source, target: target, slot: "mig_" + source.Name, Env: pgtest.NewEnv(t, source, target)}
	kinds = slices.DeleteFunc(kinds, func(k changed) bool { return source.Major < k.since || target.Major < k.since })
	for _, k := range kinds {
		source.Exec(k.before)
	}
	m.load()
	m.nothingMissing()
	var want, byHand []string
	for _, k := range kinds {
		source.Exec(k.after)
		want, byHand = append(want, k.names...), append(byHand, k.byHand)
	}
	// No provider of labels is loaded, so that no statement can give one.
	label := func(d *pgtest.DB) {
		d.Exec("INSERT INTO pg_seclabel SELECT 'public'::regnamespace, 'pg_namespace'::regclass, 0, 'some', 'it''s secret'; INSERT INTO pg_seclabel SELECT 'p'::regclass, 'pg_class'::regclass, 1, 'some', 'x'")
		t.Cleanup(func() { d.Exec("DELETE FROM pg_seclabel") })
	}
	names := func() (list []string) {
		for _, l := range m.missing() {
			list = append(list, l.Name)
			if strings.Contains(fmt.Sprint(l), "password 'other'") {
				t.Errorf("a secret is told: %+v", l)
			}
		}
		slices.Sort(list)
		return list
	}
	slices.Sort(want)
	if got := names(); !slices.Equal(got, want) {
		t.Fatalf("named: %q\nnot %q", got, want)
	}
	m.mend()
	target.Exec(byHand...)
	m.nothingMissing()
	label(source)
	if got := names(); !slices.Equal(got, []string{"schema public by some", "table column public.p.a by some"}) {
		t.Errorf("named: %q", got)
	}
	label(target)
	m.nothingMissing()
}
