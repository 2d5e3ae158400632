package lines

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/format"
)

// A fake is a catalog whose tables a test changes.
type fake struct {
	tables  map[string]*Table
	until   format.LSN
	looks   int
	renamed []uint32
}

func (f *fake) Tables(names [][2]string) (map[[2]string]*Table, format.LSN, error) {
	f.looks++
	found := make(map[[2]string]*Table)
	for _, n := range names {
		if t := f.tables[n[1]]; t != nil {
			x := *t
			found[n] = &x
		}
	}
	return found, f.until, nil
}

func (f *fake) Renamed() ([]uint32, error)    { return f.renamed, nil }
func (f *fake) Recorder(uint32) (bool, error) { return false, nil }

func table(identity string, columns ...string) *Table {
	t := &Table{ID: 1, Schema: "s", Name: "t", ReplicaIdentity: identity, Insert: true, Update: true, Delete: true, Truncate: true, Sign: "1"}
	for _, c := range columns {
		c, key := strings.CutPrefix(c, "*")
		c, generated := strings.CutPrefix(c, "=")
		t.Columns = append(t.Columns, Column{format.Column{Name: c, Type: "text", OID: 25, TypeMod: -1, Key: key || identity == "f", Generated: generated}, "text"})
	}
	return t
}

// run decodes lines, each with an LSN ten higher, and returns what was written.
func run(d *Decoder, at *format.LSN, lines ...string) (string, error) {
	var out []string
	for _, l := range lines {
		*at += 10
		err := d.Decode([]byte(l), *at, false, func(rec format.Record) error {
			s := rec.Kind().String()
			switch r := rec.(type) {
			case *format.Relation:
				for _, c := range r.Columns {
					s += fmt.Sprintf(" %s%s", map[bool]string{true: "*"}[c.Key], c.Name)
				}
			case *format.Insert:
				s += values(r.New)
			case *format.Update:
				s += values(r.Old) + values(r.New)
			case *format.Delete:
				s += values(r.Old)
			case *format.Commit:
				s += fmt.Sprintf(" %d-%d", r.CommitLSN, r.EndLSN)
			}
			out = append(out, s)
			return nil
		})
		if err != nil {
			return strings.Join(out, "; "), err
		}
	}
	return strings.Join(out, "; "), nil
}

func values(t format.Tuple) string {
	if t == nil {
		return " -"
	}
	var s []string
	for _, v := range t {
		s = append(s, map[format.ValueKind]string{format.Null: "null", format.Unchanged: "same", format.Text: string(v.Data)}[v.Kind])
	}
	return " (" + strings.Join(s, " ") + ")"
}

const commit = " (at 2026-01-01 00:00:00+00)"

func TestRows(t *testing.T) {
	for _, c := range []struct {
		table      *Table
		line, want string // empty: an error
	}{
		{table("d", "*a", "b"), "INSERT: a[text]:'1' b[text]:null", "relation *a b; insert (1 null)"},
		{table("d", "*a", "b"), "UPDATE: a[text]:'1' b[text]:unchanged-toast-datum", "relation *a b; update - (1 same)"},
		{table("d", "*a", "b"), "UPDATE: old-key: a[text]:'1' new-tuple: a[text]:'2' b[text]:'x'", "relation *a b; update (1 null) (2 x)"},
		{table("f", "a", "b"), "UPDATE: old-key: b[text]:'1' new-tuple: a[text]:null b[text]:'x'", "relation *a *b; update (null 1) (null x)"},
		{table("f", "a", "b"), "DELETE: b[text]:'1'", "relation *a *b; delete (null 1)"},
		{table("d", "*a", "b"), "DELETE: a[text]:'1'", "relation *a b; delete (1 null)"},
		{table("d", "*a", "=b", "c"), "INSERT: a[text]:'1' b[text]:'1' c[text]:'2'", "relation *a c; insert (1 2)"},
		// The catalog is newer than the row: a column less, one more, another type.
		{table("d", "*a", "b", "c"), "INSERT: a[text]:'1' c[text]:'2'", "relation *a c; insert (1 2)"},
		{table("d", "*a", "c"), "INSERT: a[text]:'1' b[text]:'x' c[text]:'2'", "relation *a b c; insert (1 x 2)"},
		{table("d", "*a", "c"), "INSERT: a[text]:'1' c[integer]:2", "relation *a c; insert (1 2)"},
		// What does not fit is refused.
		{table("d", "*a", "b"), "INSERT: b[text]:'1' a[text]:'2'", ""},
		{table("d", "*a", "b"), "INSERT: b[text]:'1'", ""},
		{table("d", "*a", "b"), "INSERT: a[integer]:1 b[text]:'1'", ""},
		{table("d", "*a", "b"), "UPDATE: old-key: b[text]:'1' new-tuple: a[text]:'2' b[text]:'x'", ""},
		{table("d", "*a", "*b"), "DELETE: a[text]:'1'", ""},
		{table("d", "*a", "b"), "DELETE: a[text]:'1' b[text]:'2'", ""},
		{table("f", "a", "b"), "UPDATE: a[text]:'1' b[text]:'2'", ""},
		{table("d", "a", "b"), "UPDATE: a[text]:'1' b[text]:'2'", ""},
		{table("d", "*a", "b"), "DELETE: (no-tuple-data)", ""},
	} {
		d := &Decoder{Catalog: &fake{tables: map[string]*Table{"t": c.table}}, Version: 150000}
		var at format.LSN
		got, err := run(d, &at, "BEGIN 7", "table s.t: "+c.line, "COMMIT 7"+commit)
		if want := "begin; " + c.want + "; commit 29-30"; c.want != "" && (err != nil || got != want) {
			t.Errorf("%s: %s, %v; want %s", c.line, got, err, want)
		}
		if c.want == "" && err == nil {
			t.Errorf("%s: %s", c.line, got)
		}
	}
}

// A change is written only where the catalog is known to be that of the change.
func TestKnown(t *testing.T) {
	row := func(xid int, change string) []string {
		return []string{fmt.Sprintf("BEGIN %d", xid), "table s.t: " + change, fmt.Sprintf("COMMIT %d", xid) + commit}
	}
	empty := func(xid int) []string {
		return []string{fmt.Sprintf("BEGIN %d", xid), fmt.Sprintf("COMMIT %d", xid) + commit}
	}
	const update, insert = "UPDATE: a[text]:'1' b[text]:'2'", "INSERT: a[text]:'1' b[text]:'2'"
	young := func(xid uint32) *Table {
		x := table("d", "a", "*b")
		x.Sign, x.Young = "2", []uint32{xid}
		return x
	}
	f := &fake{tables: map[string]*Table{"t": table("d", "*a", "b")}, until: 100}
	d := &Decoder{Catalog: f, Version: 150000}
	var at format.LSN
	must := func(want string, lines ...string) {
		t.Helper()
		got, err := run(d, &at, lines...)
		if want == "" && fault.StatusOf(err) != fault.Unavailable || want != "" && (err != nil || !strings.Contains(got, want)) {
			t.Errorf("%s, %v; want %q", got, err, want)
		}
	}
	must("relation *a b", row(7, update)...)
	must("update", row(8, update)...)
	if f.looks != 1 { // both had committed before the first look
		t.Errorf("%d looks", f.looks)
	}
	at, f.until = 200, 300
	must("update", row(9, update)...) // nothing has changed
	// The key has changed: after this row, or before it.
	f.tables["t"], at, f.until = young(12), 400, 500
	must("", row(10, update)...)
	d.xid = 0
	must("commit", empty(12)...)
	must("relation a *b", row(13, update)...)
	// The row's own transaction has made the table.
	f.tables["t"], at, f.until = young(20), 600, 700
	must("insert", row(20, insert)...)
	f.tables["t"], at, f.until = young(21), 800, 900
	f.tables["t"].Sign = "3"
	must("", row(21, update)...)
	// It is gone: dropped, or renamed.
	d.xid = 0
	delete(f.tables, "t")
	at, f.until = 1000, 1100
	must("commit", row(22, update)...)
	f.renamed, at = []uint32{99}, 1200
	d = &Decoder{Catalog: f, Version: 150000}
	must("", row(23, update)...)
}

// What is too large to be held back becomes a block.
func TestLarge(t *testing.T) {
	f := &fake{tables: map[string]*Table{"t": table("d", "*a", "b")}}
	d := &Decoder{Catalog: f, Version: 150000}
	var at format.LSN
	big := "table s.t: INSERT: a[text]:'1' b[text]:'" + strings.Repeat("x", most) + "'"
	got, err := run(d, &at, "BEGIN 7", "table s.t: DELETE: a[text]:'1'", big, "table s.t: DELETE: a[text]:'2'", "COMMIT 7"+commit)
	var kinds []string
	for _, s := range strings.Split(got, "; ") {
		kind, _, _ := strings.Cut(s, " ")
		kinds = append(kinds, kind)
	}
	if s := strings.Join(kinds, " "); err != nil || s != "stream-start relation delete insert delete stream-stop stream-commit" {
		t.Errorf("%s, %v", s, err)
	}
	for _, lines := range [][]string{{"COMMIT 7" + commit}, {"BEGIN 7", "BEGIN 8"}, {"BEGIN 7", "COMMIT 8" + commit}, {"BEGIN 7", "COMMIT 7"}, {big}, {"nonsense"}} {
		if got, err := run(&Decoder{Catalog: f}, &at, lines...); err == nil {
			t.Errorf("%.40q: %.40s", lines, got)
		}
	}
}
