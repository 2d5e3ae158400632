package plan_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/format"
)

// logTables are two tables whose relations have two columns and one.
func logTables() []*plan.Table {
	var l []*plan.Table
	for i := range 2 {
		t := &plan.Table{Index: i, Schema: "public", Name: fmt.Sprintf("t%d", i), Foldable: true,
			Key: []int{0}, Relation: &format.Relation{Columns: make([]format.Column, 2-i)}}
		t.Columns = make([]plan.Column, 2-i)
		l = append(l, t)
	}
	return l
}

// list writes a group's changes out.
func list(g *plan.Group) (lines []string) {
	value := func(tuple int32, t *plan.Table) string {
		if tuple < 0 {
			return "-"
		}
		var b bytes.Buffer
		for i := range t.Columns {
			kind, v := g.Value(tuple, i)
			fmt.Fprintf(&b, "%v:%q ", kind, v)
		}
		return b.String()
	}
	for i := range int32(g.Len()) {
		op, t := g.Op(i)
		switch op.Kind {
		case plan.OpTruncate:
			for _, t := range g.Truncate(op).Tables {
				lines = append(lines, fmt.Sprintf("truncate %v %t", t, g.Truncate(op).RestartIdentity))
			}
		case plan.OpDDL:
			lines = append(lines, "ddl "+g.DDL(op).SQL+" "+g.DDL(op).SearchPath)
		case plan.OpSavepoint:
			lines = append(lines, fmt.Sprint("savepoint ", uint32(op.New)))
		default:
			lines = append(lines, fmt.Sprintf("%d %v %s→ %s", op.Kind, t, value(op.Old, t), value(op.New, t)))
		}
	}
	return lines
}

// What is read back from a log is what would have been added to a group at once, but for what was
// not wanted.
func TestLog(t *testing.T) {
	tables := logTables()
	long := bytes.Repeat([]byte("long"), 100)
	row := format.Tuple{{Kind: format.Text, Data: []byte("1")}, {Kind: format.Binary, Data: []byte{0, 1, 2}}}
	other := format.Tuple{{Kind: format.Text, Data: long}, {}}
	part := format.Tuple{{Kind: format.Text}, {Kind: format.Unchanged}}
	one := format.Tuple{{Kind: format.Text, Data: []byte("one")}}
	both := &plan.TruncateOp{Tables: tables, RestartIdentity: true}
	var log plan.Log
	var want plan.Group
	log.Insert(7, tables[0], row)
	want.Insert(tables[0], row)
	log.Update(4000000000, tables[0], row, part) // a subtransaction
	want.AddSavepoint(4000000000)
	want.Update(tables[0], row, part)
	log.Update(4000000000, tables[0], nil, other)
	want.Update(tables[0], nil, other)
	log.Delete(8, tables[1], one) // aborted
	log.Truncate(8, both)
	log.DDL(8, &format.DDL{SQL: "DROP TABLE everything"})
	log.Truncate(7, both)
	want.AddTruncate(both)
	log.DDL(7, &format.DDL{SQL: "ALTER TABLE t0", SearchPath: "public"})
	want.AddDDL(&format.DDL{SQL: "ALTER TABLE t0", SearchPath: "public"})
	log.Delete(7, tables[1], one)
	want.Delete(tables[1], one)
	want.Fold()

	var got plan.Group
	seen := false
	all := func(t *plan.Table) (*plan.Table, error) { return t, nil }
	r := plan.Replay{Tables: tables, Table: all, DDL: func(d *format.DDL) (*plan.Group, error) {
		got.AddDDL(d)
		return &got, nil
	}, Sub: func(sub uint32) bool {
		if sub == 4000000000 && !seen {
			seen = true
			got.AddSavepoint(sub)
		}
		return sub != 8
	}}
	if log.Size() == 0 {
		t.Error("no size")
	}
	piece := log.Take()
	if log.Size() != 0 {
		t.Error("not empty after Take")
	}
	if err := r.Add(&got, piece); err != nil {
		t.Fatal(err)
	}
	got.Fold()
	if a, b := list(&want), list(&got); !slices.Equal(a, b) {
		t.Errorf("want %q\ngot  %q", a, b)
	}

	// A table that is not wanted is left out, also of truncates; one that has a problem stops the
	// reading.
	var only plan.Group
	r.Table = func(t *plan.Table) (*plan.Table, error) {
		if t == tables[0] {
			return t, nil
		}
		return nil, nil
	}
	r.DDL = func(*format.DDL) (*plan.Group, error) { return &only, nil }
	if err := r.Add(&only, piece); err != nil {
		t.Fatal(err)
	}
	only.Fold()
	if l := list(&only); slices.Contains(l, "truncate public.t1 true") || !slices.Contains(l, "truncate public.t0 true") || len(l) != 4 {
		t.Errorf("got %q", l)
	}
	r.Table = func(*plan.Table) (*plan.Table, error) { return nil, fmt.Errorf("no such table") }
	if err := r.Add(&only, piece); err == nil {
		t.Error("no error")
	}

	// A damaged piece is an error, not a panic.
	r.Table = all
	for i := range piece {
		var g plan.Group
		_ = r.Add(&g, piece[:i])
		damaged := slices.Clone(piece)
		damaged[i] ^= 0x80
		_ = r.Add(&g, damaged)
	}
}
