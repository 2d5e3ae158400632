package plan_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/format"
)

// This file is a model of a source, which runs random statements and tells a group about them as a
// server's changes would, and of a target, which is written as package write does. Group's tests
// compare the two.

// A value is a format.Value that can be compared.
type value struct {
	kind format.ValueKind
	data string
}

type row []value

func (r row) String() string {
	var s []string
	for _, v := range r {
		switch v.kind {
		case format.Null:
			s = append(s, "null")
		case format.Binary:
			s = append(s, fmt.Sprintf("\\x%x", v.data))
		default:
			s = append(s, fmt.Sprintf("%q", v.data))
		}
	}
	return "(" + strings.Join(s, ", ") + ")"
}

// A tableSpec is a table together with what a source knows about it.
type tableSpec struct {
	*plan.Table
	toast  []bool // columns that are left out where they do not change
	binary []bool // columns that are sent in binary format
}

func (s *tableSpec) keyOf(r row) string {
	if s.Key == nil {
		return r.String()
	}
	var k row
	for _, i := range s.Key {
		k = append(k, r[i])
	}
	return k.String()
}

// spec makes a table out of a list of columns: a name, then "*" if it is of the key, "~" for one
// that is left out where it does not change, "1" for one in binary format, "=" for one that the
// target generates out of the one before.
func spec(name, columns string, more func(*plan.Table)) *tableSpec {
	s := &tableSpec{Table: &plan.Table{Schema: "public", Name: name, Foldable: true, Relation: &format.Relation{}}}
	for i, c := range strings.Fields(columns) {
		attrs := strings.TrimLeft(c, "abcdefghijklmnopqrstuvwxyz")
		col, _ := strings.CutSuffix(c, attrs)
		s.Columns = append(s.Columns, plan.Column{Name: col, Type: "text", OID: 25,
			Ignore: strings.Contains(attrs, "="), Equal: plan.Equals, Exact: true})
		if strings.Contains(attrs, "*") {
			s.Key = append(s.Key, i)
			s.Equal = append(s.Equal, plan.Equals)
		}
		s.toast = append(s.toast, strings.Contains(attrs, "~"))
		s.binary = append(s.binary, strings.Contains(attrs, "1"))
	}
	if s.Key == nil {
		s.Full, s.Foldable = true, false
	}
	if more != nil {
		more(s.Table)
	}
	return s
}

func full(t *plan.Table) { t.Full = true }

// specs returns tables of every kind. They are new each time, since a Table keeps statements.
func specs() []*tableSpec {
	return []*tableSpec{
		spec("simple", "id* a b", nil),
		spec("toast", "id* a~ b c~", nil),
		spec("composite", "a b* c d* e~", nil),
		spec("toasted", "a id*~ b~", nil), // a key long enough to be left out
		spec("whole", "id* a~ b", full),
		spec("wholetoasted", "a*~ b* c~", full),
		spec("generated", "id* a b= c~", nil),
		spec("keyless", "a b~ c", nil),
		spec("nobulk", "a b", func(t *plan.Table) { t.NoBulk = true }),
		spec("empty", "", func(t *plan.Table) { t.NoBulk = true }),
		spec("onebyone", "id* a b~", func(t *plan.Table) { t.Foldable = false }),
		spec("binary", "id* a1 b", nil),
		spec("binarykey", "id*1 a b~", full),
		spec("binarytoast", "id* a~1 b", full),
	}
}

// A database is the rows of each table; equal ones of tables without a key are counted.
type database map[*tableSpec]map[string]*entry

type entry struct {
	row   row
	count int
}

func newDatabase(tables []*tableSpec) database {
	db := make(database)
	for _, t := range tables {
		db[t] = make(map[string]*entry)
	}
	return db
}

func (db database) clone() database {
	c := make(database)
	for t, rows := range db {
		c[t] = make(map[string]*entry)
		for k, e := range rows {
			c[t][k] = &entry{slices.Clone(e.row), e.count}
		}
	}
	return c
}

func (db database) insert(t *tableSpec, r row) error {
	k := t.keyOf(r)
	e := db[t][k]
	switch {
	case e == nil:
		db[t][k] = &entry{slices.Clone(r), 1}
	case t.Key != nil:
		return fmt.Errorf("insert into %s: there is a row with %s", t.Name, k)
	default:
		e.count++
	}
	return nil
}

// remove takes one row out and returns it.
func (db database) remove(t *tableSpec, key string) (row, error) {
	e := db[t][key]
	if e == nil {
		return nil, fmt.Errorf("%s has no row %s", t.Name, key)
	}
	if e.count--; e.count == 0 {
		delete(db[t], key)
	}
	return slices.Clone(e.row), nil
}

func (db database) String() string {
	var b strings.Builder
	for _, t := range slices.SortedFunc(maps.Keys(db), func(a, b *tableSpec) int { return strings.Compare(a.Name, b.Name) }) {
		for _, k := range slices.Sorted(maps.Keys(db[t])) {
			fmt.Fprintf(&b, "%s %v × %d\n", t.Name, db[t][k].row, db[t][k].count)
		}
	}
	return b.String()
}

// generate fills what the server computes.
func (t *tableSpec) generate(r row) {
	for i := range r {
		if t.Columns[i].Ignore {
			r[i] = value{format.Text, "of " + r[i-1].data}
		}
	}
}

// A source runs random statements on a database and tells a group about them.
type source struct {
	*rand.Rand
	tables []*tableSpec
	db     database
}

// keys is small, so that the same row is hit again and again.
const keys = 6

func (s *source) value(t *tableSpec, i int, key bool) value {
	if !key && s.IntN(6) == 0 {
		return value{}
	}
	v := value{format.Text, fmt.Sprintf("v%d", s.IntN(4))}
	switch {
	case key:
		v.data = fmt.Sprintf("k%d", s.IntN(keys))
	case s.IntN(8) == 0:
		v.data = ""
	}
	if t.binary[i] {
		v.kind = format.Binary
	}
	return v
}

func (s *source) row(t *tableSpec) row {
	r := make(row, len(t.Columns))
	for i := range r {
		r[i] = s.value(t, i, slices.Contains(t.Key, i))
	}
	t.generate(r)
	return r
}

// pick returns the key of some row, "" if there is none.
func (s *source) pick(t *tableSpec) string {
	list := slices.Sorted(maps.Keys(s.db[t]))
	if len(list) == 0 {
		return ""
	}
	return list[s.IntN(len(list))]
}

// What a source sends: old has the key only, unless the identity is full; new leaves out what does
// not change.
func (t *tableSpec) old(r row) format.Tuple {
	var tuple format.Tuple // nil without columns, as format.Reader has it
	for i, v := range r {
		if !t.Full && !slices.Contains(t.Key, i) {
			v = value{}
		}
		tuple = append(tuple, v.format())
	}
	return tuple
}

func (t *tableSpec) new(before, after row) format.Tuple {
	var tuple format.Tuple // nil without columns, as format.Reader has it
	for i, v := range after {
		if before != nil && t.toast[i] && v == before[i] && v.kind != format.Null {
			v = value{kind: format.Unchanged}
		}
		tuple = append(tuple, v.format())
	}
	return tuple
}

func (v value) format() format.Value {
	if v.kind == format.Null || v.kind == format.Unchanged {
		return format.Value{Kind: v.kind}
	}
	return format.Value{Kind: v.kind, Data: []byte(v.data)}
}

// statement executes a random statement that the source's constraints allow. It reports whether
// there was one.
func (s *source) statement(g *plan.Group) (kind plan.OpKind, tables []*tableSpec, ok bool) {
	t := s.tables[s.IntN(len(s.tables))]
	tables = []*tableSpec{t}
	switch n := s.IntN(100); {
	case n < 40:
		r := s.row(t)
		if s.db.insert(t, r) != nil {
			return 0, nil, false
		}
		g.Insert(t.Table, t.new(nil, r))
		return plan.OpInsert, tables, true
	case n < 75:
		k := s.pick(t)
		if k == "" || len(t.Columns) == 0 {
			return 0, nil, false
		}
		before, _ := s.db.remove(t, k)
		after := slices.Clone(before)
		changeKey := s.IntN(6) == 0
		for i := range after {
			if isKey := slices.Contains(t.Key, i); s.IntN(2) == 0 && (!isKey || changeKey) {
				after[i] = s.value(t, i, isKey)
			}
		}
		t.generate(after)
		if s.db.insert(t, after) != nil {
			_ = s.db.insert(t, before)
			return 0, nil, false
		}
		var old format.Tuple
		// then it is sent as the old one
		keyLeftOut := slices.ContainsFunc(t.Key, func(i int) bool { return t.toast[i] })
		if t.Full || keyLeftOut || t.keyOf(before) != t.keyOf(after) {
			old = t.old(before)
		}
		g.Update(t.Table, old, t.new(before, after))
		return plan.OpUpdate, tables, true
	case n < 97:
		k := s.pick(t)
		if k == "" && len(s.db[t]) == 0 {
			return 0, nil, false
		}
		r, _ := s.db.remove(t, k)
		g.Delete(t.Table, t.old(r))
		return plan.OpDelete, tables, true
	case n < 98:
		d := &format.DDL{SQL: t.Name}
		s.db.execute(t)
		g.AddDDL(d)
		return plan.OpDDL, tables, true
	default:
		op := &plan.TruncateOp{RestartIdentity: s.IntN(2) == 0}
		tables = nil
		for _, n := range s.Perm(len(s.tables))[:min(len(s.tables), 1+s.IntN(3))] {
			t := s.tables[n]
			tables = append(tables, t)
			op.Tables = append(op.Tables, t.Table)
			clear(s.db[t])
		}
		g.AddTruncate(op)
		return plan.OpTruncate, tables, true
	}
}

// execute stands for a statement that changes the schema: it rewrites every row, so that it must
// stand between what was before and after it.
func (db database) execute(t *tableSpec) {
	rows := slices.Collect(maps.Values(db[t]))
	clear(db[t])
	for _, e := range rows {
		for i, v := range e.row {
			if !slices.Contains(t.Key, i) && !t.Columns[i].Ignore && v.kind == format.Text {
				e.row[i].data = v.data + "!"
			}
		}
		t.generate(e.row)
		for range e.count {
			_ = db.insert(t, e.row)
		}
	}
}

// A target is a database that is written as package write does.
type target struct {
	specs map[*plan.Table]*tableSpec
	named map[string]*tableSpec
	db    database
}

func newTarget(tables []*tableSpec) *target {
	t := &target{map[*plan.Table]*tableSpec{}, map[string]*tableSpec{}, newDatabase(tables)}
	for _, s := range tables {
		t.specs[s.Table], t.named[s.Name] = s, s
	}
	return t
}

// bulk is what becomes of a value in an array: all but text is NULL.
func bulk(g *plan.Group, tuple int32, i int) value {
	kind, v := g.Value(tuple, i)
	if kind != format.Text {
		return value{}
	}
	return value{format.Text, string(v)}
}

// param is what becomes of a value that is a parameter.
func param(g *plan.Group, tuple int32, i int) value {
	kind, v := g.Value(tuple, i)
	if kind == format.Null {
		return value{}
	}
	return value{kind, string(v)}
}

// writeSteps writes a group folded.
func (d *target) writeSteps(g *plan.Group) error {
	for _, step := range g.Steps() {
		if step.Fold == nil {
			for _, i := range step.Ops {
				if err := d.writeOp(g, i); err != nil {
					return err
				}
			}
			continue
		}
		if err := d.writeFold(g, step.Fold); err != nil {
			return err
		}
	}
	return nil
}

func (d *target) writeFold(g *plan.Group, f *plan.Fold) error {
	t := d.specs[f.Table]
	key := func(tuple int32) string {
		r := make(row, len(t.Columns))
		for _, i := range t.Key {
			r[i] = bulk(g, tuple, i)
		}
		return t.keyOf(r)
	}
	for _, tuple := range f.Deletes(nil) {
		if _, err := d.db.remove(t, key(tuple)); err != nil {
			return fmt.Errorf("bulk delete: %w", err)
		}
	}
	for _, tuple := range f.Absent(nil) {
		if d.db[t][key(tuple)] != nil {
			return fmt.Errorf("%s has a row %s", t.Name, key(tuple))
		}
	}
	var err error
	f.Updates(func(unchanged plan.Mask, list []int32) {
		cols := t.UpdateColumns(unchanged)
		met := make(map[string]bool)
		for _, tuple := range list {
			e := d.db[t][key(tuple)]
			if e == nil || met[key(tuple)] {
				err = fmt.Errorf("bulk update: %s has no row %s", t.Name, key(tuple))
				return
			}
			met[key(tuple)] = true
			for _, i := range cols[len(t.Key):] {
				e.row[i] = bulk(g, tuple, i)
			}
			t.generate(e.row)
		}
	})
	if err != nil {
		return err
	}
	for _, tuple := range f.Inserts(nil) {
		r := make(row, len(t.Columns))
		for _, i := range t.InsertColumns() {
			r[i] = bulk(g, tuple, i)
		}
		t.generate(r)
		if err := d.db.insert(t, r); err != nil {
			return fmt.Errorf("bulk: %w", err)
		}
	}
	return nil
}

func (d *target) writeOp(g *plan.Group, i int32) error {
	op, table := g.Op(i)
	t := d.specs[table]
	find := func(tuple int32) (string, error) {
		r := make(row, len(t.Columns))
		for _, i := range t.FindColumns() {
			r[i] = param(g, tuple, i)
		}
		t.generate(r)
		isNull := g.Mask(table, tuple, format.Null)
		for _, i := range t.FindColumns() {
			if isNull.Has(i) != (r[i].kind == format.Null) {
				return "", fmt.Errorf("the mask %s is wrong for %v", isNull, r)
			}
		}
		return t.keyOf(r), nil
	}
	switch op.Kind {
	case plan.OpTruncate:
		for _, t := range g.Truncate(op).Tables {
			clear(d.db[d.specs[t]])
		}
	case plan.OpDDL:
		d.db.execute(d.named[g.DDL(op).SQL])
	case plan.OpInsert:
		r := make(row, len(t.Columns))
		for _, i := range t.InsertColumns() {
			r[i] = param(g, op.New, i)
		}
		t.generate(r)
		return d.db.insert(t, r)
	case plan.OpUpdate:
		old := op.Old
		if old < 0 {
			old = op.New
		}
		key, err := find(old)
		if err != nil {
			return err
		}
		r, err := d.db.remove(t, key)
		if err != nil {
			return fmt.Errorf("update: %w", err)
		}
		for _, i := range t.SetColumns(g.Mask(table, op.New, format.Unchanged), op.Old >= 0) {
			r[i] = param(g, op.New, i)
		}
		t.generate(r)
		return d.db.insert(t, r)
	case plan.OpDelete:
		key, err := find(op.Old)
		if err != nil {
			return err
		}
		_, err = d.db.remove(t, key)
		return err
	}
	return nil
}
