package testdecoding_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/cmd/internal/testdecoding"
	"github.com/pgsluice/pgsluice/format"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// seed returns the seed of a random test, and logs it.
func seed(t *testing.T) *rand.Rand {
	n := uint64(time.Now().UnixNano())
	if s := os.Getenv("PGSLUICE_TEST_SEED"); s != "" {
		n, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("PGSLUICE_TEST_SEED=%d", n)
	return rand.New(rand.NewPCG(n, 0))
}

// types has, for each type, expressions of its values.
var types = map[string][]string{
	"smallint": {"-32768", "7"}, "integer": {"0", "-2147483648"}, "bigint": {"9223372036854775807"}, "oid": {"4294967295"},
	"real": {"'NaN'", "'-Infinity'", "1e-30", "0.1"}, "double precision": {"'Infinity'", "1e300", "-0.5", "1/3::float8", "'-0'"},
	"numeric": {"'NaN'", "0.000", "-123456789012345678901234567890.5", "1e40"}, "numeric(8,2)": {"1.5"}, "boolean": {"true", "false"},
	"text":        {"''", "'null'", "'it''s'", `E'a\nb\\c\'\'\td'`, "' [x]:''y'' new-tuple: '", "'ü€😀'", "repeat('quote'' ', 500)"},
	"varchar(20)": {"'x'"}, "char(5)": {"'ab'", "''"}, `"char"`: {"'x'", `''`}, "name": {"'n'"}, "bytea": {`'\x00ff27'`, "''"},
	"bit(3)": {"B'101'"}, "bit": {"B'1'"}, "varbit": {"B''", "B'0110'"}, "timestamp": {"'2020-02-03 04:05:06.789'", "'infinity'", "'4000-01-01 BC'"},
	"timestamptz(3)": {"'2020-02-03 04:05:06.789+05'"}, "date": {"'-infinity'", "'2020-01-01'"}, "time": {"'24:00'"}, "timetz": {"'01:02:03+04'"},
	"interval": {"'-1 year 2 days -03:04'"}, "uuid": {"'123e4567-e89b-12d3-a456-426614174000'"}, "inet": {"'1.2.3.4'", "'::1/64'"},
	"json": {`'{"a" : "''b"}'`}, "jsonb": {`'[1, null, "x\\n"]'`}, "xml": {`'<a b="c">d</a>'`}, "money": {"'-12.5'"}, "point": {"'(1,2)'"}, "box": {"'(1,2),(3,4)'"},
	"tsvector": {`'a:1 ''b c'':2'`}, "int4range": {"'[1,5)'", "'empty'"}, "integer[]": {"'{1,NULL,3}'", "'[2:3]={1,2}'"}, `text[]`: {`ARRAY['a','b"c','{','NULL',NULL,'']`},
	`"Sch""e.ma"."m]o[o""d"`: {`'s''ad'`, `'"'`}, `"Sch""e.ma"."m]o[o""d"[]`: {`'{"s''ad"}'`}, `"Sch""e.ma".posint`: {"5"}, `"Sch""e.ma"."P air"`: {`'(1,"x''\\"" y")'`},
	"regclass": {"'pg_catalog.pg_class'"}, "pg_lsn": {"'1/2'"},
}

var columnNames = []string{"a", "B", "c d", "new-tuple", "old-key", `q"q`, "x]:", "[y", "select", "é", "n1", "_u", "oid[oid]:1 ", "p.q", ":", "'", "zz", "$1", "null", "B'1'"}

// Whatever the names, types and values: what is parsed are the names and types of the catalog, and
// each value as its output function prints it.
func TestServer(t *testing.T) { random(t, pgtest.Source(t)) }

func TestServerOld(t *testing.T) { random(t, pgtest.Old(t)) }

func random(t *testing.T, server *pgtest.Server) {
	r := seed(t)
	d := server.Database(t, "")
	d.Exec(`CREATE SCHEMA "Sch""e.ma"; CREATE TYPE "Sch""e.ma"."m]o[o""d" AS ENUM ('s''ad', '"'); CREATE DOMAIN "Sch""e.ma".posint AS int CHECK (VALUE > 0); CREATE TYPE "Sch""e.ma"."P air" AS (a int, b text)`)
	c := d.Connect()
	ctx := context.Background()
	exec := func(sql string) {
		t.Helper()
		if _, err := c.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec("SET search_path = ''; SET datestyle = ISO; SET timezone = UTC; SET bytea_output = hex; SET extra_float_digits = 3; SET lc_monetary = 'C'; SET xmloption = content")
	exec("SELECT pg_create_logical_replication_slot('" + d.Name + "', 'test_decoding')")
	kinds := keys
	if _, err := d.Try("SELECT '<a/>'::xml"); err != nil { // built without
		kinds = slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return k == "xml" })
	}
	rounds := 12
	if pgtest.Full() {
		rounds = 200
	}
	var p testdecoding.Parser
	withOIDs := 0
	for round := range rounds {
		table := pgx.Identifier{[]string{"public", `Sch"e.ma`}[r.IntN(2)], fmt.Sprintf([]string{"t%d", "T %d", `t"%d: INSERT:`, "t.%d,"}[r.IntN(4)], round)}
		identity := []string{"DEFAULT", "FULL", "NOTHING"}[r.IntN(3)]
		oids := ""
		if d.Major < 12 && r.IntN(2) == 0 {
			oids = " WITH OIDS"
		}
		var columns, values, shown []string
		for i := range r.IntN(len(columnNames)) {
			name := pgx.Identifier{columnNames[i]}.Sanitize()
			typ, value := pick(r, kinds)
			columns = append(columns, name+" "+typ)
			values = append(values, value)
			shown = append(shown, "pg_catalog.format('%s', "+name+")", name+" IS NULL",
				"pg_catalog.format_type(pg_catalog.pg_typeof("+name+")::pg_catalog.oid, NULL)")
		}
		exec("CREATE TABLE " + table.Sanitize() + " (id bigserial PRIMARY KEY" + prefix(columns) + ")" + oids)
		exec("ALTER TABLE " + table.Sanitize() + " REPLICA IDENTITY " + identity)
		next(t, c, d.Name, 0)
		withOIDs += len(oids)
		exec("INSERT INTO " + table.Sanitize() + " VALUES (DEFAULT" + prefix(values) + ")")
		want := firstRow(t, c, "SELECT pg_catalog.format('%s', id), id IS NULL, 'bigint'"+prefix(shown)+" FROM "+table.Sanitize())
		exec("UPDATE " + table.Sanitize() + " SET id = -id")
		exec("DELETE FROM " + table.Sanitize())
		if d.Major >= 11 {
			exec("TRUNCATE " + table.Sanitize() + " RESTART IDENTITY")
		}
		names := append([]string{"id"}, columnNames[:len(columns)]...)
		var got []string
		for _, data := range next(t, c, d.Name, 1) {
			l, err := p.Parse([]byte(data))
			if err != nil {
				t.Fatalf("%q: %v", data, err)
			}
			switch l.Kind {
			case testdecoding.Insert, testdecoding.Update, testdecoding.Delete, testdecoding.Truncate:
				if s := (pgx.Identifier{string(l.Tables[0].Schema), string(l.Tables[0].Table)}); s.Sanitize() != table.Sanitize() {
					t.Fatalf("%q: table %v", data, s)
				}
				got = append(got, fmt.Sprint(l.Kind))
			}
			want := want
			for _, row := range []*[]testdecoding.Field{&l.Old, &l.New} {
				if f := *row; oids != "" && len(f) > 0 && string(f[0].Name) == "oid" && string(f[0].Type) == "oid" {
					*row = f[1:]
					withOIDs = 0
				}
			}
			switch {
			case l.Kind == testdecoding.Update:
				if identity != "NOTHING" {
					compare(t, data, l.Old, names, want, identity == "FULL", 1)
				}
				want = append([]string{"-" + want[0]}, want[1:]...)
				compare(t, data, l.New, names, want, false, len(names))
			case l.Kind == testdecoding.Insert:
				compare(t, data, l.New, names, want, false, len(names))
			case l.Kind == testdecoding.Delete && identity != "NOTHING":
				want = append([]string{"-" + want[0]}, want[1:]...)
				compare(t, data, l.Old, names, want, identity == "FULL", 1)
			case l.Kind == testdecoding.Delete && l.Old != nil:
				t.Errorf("%q: an old row", data)
			}
		}
		if s := strings.Join(got, " "); s != "3 4 5 6" && (d.Major >= 11 || s != "3 4 5") {
			t.Errorf("round %d: lines %s", round, s)
		}
	}
	if withOIDs > 0 {
		t.Error("no row had an OID")
	}
}

func pick(r *rand.Rand, kinds []string) (typ, value string) {
	typ = kinds[r.IntN(len(kinds))]
	if r.IntN(5) == 0 {
		return typ, "NULL"
	}
	return typ, types[typ][r.IntN(len(types[typ]))]
}

var keys = slices.Sorted(maps.Keys(types))

func prefix(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return ", " + strings.Join(list, ", ")
}

// next reads the slot, which must have at least so many lines.
func next(t *testing.T, c *pgx.Conn, slot string, least int) []string {
	t.Helper()
	rows, err := c.Query(context.Background(), "SELECT data FROM pg_catalog.pg_logical_slot_get_changes('"+slot+"', NULL, NULL, 'include-timestamp', 'on')")
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(list) < least {
		t.Fatalf("%d lines: %v", len(list), err)
	}
	return list
}

// firstRow returns the values of the only row, in groups of three.
func firstRow(t *testing.T, c *pgx.Conn, sql string) []string {
	t.Helper()
	results, err := c.PgConn().Exec(context.Background(), sql).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	var list []string
	for _, v := range results[0].Rows[0] {
		list = append(list, string(v))
	}
	return list
}

// compare compares columns with the values, "is null" and types of the first n columns, or of all.
// Where the row is one of REPLICA IDENTITY FULL, NULLs are left out.
func compare(t *testing.T, line string, got []testdecoding.Field, names, want []string, full bool, n int) {
	t.Helper()
	var list []string
	for i, name := range names {
		value, null, typ := want[3*i], want[3*i+1] == "t", want[3*i+2]
		if !full && i >= n || full && null {
			continue
		}
		if null {
			value = "NULL"
		}
		list = append(list, fmt.Sprintf("%q %q %q", name, typ, value))
	}
	var have []string
	for _, f := range got {
		value := string(f.Value.Data)
		if f.Value.Kind == format.Null {
			value = "NULL"
		}
		have = append(have, fmt.Sprintf("%q %q %q", f.Name, f.Type, value))
	}
	if a, b := strings.Join(have, "\n"), strings.Join(list, "\n"); a != b {
		t.Errorf("%q: got\n%s\nwant\n%s", line, a, b)
	}
}
