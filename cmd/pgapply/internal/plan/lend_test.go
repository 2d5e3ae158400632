package plan_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/format"
)

// shares reports whether two slices are the same memory.
func shares(a, b []byte) bool { return len(a) > 0 && len(b) > 0 && &a[0] == &b[0] }

// Values that are lent to a group are where they were; folded, compared and moved they are what
// copies are.
func TestLentValues_H11(t *testing.T) {
	tables := logTables()
	long := func(s string) []byte { return bytes.Repeat([]byte(s), 1000) }
	text := func(b []byte) format.Value { return format.Value{Kind: format.Text, Data: b} }
	data := long("v")
	changes := func(g *plan.Group) {
		g.Insert(tables[0], format.Tuple{text(long("k")), text(data)})
		g.Lend = false
		g.Update(tables[0], nil, format.Tuple{text(long("k")), {Kind: format.Unchanged}})
		g.Update(tables[0], nil, format.Tuple{text([]byte("short")), {Kind: format.Binary, Data: long("b")}})
		g.Delete(tables[1], format.Tuple{text(long("k"))})
	}
	var lent, copied plan.Group
	lent.Lend = true
	changes(&lent)
	changes(&copied)
	if _, v := lent.Value(0, 1); !shares(v, data) {
		t.Error("a lent value was copied")
	}
	if _, v := copied.Value(0, 1); shares(v, data) {
		t.Error("a value was not copied")
	}
	if n := lent.Size(); n >= copied.Size() {
		t.Errorf("the lent values count: %d bytes", n)
	}
	var moved plan.Group
	lent.MoveOpen(&moved)
	if _, v := moved.Value(0, 1); shares(v, data) || !bytes.Equal(v, data) {
		t.Error("what is moved is not a copy")
	}
	changes2 := func(g *plan.Group) string { g.Fold(); return steps(g) }
	lent.Reset()
	lent.Lend = true
	changes(&lent)
	if a, b, c := changes2(&lent), changes2(&copied), changes2(&moved); a != b || a != c {
		t.Errorf("folded: lent\n%s\ncopied\n%s\nmoved\n%s", a, b, c)
	}
	lent.Reset()
	lent.Insert(tables[0], format.Tuple{text(data), text(data)})
	if _, v := lent.Value(0, 1); shares(v, data) {
		t.Error("Reset does not end the lending")
	}
}

// A change whose values are lent to a log comes out of what was put away as it went in.
func TestLentLog_H11(t *testing.T) {
	tables := logTables()
	big := func(n int) []byte { return bytes.Repeat([]byte("0123456789"), n/10) }
	rows := []format.Tuple{{{Kind: format.Text, Data: []byte("1")}, {Kind: format.Binary, Data: big(5000)}},
		{{Kind: format.Text, Data: big(70)}, {Kind: format.Unchanged}}}
	for name, add := range map[string]func(l *plan.Log, g *plan.Group){
		"insert": func(l *plan.Log, g *plan.Group) { l.Insert(7, tables[0], rows[0]); g.Insert(tables[0], rows[0]) },
		"update": func(l *plan.Log, g *plan.Group) {
			l.Update(7, tables[0], nil, rows[1])
			g.Update(tables[0], nil, rows[1])
		},
		"update with old": func(l *plan.Log, g *plan.Group) {
			l.Update(7, tables[0], rows[0], rows[1])
			g.Update(tables[0], rows[0], rows[1])
		},
		"delete": func(l *plan.Log, g *plan.Group) { l.Delete(7, tables[0], rows[0]); g.Delete(tables[0], rows[0]) },
		"nothing to lend": func(l *plan.Log, g *plan.Group) {
			l.Delete(7, tables[1], format.Tuple{{}})
			g.Delete(tables[1], format.Tuple{{}})
		},
		"another relation": func(l *plan.Log, g *plan.Group) {
			l.Insert(7, tables[1], rows[0][1:])
			g.Insert(tables[1], rows[0][1:])
		},
	} {
		var want, got plan.Group
		log := plan.Log{Lend: true}
		add(&log, &want)
		want.Fold()
		pieces := log.TakeLent()
		size, ok := plan.Lent(pieces[0])
		whole := bytes.Join(pieces[1:], nil)
		if !ok || size != len(whole) {
			t.Errorf("%s: %d bytes, %t, for %d", name, size, ok, len(whole))
		}
		r := plan.Replay{Tables: tables, Table: func(t *plan.Table) (*plan.Table, error) { return t, nil },
			Sub: func(uint32) bool { return true }}
		got.Lend = true
		if err := r.Add(&got, whole); err != nil {
			t.Fatal(err)
		}
		got.Fold()
		if !slices.Equal(list(&got), list(&want)) {
			t.Errorf("%s: got %q, want %q", name, list(&got), list(&want))
		}
		if _, ok := plan.Lent(whole); ok {
			t.Errorf("%s: a change looks like the head of one", name)
		}
		if err := r.Add(&got, pieces[0]); err == nil {
			t.Errorf("%s: the head of a change is taken for one", name)
		}
	}
	for _, b := range []string{"", "\x06", "\x06\x00", "\x06\x00\xff\xff\xff\xff\xff\xff\x7f", "\x06\x00\x01x"} {
		if n, ok := plan.Lent([]byte(b)); ok {
			t.Errorf("%q announces %d bytes", b, n)
		}
	}
}
