package main_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// values has, for every type of the server that has values which can be written, some at its edges.
var values = map[string][]string{
	"bool":       {"t", "f"},
	"bytea":      {`\x`, `\x000a0d5c2e22277f80ff`, `\x5c4e`, `\x5c2e0a`},
	"char":       {"a", "", `\`, `\377`},
	"name":       {"", "x", "name with \"quotes\" and \\", strings.Repeat("n", 63)},
	"int8":       {"-9223372036854775808", "9223372036854775807", "0"},
	"int2":       {"-32768", "32767"},
	"int2vector": {"", "1 2 3"},
	"int4":       {"-2147483648", "2147483647"},
	"regproc":    {"now", "-"},
	"text":       {"", `\N`, `\.`, "\t\n\r\b\f\v\\", "ünïcödé € 𝄞", "NULL", "null", `"`, "'", "{}", "$1 %s"},
	"oid":        {"0", "4294967295"},
	"tid":        {"(0,0)", "(4294967295,65535)"},
	"xid":        {"0", "4294967295"},
	"cid":        {"0", "4294967295"},
	"oidvector":  {"", "1 2"},
	"json":       {"null", `{"b":1, "a" : [ ],"a":"\u00e4\n"}`, `"\\"`},
	"xml":        {"", "<a b='c'>&amp;<!-- x --><?p i?><![CDATA[<]]></a>", "text"},
	"xid8":       {"0", "18446744073709551615"},
	"point":      {"(1,-0)", "(NaN,Infinity)", "(1e-300,0.1)"},
	"lseg":       {"[(1,2),(3,4.5)]"},
	"path":       {"((1,2),(3,4))", "[(1,2),(3,4)]"},
	"box":        {"(3,4),(1,2)"},
	"circle":     {"<(1,2),0.5>", "<(0,0),Infinity>"},
	"polygon":    {"((1,2),(3,4),(5,6))"},
	"line":       {"{1,-1,0.1}"},
	"float4":     {"NaN", "Infinity", "-Infinity", "-0", "1e-45", "3.4028235e+38", "0.1"},
	"float8":     {"NaN", "Infinity", "-Infinity", "-0", "5e-324", "1.7976931348623157e+308", "0.1"},
	"money":      {"-92233720368547758.08", "92233720368547758.07", "0.01"},
	"macaddr":    {"08:00:2b:01:02:03"},
	"inet":       {"192.168.0.1/24", "::1", "::ffff:1.2.3.4/128", "0.0.0.0/0"},
	"cidr":       {"10.0.0.0/8", "2001:db8::/32"},
	"macaddr8":   {"08:00:2b:01:02:03:04:05"},
	"aclitem":    {"postgres=r*w/postgres", "=X/postgres"},
	"bpchar":     {"", "a  ", "ä "},
	"varchar":    {"", " x "},
	"date":       {"4713-01-01 BC", "0001-12-31 BC", "5874897-12-31", "infinity", "-infinity", "2000-02-29"},
	"time":       {"00:00:00", "24:00:00", "23:59:59.999999"},
	"timestamp": {"4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999", "infinity",
		"-infinity", "2000-01-01 00:00:00.000001"},
	"timestamptz": {"4713-01-02 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00",
		"infinity", "-infinity", "1900-01-01 00:00:00+00:19:32"},
	"interval": {"-178000000 years", "178000000 years", "1 mon -1 day +00:00:00.000001",
		"00:00:00", "2147483647:59:59.999999"},
	"timetz": {"00:00:00+15:59", "24:00:00-15:59:59", "12:00:00.000001+00"},
	"bit":    {"0", "1"},
	"varbit": {"", "10110", strings.Repeat("1", 1000)},
	"numeric": {"NaN", "0", "-0.000000000000000000000000000001", "1e1000",
		strings.Repeat("9", 500) + "." + strings.Repeat("1", 300), "1.10"},
	"refcursor":                    {"c"},
	"regprocedure":                 {"lower(text)", "-"},
	"regoper":                      {"||/", "0"},
	"regoperator":                  {"+(integer,integer)", "0"},
	"regclass":                     {"pg_class", `"hostile ""name"" \"`, "-"},
	"regtype":                      {"integer", "pg_catalog.\"char\"", "-"},
	"regrole":                      {"postgres", "-"},
	"regnamespace":                 {"public", "-"},
	"regcollation":                 {`"C"`, "-"},
	"uuid":                         {"00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"},
	"pg_lsn":                       {"0/0", "FFFFFFFF/FFFFFFFF"},
	"tsvector":                     {"", `'a':1A,2 'it''s' '\\'`},
	"tsquery":                      {"", "!'a':*A & ( 'b' | 'it''s' ) <-> 'c'"},
	"regconfig":                    {"english", "simple"},
	"regdictionary":                {"simple"},
	"jsonb":                        {"null", `{"a": [1, 1.10, -1e500, "\u00e4", {}], "": "x\\y"}`},
	"jsonpath":                     {`$."a"[*]?(@ > 1)`, "strict $"},
	"txid_snapshot":                {"10:20:10,14,15"},
	"pg_snapshot":                  {"10:20:10,14,15"},
	"int4range":                    {"empty", "[1,5)", "(,)", "[-2147483648,)"},
	"numrange":                     {"empty", "(1.10,NaN]", "[1,1]"},
	"tsrange":                      {"[\"2000-01-01 00:00:00\",infinity)", "[\"0044-03-15 00:00:00 BC\",\"2000-01-01 00:00:00\")"},
	"tstzrange":                    {"(,\"2000-01-01 00:00:00+00\"]"},
	"daterange":                    {"[2000-01-01,2000-01-02)", "[-infinity,infinity]"},
	"int8range":                    {"[-9223372036854775808,9223372036854775807)"},
	"int4multirange":               {"{}", "{[1,2),[5,6)}"},
	"nummultirange":                {"{(1.10,2],(3,)}"},
	"tsmultirange":                 {`{["2000-01-01 00:00:00",infinity)}`},
	"tstzmultirange":               {`{["2000-01-01 00:00:00+00",infinity)}`},
	"datemultirange":               {"{[2000-01-01,2000-01-02)}"},
	"int8multirange":               {"{(,)}"},
	"regdatabase":                  {"postgres"},
	"pg_ndistinct":                 nil, // these have no input
	"pg_dependencies":              nil,
	"pg_mcv_list":                  nil,
	"pg_node_tree":                 nil,
	"gtsvector":                    nil,
	"pg_brin_bloom_summary":        nil,
	"pg_brin_minmax_multi_summary": nil,
}

// typeTables makes a table for each type with its values, one for arrays of it, and one for ranges
// over it where there are.
func typeTables(t *testing.T, d *pgtest.DB) {
	t.Helper()
	d.Exec(`CREATE TABLE "hostile ""name"" \" (a int)`)
	types := strings.Split(d.Query(`SELECT typname FROM pg_type WHERE typtype IN ('b', 'r', 'm') AND typnamespace = 'pg_catalog'::regnamespace AND typcategory <> 'A' ORDER BY 1`), "\n")
	var sql strings.Builder
	for _, typ := range types {
		list, known := values[typ]
		if typ == "interval" && pgtest.Source(t).Major >= 15 {
			// those before do not read what they write
			list = append(slices.Clip(list), "2562047788:00:54.775807")
		}
		if !known {
			t.Errorf("type %s is not tested", typ)
		}
		if list == nil {
			continue
		}
		quoted := `pg_catalog."` + typ + `"`
		fmt.Fprintf(&sql, "CREATE TABLE %q (id int PRIMARY KEY, v %s, d int DEFAULT 5);\nINSERT INTO %q VALUES (0, NULL);\n",
			"type "+typ, quoted, "type "+typ)
		var all []string
		for i, v := range list {
			l := "'" + strings.ReplaceAll(v, "'", "''") + "'"
			all = append(all, l+"::"+quoted)
			fmt.Fprintf(&sql, "INSERT INTO %q VALUES (%d, %s);\n", "type "+typ, i+1, l)
		}
		if array := typ + "[]"; typ != "int2vector" && typ != "oidvector" {
			fmt.Fprintf(&sql, "CREATE TABLE %q (v %s[], w %s[][]);\nINSERT INTO %q VALUES ('{}', NULL), (ARRAY[%s, NULL], ARRAY[ARRAY[%s], ARRAY[%s]]);\n",
				array, quoted, quoted, array, strings.Join(all, ", "), all[0], all[0])
		}
	}
	d.Exec(sql.String())
	d.Exec(`CREATE TABLE "array bounds" AS SELECT '[-2:0][5:6]={{1,2},{3,NULL},{5,6}}'::int[] AS a`)
}

// Every type that has values arrives, in the format that is chosen and in text.
func TestEveryType(t *testing.T) {
	source, target := pgtest.Pair(t)
	typeTables(t, source)
	e := pgtest.NewEnv(t, source, target)
	load(t, e, "--slot", source.Name)
	pgtest.Equal(t, source, target)
	equalSchema(t, source, target, "--exclude-schema=pgsluice", "--no-publications")
	binary := target.Query("SELECT count(*) FROM pgsluice.tables WHERE status = 'loaded'")
	if n, _ := strconv.Atoi(binary); n < 100 {
		t.Errorf("%d tables were loaded", n)
	}
	text := pgtest.Target(t).Database(t, "")
	e = pgtest.NewEnv(t, source, text)
	load(t, e, "--format", "text")
	pgtest.Equal(t, source, text)
}

// Shapes of tables at the limits.
func TestLimits(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	var columns, row []string
	for i := range 1600 {
		columns = append(columns, fmt.Sprintf(`"column number %d" smallint`, i))
		row = append(row, strconv.Itoa(i))
	}
	source.Exec("CREATE TABLE widest ("+strings.Join(columns, ", ")+")", "INSERT INTO widest VALUES ("+strings.Join(row, ", ")+")",
		"INSERT INTO widest DEFAULT VALUES", "CREATE TABLE huge (id int PRIMARY KEY, v bytea)",
		"INSERT INTO huge SELECT 1, decode(repeat(md5('x'), 800000), 'hex') UNION ALL SELECT 2, '\\x00'",
		"CREATE TABLE huge_text (v text)", "ALTER TABLE huge_text ALTER v SET STORAGE EXTERNAL",
		"INSERT INTO huge_text SELECT repeat('0123456789', 20000000)")
	e := &pgtest.Env{T: t, Dir: pgtest.Programs(t, true), Source: source.URI, Target: target.URI}
	x, a := startPipe(e, nil, nil)
	peaks := map[string]func() int{"pgextract": x.WatchMemory(), "pgapply": a.WatchMemory()}
	if s := a.Wait(timeout); s != 0 {
		t.Fatalf("pgapply: %d\n%s%s", s, x.Errors(), a.Errors())
	}
	x.Wait(timeout)
	for _, table := range []string{"widest", "huge"} {
		pgtest.EqualTable(t, source, target, table)
	}
	const sum = "SELECT length(v), md5(v) FROM huge_text"
	if a, b := source.Query(sum), target.Query(sum); a != b {
		t.Errorf("a value of 200 MB: %s on the source, %s on the target", a, b)
	}
	// A row is in memory once at most.
	const limit = 260_000 // KiB
	for name, peak := range peaks {
		if peak := peak(); peak == 0 || peak > limit {
			t.Errorf("%s took %d KiB for a row of 200 MB", name, peak)
		} else {
			t.Logf("%s: %d KiB", name, peak)
		}
	}
}
