package sqltext

import (
	"slices"
	"strings"
	"testing"
)

func texts(r Rules, q string) (l []string) {
	for _, s := range r.Split(q) {
		l = append(l, s.Text)
	}
	return l
}

// Where the server ends a string, and with it a statement. Each of these was once cut elsewhere.
func TestSplit_P4(t *testing.T) {
	for _, c := range []struct {
		rules Rules
		query string
		want  []string
	}{
		{Rules{}, "select E'a'\n'\\'; b; --'; c", []string{"select E'a'\n'\\'; b; --'", "c"}},
		{Rules{}, "select E'a' -- comment '\n -- more\n\t'\\'; b; --'; c",
			[]string{"select E'a' -- comment '\n -- more\n\t'\\'; b; --'", "c"}},
		// no newline: another string
		{Rules{}, "select E'a' '\\'; b; --'", []string{"select E'a' '\\'", "b"}},
		{Rules{}, "select E'a' /* \n */ '\\'; b", []string{"select E'a' /* \n */ '\\'", "b"}},
		{Rules{}, "select 'a'\n'\\'; b", []string{"select 'a'\n'\\'", "b"}},
		{Rules{}, `select '\'; b; --'; c`, []string{`select '\'`, "b"}},
		{Rules{Backslash: true}, `select '\'; b; --'; c`, []string{`select '\'; b; --'`, "c"}},
		{Rules{Backslash: true}, `select N'\'; b', X'\'; c`, []string{`select N'\'; b', X'\'`, "c"}},
		{Rules{Backslash: true}, `select "\"; b`, []string{`select "\"`, "b"}},
		{Rules{}, `select U&'\'; b; select U&"\;"; c`, []string{`select U&'\'`, "b", `select U&"\;"`, "c"}},
		{Rules{}, "select $a$;$$;$b$;$a$; b", []string{"select $a$;$$;$b$;$a$", "b"}},
		{Rules{}, "select a$b$;c$b$d; e", []string{"select a$b$", "c$b$d", "e"}},
		{Rules{}, "select $1; b", []string{"select $1", "b"}},
		{Rules{}, "select 1;; ;(select 2); /* ; */ -- ;\r; b", []string{"select 1", "(select 2)", "b"}},
		{Rules{}, "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 end; SELECT CASE WHEN true THEN 1 END; SELECT 1 AS end; END; b",
			[]string{"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 end; SELECT CASE WHEN true THEN 1 END; SELECT 1 AS end; END", "b"}},
		{Rules{}, "BEGIN; SELECT atomic; END; b", []string{"BEGIN", "SELECT atomic", "END", "b"}},
	} {
		if got := texts(c.rules, c.query); !slices.Equal(got, c.want) {
			t.Errorf("%s:\ngot  %q\nwant %q", c.query, got, c.want)
		}
	}
}

func TestTag(t *testing.T) {
	for q, want := range map[string]string{
		"create or replace procedural language x":                        "CREATE LANGUAGE",
		"CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)":                    "CREATE INDEX",
		"CREATE TEMP TABLE a AS SELECT 1":                                "CREATE TABLE AS",
		`CREATE TABLE "as" (a int)`:                                      "CREATE TABLE",
		"CREATE TABLE a (b int GENERATED ALWAYS AS (1) STORED)":          "CREATE TABLE",
		"CREATE CONSTRAINT TRIGGER x AFTER INSERT ON t":                  "CREATE TRIGGER",
		"CREATE DEFAULT CONVERSION c FOR 'a' TO 'b' FROM f":              "CREATE CONVERSION",
		"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO a":           "ALTER DEFAULT PRIVILEGES",
		"ALTER TEXT SEARCH DICTIONARY d (a = b)":                         "ALTER TEXT SEARCH DICTIONARY",
		"DROP FOREIGN DATA WRAPPER w":                                    "DROP FOREIGN DATA WRAPPER",
		"DROP OWNED BY x":                                                "DROP OWNED",
		"REFRESH MATERIALIZED VIEW v":                                    "REFRESH MATERIALIZED VIEW",
		"SECURITY LABEL ON TABLE t IS 'x'":                               "SECURITY LABEL",
		"select 1into t":                                                 "SELECT INTO",
		"WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x":             "",
		"INSERT INTO t VALUES (1)":                                       "",
		"DO $$BEGIN END$$":                                               "",
		"(SELECT 1 INTO t)":                                              "",
		"IMPORT FOREIGN SCHEMA s FROM SERVER x INTO y":                   "IMPORT FOREIGN SCHEMA",
		"CREATE FOREIGN TABLE t () SERVER s":                             "CREATE FOREIGN TABLE",
		"CREATE OPERATOR === (FUNCTION = f)":                             "CREATE OPERATOR",
		"CREATE OPERATOR CLASS c FOR TYPE t USING btree AS OPERATOR 1 <": "CREATE OPERATOR CLASS",
	} {
		s := Rules{}.Split(q)
		if len(s) != 1 || s[0].Tag() != want {
			t.Errorf("%s: %q, want %q", q, s[0].Tag(), want)
		}
	}
}

// Whatever a query is, its statements are parts of it, in order, and cutting it ends.
func FuzzSplit(f *testing.F) {
	for _, s := range []string{"a;b", "'", "$x$ ; $x$ ; y", "/* /* */", "E'\\'' ; x", "( ; )",
		"CREATE FUNCTION x BEGIN ATOMIC ; END ; y", "a CONCURRENTLY ;", "é;ü", "E'a'\n'\\", "1.e+", "U&"} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, q string, backslash bool) {
		rest := q
		for _, s := range (Rules{Backslash: backslash}).Split(q) {
			_, _ = s.Tag(), s.Fires()
			if strings.Contains(strings.ToUpper(s.Text+q), "CONCURRENTLY") {
				continue
			}
			i := strings.Index(rest, s.Text)
			if i < 0 {
				t.Fatalf("%q is not in what is left of %q", s.Text, q)
			}
			rest = rest[i+len(s.Text):]
		}
	})
}
