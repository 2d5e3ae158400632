package plan_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/format"
)

// tuple makes a tuple of words: "null", "~" for an unchanged value, "#x" for a binary one, anything
// else is text.
func tuple(words ...string) format.Tuple {
	t := format.Tuple{}
	for _, w := range words {
		switch {
		case w == "null":
			t = append(t, format.Value{})
		case w == "~":
			t = append(t, format.Value{Kind: format.Unchanged})
		case strings.HasPrefix(w, "#"):
			t = append(t, format.Value{Kind: format.Binary, Data: []byte(w[1:])})
		case w == "''":
			t = append(t, format.Value{Kind: format.Text})
		default:
			t = append(t, format.Value{Kind: format.Text, Data: []byte(w)})
		}
	}
	return t
}

// play adds changes to the open transaction: "+ new", "- old", "= new", "old > new", "truncate",
// each with a table's values.
func play(g *plan.Group, t *plan.Table, changes string) {
	for _, c := range strings.Split(changes, ";") {
		w := strings.Fields(c)
		n := 0
		for n < len(w) && w[n] != ">" {
			n++
		}
		switch {
		case w[0] == "truncate":
			g.AddTruncate(&plan.TruncateOp{Tables: []*plan.Table{t}})
		case w[0] == "+":
			g.Insert(t, tuple(w[1:]...))
		case w[0] == "-":
			g.Delete(t, tuple(w[1:]...))
		case w[0] == "=":
			g.Update(t, nil, tuple(w[1:]...))
		default:
			g.Update(t, tuple(w[:n]...), tuple(w[n+1:]...))
		}
	}
}

// steps prints a group's steps: what a fold deletes, expects to be absent, updates and inserts, and
// the numbers of single changes.
func steps(g *plan.Group) string {
	var out []string
	for _, s := range g.Steps() {
		if s.Fold == nil {
			out = append(out, "one by one "+strings.Trim(fmt.Sprint(s.Ops), "[]"))
			continue
		}
		t := s.Fold.Table
		show := func(verb string, keyOnly bool, list []int32) {
			for _, tuple := range list {
				var w []string
				for i := range t.Columns {
					if keyOnly && !slices.Contains(t.Key, i) {
						continue
					}
					kind, v := g.Value(tuple, i)
					w = append(w, map[format.ValueKind]string{format.Null: "null", format.Unchanged: "~",
						format.Binary: "#" + string(v), format.Text: string(v)}[kind])
				}
				out = append(out, verb+strings.Join(w, " "))
			}
		}
		show("- ", true, s.Fold.Deletes(nil))
		show("not ", true, s.Fold.Absent(nil))
		s.Fold.Updates(func(m plan.Mask, list []int32) { show("= "+string(m)+" ", false, list) })
		show("+ ", false, s.Fold.Inserts(nil))
	}
	return strings.Join(out, "; ")
}

func TestFold(t *testing.T) {
	keyed := spec("t", "id* a b", nil).Table
	whole := spec("t", "id* a b", full).Table
	composite := spec("t", "a b* c d*", nil).Table
	keyless := spec("t", "a b", nil).Table
	noBulk := spec("t", "a b", func(t *plan.Table) { t.NoBulk = true }).Table
	onebyone := spec("t", "id* a b", func(t *plan.Table) { t.Foldable = false }).Table
	for _, test := range []struct {
		table         *plan.Table
		changes, want string
	}{
		{keyed, "+ 1 a b", "+ 1 a b"},
		{keyed, "= 1 a b", "=  1 a b"},
		{keyed, "- 1 null null", "- 1"},
		// Two changes of one row.
		{keyed, "+ 1 a b; = 1 c d", "+ 1 c d"},
		{keyed, "+ 1 a b; = 1 c ~", "+ 1 c b"},
		{keyed, "+ 1 a b; - 1 null null", "not 1"},
		{keyed, "= 1 a b; = 1 c d", "=  1 c d"},
		{keyed, "= 1 a b; = 1 c ~", "=  1 c b"},
		{keyed, "= 1 ~ b; = 1 c ~", "=  1 c b"},
		{keyed, "= 1 ~ b; = 1 ~ d", "= 01 1 ~ d"},
		{keyed, "= 1 ~ ~; = 1 ~ d", "= 01 1 ~ d"},
		{keyed, "= 1 a b; - 1 null null", "- 1"},
		{keyed, "- 1 null null; + 1 a b", "- 1; + 1 a b"},
		// More.
		{keyed, "+ 1 a b; - 1 null null; + 1 c d", "+ 1 c d"},
		{keyed, "+ 1 a b; - 1 null null; + 1 c d; - 1 null null", "not 1"},
		{keyed, "- 1 null null; + 1 a b; = 1 c ~", "- 1; + 1 c b"},
		{keyed, "= 1 ~ x; - 1 null null; + 1 a b; = 1 ~ c", "- 1; + 1 a c"},
		{keyed, "- 1 null null; + 1 a b; - 1 null null", "- 1"},
		{keyed, "= 1 a b; - 1 null null; + 1 c d; - 1 null null; + 1 e f", "- 1; + 1 e f"},
		// Several rows: each verb in the order in which the rows came first.
		{keyed, "+ 3 a b; = 1 c d; - 2 null null; + 1a e f; = 3 ~ g; = 4 ~ h; = 5 ~ i",
			"- 2; =  1 c d; = 01 4 ~ h; = 01 5 ~ i; + 3 a g; + 1a e f"},
		{composite, "+ a x b y; + a x b z; + a xy b ''; - null x null z", "not x z; + a x b y; + a xy b "},
		{composite, "+ a x b yz; + a xy b z", "+ a x b yz; + a xy b z"},
		// A key that changes is written by itself, between what was folded before it and after it.
		{keyed, "+ 1 a b; 1 null null > 2 a b; = 2 c d; - 1 null null", "+ 1 a b; one by one 1; - 1; =  2 c d"},
		{keyed, "1 null null > 2 a b; 2 null null > 3 a b; = 3 c d", "one by one 0 1; =  3 c d"},
		{composite, "null x null y > a x b z", "one by one 0"},
		// A key that was not sent since it is long: it comes as the old one.
		{keyed, "1 null null > ~ a b", "one by one 0"},
		{keyed, "= ~ a b", "one by one 0"},
		{keyed, "= null a b; - null null null; + null a b", "one by one 0 1 2"},
		// An old row has what the new one leaves out.
		{whole, "1 a b > 1 ~ c", "=  1 a c"},
		{whole, "1 a null > 1 x ~", "=  1 x null"},
		{whole, "1 a b > 1 x y; - 1 x y; + 1 z ~", "- 1; + 1 z ~"},
		{whole, "1 a b > 2 ~ ~", "one by one 0"},
		// Values in binary format.
		{keyed, "+ 1 #a b; = 1 #c d; - #1 null null; + #1 a b", "one by one 0 1 2 3"},
		{keyed, "= 1 a b; = 1 #c d; = 1 e f", "=  1 a b; one by one 1; =  1 e f"},
		{whole, "1 #a b > 1 ~ c", "one by one 0"},
		// Histories that no source has are left to the target to refuse, one by one.
		{keyed, "+ 1 a b; + 1 c d", "+ 1 a b; one by one 1"},
		{keyed, "= 1 a b; + 1 c d", "=  1 a b; one by one 1"},
		{keyed, "- 1 null null; = 1 a b", "- 1; one by one 1"},
		{keyed, "- 1 null null; - 1 null null", "- 1; one by one 1"},
		{keyed, "+ 1 a b; - 1 null null; = 1 a b", "not 1; one by one 2"},
		{keyed, "+ 1 a b; - 1 null null; - 1 null null", "not 1; one by one 2"},
		// Tables without a key.
		{keyless, "+ 1 a; + 1 a; - 1 a; + 1 b; 1 a > 1 c", "+ 1 a; + 1 a; one by one 2; + 1 b; one by one 4"},
		{keyless, "+ 1 #a", "one by one 0"},
		{noBulk, "+ 1 a; + 1 a", "one by one 0 1"},
		{onebyone, "+ 1 a b; = 1 c d; - 1 null null", "one by one 0 1 2"},
		{keyed, "+ 1 a b; truncate; + 1 c d", "+ 1 a b; one by one 1; + 1 c d"},
	} {
		g := new(plan.Group)
		g.Begin(1)
		play(g, test.table, test.changes)
		g.Commit(7, 1, 2, 0)
		if got := steps(g); got != test.want {
			t.Errorf("%s\n got %s\nwant %s", test.changes, got, test.want)
		}
	}
}

// Changes of several tables are folded table by table, beside one another.
func TestFoldTables(t *testing.T) {
	a, b, c := spec("a", "id* a", nil).Table, spec("b", "id* a", nil).Table, spec("c", "id* a", nil).Table
	g := new(plan.Group)
	g.Begin(1)
	play(g, a, "+ 1 x")
	play(g, b, "+ 1 x; 1 null > 2 x")
	play(g, a, "+ 2 x")
	play(g, b, "+ 1 y")
	g.Commit(7, 1, 2, 0)
	if got, want := steps(g), "+ 1 x; + 2 x; + 1 x; one by one 2; + 1 y"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// A truncate ends the folds of its own tables.
	g.Begin(3)
	g.AddTruncate(&plan.TruncateOp{Tables: []*plan.Table{b, c}})
	play(g, a, "+ 3 x")
	play(g, b, "+ 3 x")
	play(g, c, "+ 3 x")
	g.Commit(7, 3, 4, 0)
	if got, want := steps(g), "+ 1 x; + 2 x; + 3 x; + 1 x; one by one 2; + 1 y; one by one 5; + 3 x; + 3 x"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// DDL ends all.
	g.Begin(5)
	g.AddDDL(&format.DDL{SQL: "ALTER"})
	play(g, a, "+ 4 x")
	g.Commit(7, 5, 6, 0)
	if got, want := steps(g),
		"+ 1 x; + 2 x; + 3 x; + 1 x; one by one 2; + 1 y; one by one 5; + 3 x; + 3 x; one by one 9; + 4 x"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// What a record points to is copied: the next record overwrites it.
func TestTuplesAreCopied(t *testing.T) {
	table := spec("t", "id* a", nil).Table
	g := new(plan.Group)
	g.Begin(1)
	row := tuple("1", "value")
	g.Insert(table, row)
	for i := range row {
		copy(row[i].Data, bytes.Repeat([]byte("x"), 9))
	}
	row[0] = format.Value{}
	g.Commit(7, 1, 2, 0)
	if got := steps(g); got != "+ 1 value" {
		t.Error(got)
	}
}

// Text that is not UTF-8 travels as text: the session has the encoding to match.
func TestRawText(t *testing.T) {
	table := spec("t", "id* a", nil).Table
	g := new(plan.Group)
	g.Insert(table, format.Tuple{{Kind: format.Text, Data: []byte("1")}, {Kind: format.RawText, Data: []byte("\xe9")}})
	g.Commit(7, 1, 2, 0)
	if got := steps(g); got != "+ 1 \xe9" {
		t.Errorf("%q", got)
	}
}

// A huge transaction must not stay in memory for ever, nor must a table's fold.
func TestResetGivesMemoryBack(t *testing.T) {
	table := spec("t", "id* a", nil).Table
	g := new(plan.Group)
	big := strings.Repeat("x", 17<<20)
	g.Insert(table, tuple("1", big))
	for i := range 300_000 {
		g.Insert(table, tuple(fmt.Sprint("k", i), "a"))
	}
	g.Commit(7, 1, 2, 0)
	g.Reset()
	if n := g.Retained(); n > 16<<20 {
		t.Errorf("the group keeps %d bytes", n)
	}
	// One large fold and some small ones, each time in other places.
	for n := range 25 {
		for i := range 50_000 {
			g.Insert(table, tuple(fmt.Sprint("k", i), "a"))
		}
		for i := range n {
			play(g, table, fmt.Sprintf("x%d null > y%d a; + z%d b", i, i, i))
		}
		g.Commit(7, 1, 2, 0)
		g.Reset()
	}
	if n := g.Retained(); n > 32<<20 {
		t.Errorf("after many folds, the group keeps %d bytes", n)
	}
}
