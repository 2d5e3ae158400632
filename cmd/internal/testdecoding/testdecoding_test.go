package testdecoding_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/testdecoding"
	"github.com/pgsluice/pgsluice/format"
)

// text prints all that is in a line.
func text(l *testdecoding.Line) string {
	var names []string
	for _, n := range l.Tables {
		names = append(names, fmt.Sprintf("%s|%s", n.Schema, n.Table))
	}
	table := strings.Join(names, " ")
	switch l.Kind {
	case testdecoding.Begin:
		return fmt.Sprintf("begin %d", l.XID)
	case testdecoding.Commit:
		s := fmt.Sprintf("commit %d", l.XID)
		if l.Time != 0 {
			s += " at " + l.Time.Time().UTC().Format(time.RFC3339Nano)
		}
		return s
	case testdecoding.Insert:
		return fmt.Sprintf("insert %s new=%s", table, row(l.New))
	case testdecoding.Update:
		return fmt.Sprintf("update %s old=%s new=%s", table, row(l.Old), row(l.New))
	case testdecoding.Delete:
		return fmt.Sprintf("delete %s old=%s", table, row(l.Old))
	case testdecoding.Truncate:
		return fmt.Sprintf("truncate %s cascade=%t restart=%t", table, l.Cascade, l.RestartIdentity)
	case testdecoding.Message:
		return fmt.Sprintf("message transactional=%t %q %q", l.Transactional, l.Prefix, l.Content)
	}
	return "?"
}

func row(fields []testdecoding.Field) string {
	if fields == nil {
		return "none"
	}
	list := []string{}
	for _, f := range fields {
		v := "null"
		switch f.Value.Kind {
		case format.Text:
			v = fmt.Sprintf("%q", f.Value.Data)
		case format.Unchanged:
			v = "unchanged"
		}
		list = append(list, fmt.Sprintf("%s|%s=%s", f.Name, f.Type, v))
	}
	return "(" + strings.Join(list, " ") + ")"
}

var samples = []struct{ line, want string }{
	{"BEGIN 679", "begin 679"},
	{"COMMIT 679", "commit 679"},
	{"COMMIT 4294967295 (at 2022-01-01 00:00:00.000001+00)", "commit 4294967295 at 2022-01-01T00:00:00.000001Z"},
	{"COMMIT 3 (at 2022-01-01 00:00:00+00)", "commit 3 at 2022-01-01T00:00:00Z"},
	{"COMMIT 3 (at 2022-01-01 00:00:00.5+00)", "commit 3 at 2022-01-01T00:00:00.5Z"},
	{"table public.t: INSERT: id[integer]:1 v[text]:'x''y'", `insert public|t new=(id|integer="1" v|text="x'y")`},
	{"table public.t: INSERT:", "insert public|t new=()"},
	{`table "Sch""e.ma"."T.b l": INSERT: "a]"[integer[]]:'{1,2}' "sp ace"["char"]:'x' "q""q"[other.mood]:'sad'`,
		`insert Sch"e.ma|T.b l new=(a]|integer[]="{1,2}" sp ace|"char"="x" q"q|other.mood="sad")`},
	{`table s."new-tuple": INSERT: "old-key"["we]i[rd"."ty""]pe"[]]:'{}'`,
		`insert s|new-tuple new=(old-key|"we]i[rd"."ty""]pe"[]="{}")`},
	{"table public.t: INSERT: a[timestamp without time zone]:'2020-01-01 00:00:00' b[bit]:B'1' c[bit varying]:B'' d[boolean]:true e[boolean]:false f[text]:'null' g[text]:null",
		`insert public|t new=(a|timestamp without time zone="2020-01-01 00:00:00" b|bit="1" c|bit varying="" d|boolean="t" e|boolean="f" f|text="null" g|text=null)`},
	{"table public.t: INSERT: a[real]:-1e-05 b[double precision]:Infinity c[double precision]:-Infinity d[numeric]:NaN e[numeric]:0.00 f[real]:1e+20 g[oid]:4294967295",
		`insert public|t new=(a|real="-1e-05" b|double precision="Infinity" c|double precision="-Infinity" d|numeric="NaN" e|numeric="0.00" f|real="1e+20" g|oid="4294967295")`},
	{"table public.t: INSERT: oid[oid]:16400 a[text]:'line\nline\\n'''' new-tuple: x[text]:''' b[text]:''",
		`insert public|t new=(oid|oid="16400" a|text="line\nline\\n'' new-tuple: x[text]:'" b|text="")`},
	{"table public.t: UPDATE: id[integer]:1 big[text]:unchanged-toast-datum",
		`update public|t old=none new=(id|integer="1" big|text=unchanged)`},
	{"table public.t: UPDATE: old-key: id[integer]:1 new-tuple: id[integer]:2 big[text]:unchanged-toast-datum",
		`update public|t old=(id|integer="1") new=(id|integer="2" big|text=unchanged)`},
	{"table public.t: UPDATE: old-key: new-tuple: id[integer]:2", `update public|t old=() new=(id|integer="2")`},
	{"table public.t: DELETE: id[integer]:2", `delete public|t old=(id|integer="2")`},
	{"table public.t: DELETE:", "delete public|t old=()"},
	{"table public.t: DELETE: (no-tuple-data)", "delete public|t old=none"},
	{"table public.a, s.\"b, c\": TRUNCATE: (no-flags)", "truncate public|a s|b, c cascade=false restart=false"},
	{"table public.a: TRUNCATE: restart_seqs cascade", "truncate public|a cascade=true restart=true"},
	{"table public.a: TRUNCATE: cascade", "truncate public|a cascade=true restart=false"},
	{"message: transactional: 1 prefix: pfx, sz: 5 content:hello", `message transactional=true "pfx" "hello"`},
	{"message: transactional: 0 prefix: a, sz: 1 content:b, sz: 4 content:\n\x00''", `message transactional=false "a, sz: 1 content:b" "\n\x00''"`},
	{"message: transactional: 0 prefix: , sz: 0 content:", `message transactional=false "" ""`},
}

func TestParse(t *testing.T) {
	var p testdecoding.Parser
	for _, s := range samples {
		l, err := p.Parse([]byte(s.line))
		if err != nil {
			t.Errorf("%q: %v", s.line, err)
			continue
		}
		if got := text(l); got != s.want {
			t.Errorf("%q:\ngot  %s\nwant %s", s.line, got, s.want)
		}
	}
}

// What the plugin cannot have printed is refused, as is each beginning of a line that is not a line
// itself.
func TestParseRefuses(t *testing.T) {
	var p testdecoding.Parser
	for _, line := range []string{
		"", "BEGIN", "BEGIN ", "BEGIN 0", "BEGIN x", "BEGIN 1 2", "BEGIN 4294967296", "COMMIT 1 (at 2022)", "COMMIT 1 (at 2022-01-01 00:00:00+00) ",
		"table t: INSERT: a[integer]:1", "table public.T: INSERT: a[integer]:1", "table public.t: MERGE: a[integer]:1",
		"table public.t, public.u: INSERT: a[integer]:1", "table public.t: INSERT: (no-tuple-data)", "table public.t: UPDATE: (no-tuple-data)",
		"table public.t: INSERT: a:1", "table public.t: INSERT: a[]:1", "table public.t: INSERT: a[integer]:", "table public.t: INSERT: a[integer]:x",
		"table public.t: INSERT: a[integer]:1  b[integer]:1", "table public.t: INSERT: a[text]:'x'y", "table public.t: INSERT: a[text]:'x''",
		"table public.t: INSERT: a[text]:true", "table public.t: INSERT: a[bit]:B'2'", "table public.t: INSERT: a[integer]:1 new-tuple: b[integer]:1",
		"table public.t: UPDATE: old-key: a[integer]:1", "table public.t: DELETE: a[integer]:1 (no-tuple-data)", "table public.t: TRUNCATE:",
		"table public.t: TRUNCATE: cascade restart_seqs", "table public.t: INSERT: a[integer]:-", "table public.t: INSERT: a[integer]:e5",
		"message: transactional: 2 prefix: a, sz: 1 content:b", "message: transactional: 1 prefix: a, sz: 2 content:b",
		"message: transactional: 1 prefix: a, sz: -1 content:", "streaming one change",
	} {
		if l, err := p.Parse([]byte(line)); err == nil {
			t.Errorf("%q: %s", line, text(l))
		}
	}
}

// The beginning of a row's line is enough to know its table.
func TestHead(t *testing.T) {
	var p testdecoding.Parser
	for line, want := range map[string]string{
		`table public."T""": UPDATE: old-key: a[text]:'x`: `4 public.T"`, "table s.t: INSERT: a[text]:'x": "3 s.t",
		"table s.t: DELETE: a": "5 s.t", "table s.t: TRUNCATE: ": "0 .", "table s.t": "0 .", "BEGIN 1": "0 .",
	} {
		if k, n := p.Head([]byte(line)); fmt.Sprintf("%d %s.%s", k, n.Schema, n.Table) != want {
			t.Errorf("%q: %d %s.%s", line, k, n.Schema, n.Table)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range samples {
		f.Add([]byte(s.line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var p testdecoding.Parser
		l, err := p.Parse(line)
		if err != nil {
			return
		}
		// What is printed again by the plugin's rules is the line, or at least is parsed alike.
		want := text(l)
		again, err := new(testdecoding.Parser).Parse(print(l))
		if err != nil {
			t.Fatalf("%q, printed again as %q: %v", line, print(l), err)
		}
		if got := text(again); got != want {
			t.Fatalf("%q becomes\n%s\nand then\n%s", line, want, got)
		}
	})
}

// print prints a line as the plugin does.
func print(l *testdecoding.Line) []byte {
	var b strings.Builder
	quote := func(s []byte, q string) string { return q + strings.ReplaceAll(string(s), q, q+q) + q }
	fields := func(row []testdecoding.Field) {
		for _, f := range row {
			fmt.Fprintf(&b, " %s[%s]:", quote(f.Name, `"`), f.Type)
			switch {
			case f.Value.Kind == format.Null:
				b.WriteString("null")
			case f.Value.Kind == format.Unchanged:
				b.WriteString("unchanged-toast-datum")
			default:
				b.WriteString(quote(f.Value.Data, "'"))
			}
		}
	}
	names := make([]string, len(l.Tables))
	for i, n := range l.Tables {
		names[i] = quote(n.Schema, `"`) + "." + quote(n.Table, `"`)
	}
	table := "table " + strings.Join(names, ", ")
	switch l.Kind {
	case testdecoding.Begin:
		fmt.Fprintf(&b, "BEGIN %d", l.XID)
	case testdecoding.Commit:
		fmt.Fprintf(&b, "COMMIT %d", l.XID)
		if l.Time != 0 {
			fmt.Fprintf(&b, " (at %s)", l.Time.Time().UTC().Format("2006-01-02 15:04:05.999999-07"))
		}
	case testdecoding.Insert:
		b.WriteString(table + ": INSERT:")
		fields(l.New)
	case testdecoding.Update:
		b.WriteString(table + ": UPDATE:")
		if l.Old != nil {
			b.WriteString(" old-key:")
			fields(l.Old)
			b.WriteString(" new-tuple:")
		}
		fields(l.New)
	case testdecoding.Delete:
		b.WriteString(table + ": DELETE:")
		if l.Old == nil {
			b.WriteString(" (no-tuple-data)")
		}
		fields(l.Old)
	case testdecoding.Truncate:
		b.WriteString(table + ": TRUNCATE:")
		if l.RestartIdentity {
			b.WriteString(" restart_seqs")
		}
		if l.Cascade {
			b.WriteString(" cascade")
		}
		if !l.RestartIdentity && !l.Cascade {
			b.WriteString(" (no-flags)")
		}
	case testdecoding.Message:
		fmt.Fprintf(&b, "message: transactional: %d prefix: %s, sz: %d content:%s", map[bool]int{true: 1}[l.Transactional], l.Prefix, len(l.Content), l.Content)
	}
	return []byte(b.String())
}
