package lines

import (
	"cmp"
	"errors"
	"slices"

	"github.com/pgsluice/pgsluice/cmd/internal/testdecoding"
	"github.com/pgsluice/pgsluice/format"
)

var (
	errOther      = errors.New("the row does not fit the table's definition: the table was altered after the row was changed")
	errNoIdentity = errors.New("an update or delete without a replica identity")
)

// A described is a table as it was last described in the stream.
type described struct {
	record *format.Relation
	keyed  bool
	names  []string // of all columns in a line, in order; with the types as they are printed
	types  []string
	// place is each column's place in the record; −1 for a generated column, which is not sent.
	place []int
	sign  string // of the table
}

// describe returns the description of a line's table. It writes the description if it is a new one.
// A new row has all columns, so that a column that was added, dropped or renamed shows.
func (d *Decoder) describe(t *Table, l *testdecoding.Line, write func(format.Record) error) (*described, error) {
	key := t.Schema + "\x00" + t.Name
	r := d.last[key]
	if r != nil && r.sign == t.Sign && (l.New == nil || r.fits(l.New)) {
		return r, nil
	}
	var err error
	if l.New == nil {
		r = t.describe()
	} else if r, err = t.describeAs(l.New); err != nil {
		return nil, err
	}
	if d.last == nil {
		d.last = make(map[string]*described)
	}
	d.last[key] = r
	return r, write(r.record)
}

// Relations returns the records of all tables described so far, ordered by OID.
func (d *Decoder) Relations() []*format.Relation {
	var all []*format.Relation
	for _, r := range d.last {
		all = append(all, r.record)
	}
	slices.SortFunc(all, func(a, b *format.Relation) int { return cmp.Compare(a.ID, b.ID) })
	return slices.CompactFunc(all, func(a, b *format.Relation) bool { return a.ID == b.ID })
}

// fits reports whether a new row has the described columns.
func (r *described) fits(row []testdecoding.Field) bool {
	if len(row) != len(r.names) {
		return false
	}
	for i := range row {
		if string(row[i].Name) != r.names[i] || string(row[i].Type) != r.types[i] {
			return false
		}
	}
	return true
}

// describe describes the table as the catalog has it.
func (t *Table) describe() *described {
	r := &described{record: &format.Relation{ID: t.ID, Schema: t.Schema, Name: t.Name, ReplicaIdentity: t.ReplicaIdentity}, sign: t.Sign}
	for _, c := range t.Columns {
		r.add(c)
	}
	return r
}

func (r *described) add(c Column) {
	r.names, r.types = append(r.names, c.Name), append(r.types, c.Printed)
	if c.Generated {
		r.place = append(r.place, -1)
		return
	}
	r.place = append(r.place, len(r.record.Columns))
	c.Column.Generated = false
	r.record.Columns = append(r.record.Columns, c.Column)
	r.keyed = r.keyed || c.Key
}

// describeAs describes the table with the columns of a row, where they are not those of the catalog
// any more. The columns that both have must be in the same order, and all of the key among them.
func (t *Table) describeAs(row []testdecoding.Field) (*described, error) {
	r := &described{record: &format.Relation{ID: t.ID, Schema: t.Schema, Name: t.Name, ReplicaIdentity: t.ReplicaIdentity}, sign: t.Sign}
	from := 0
	for _, f := range row {
		i := slices.IndexFunc(t.Columns, func(c Column) bool { return c.Name == string(f.Name) })
		switch {
		case i >= 0 && i < from:
			return nil, errOther
		case i >= 0 && t.Columns[i].Printed == string(f.Type):
			r.add(t.Columns[i])
			from = i + 1
		case i >= 0 && t.Columns[i].Key && t.ReplicaIdentity != "f":
			return nil, errOther
		default: // dropped, renamed or given another type since
			c := Column{Column: format.Column{Name: string(f.Name), Type: string(f.Type), TypeMod: -1, Key: t.ReplicaIdentity == "f"}, Printed: string(f.Type)}
			c.OID = t.typeOID(c.Printed)
			r.add(c)
			from = max(from, i+1)
		}
	}
	if t.ReplicaIdentity == "f" {
		return r, nil
	}
	for _, c := range t.Columns {
		if c.Key && !slices.Contains(r.names, c.Name) {
			return nil, errOther
		}
	}
	return r, nil
}

// typeOID returns the OID of a type that another column has, or 0.
func (t *Table) typeOID(printed string) uint32 {
	for _, c := range t.Columns {
		if c.Printed == printed {
			return c.OID
		}
	}
	return 0
}

// new makes a tuple of a row that has all columns.
func (r *described) new(tuple format.Tuple, row []testdecoding.Field, check bool) format.Tuple {
	if tuple == nil {
		tuple = format.Tuple{}
	}
	for i, f := range row {
		if r.place[i] >= 0 {
			tuple = append(tuple, value(f, check))
		}
	}
	return tuple
}

// old makes a tuple of a row that has the columns of the replica identity, or those of all columns
// that are not NULL.
func (r *described) old(tuple format.Tuple, row []testdecoding.Field, full, check bool) (format.Tuple, error) {
	tuple = slices.Grow(tuple[:0], len(r.record.Columns))[:len(r.record.Columns)]
	clear(tuple)
	next, keys := 0, 0
	for _, f := range row {
		for next < len(r.names) && r.names[next] != string(f.Name) {
			next++
		}
		if next == len(r.names) || r.types[next] != string(f.Type) {
			return nil, errOther
		}
		if i := r.place[next]; i >= 0 {
			if r.record.Columns[i].Key {
				keys++
			} else {
				return nil, errOther
			}
			tuple[i] = value(f, check)
		}
		next++
	}
	if full {
		return tuple, nil
	}
	for _, c := range r.record.Columns {
		if c.Key {
			keys--
		}
	}
	if keys != 0 {
		return nil, errOther
	}
	return tuple, nil
}

func value(f testdecoding.Field, check bool) format.Value {
	if check && f.Value.Kind == format.Text {
		return format.TextValue(f.Value.Data)
	}
	return f.Value
}
