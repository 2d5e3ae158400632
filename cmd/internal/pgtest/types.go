package pgtest

import (
	"slices"
	"strings"
	"testing"
)

// values has, for every type of a server that has values which can be written, some at its edges.
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
	"unknown":                      nil, // a base type before version 10
	"smgr":                         nil,
	"abstime":                      nil, // version 12 has no longer these
	"reltime":                      nil,
	"tinterval":                    nil,
	"pg_brin_bloom_summary":        nil,
	"pg_brin_minmax_multi_summary": nil,
}

// A Type is a type of a server, and some of its values as text.
type Type struct {
	Name   string // quoted
	Short  string // without its schema
	Values []string
}

// Array reports whether arrays of the type can be written.
func (t Type) Array() bool { return t.Short != "int2vector" && t.Short != "oidvector" }

// Literals returns the values in SQL.
func (t Type) Literals() []string {
	list := make([]string, len(t.Values))
	for i, v := range t.Values {
		list[i] = "'" + strings.ReplaceAll(v, "'", "''") + "'::" + t.Name
	}
	return list
}

// Types returns all base, range and multirange types of the server that have values which can be
// written, and which a server of version target has as well. It makes a table that values of type
// regclass name. A type without an entry in values fails the test.
func Types(t testing.TB, d *DB, target int) (list []Type) {
	t.Helper()
	d.Exec(`CREATE TABLE IF NOT EXISTS public."hostile ""name"" \" (a int)`)
	for name := range strings.SplitSeq(d.Query(`SELECT typname FROM pg_type WHERE typtype IN ('b', 'r', 'm') AND typnamespace = 'pg_catalog'::regnamespace AND typcategory <> 'A' ORDER BY 1`), "\n") {
		all, known := values[name]
		switch {
		case !known:
			t.Errorf("type %s is not tested", name)
		case name == "interval" && min(d.Major, target) >= 15:
			// Those before do not read what they write.
			all = append(slices.Clip(all), "2562047788:00:54.775807")
		case name == "xml":
			if _, err := d.Try("SELECT '<a/>'::xml"); err != nil {
				all = nil // the server was built without libxml
			}
		}
		if all != nil {
			list = append(list, Type{Name: `pg_catalog."` + name + `"`, Short: name, Values: all})
		}
	}
	return list
}
