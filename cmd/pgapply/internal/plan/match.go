package plan

import (
	"strconv"
	"strings"
)

// An Operator decides whether two values are equal. A type without such an operator has None.
type Operator struct {
	SQL  string // between the two values
	Type string // both values are cast to it; empty: no cast
	// Read is the parameter's type where the operator does not imply it, as for a record.
	Read      string
	Collation string // quoted; empty: the column's
}

// Equals is the operator of PostgreSQL's own types. Its name alone is enough, because no schema is
// on the search path.
var Equals = Operator{SQL: "="}

// None is the zero Operator. Two values are then the same if their text is the same.
var None Operator

// NewOperator returns the operator with that name. It casts both values to typ, unless typ is
// empty.
func NewOperator(schema, name, typ, collation string) Operator {
	if schema == "pg_catalog" && name == "=" {
		return Operator{SQL: "=", Collation: collation}
	}
	return Operator{SQL: "OPERATOR(" + QuoteIdent(schema) + "." + name + ")", Type: typ, Collation: collation}
}

// write writes a comparison of a column with the expression that value writes.
func (o Operator) write(b *strings.Builder, column string, value func()) {
	cast := ""
	if o.Type != "" {
		cast = "::" + o.Type
	}
	b.WriteString(column + cast + " " + o.SQL + " ")
	value()
	if o.Read != "" {
		b.WriteString("::" + o.Read)
	}
	b.WriteString(cast)
	if o.Collation != "" {
		b.WriteString(" COLLATE " + o.Collation)
	}
}

// where writes the condition that finds one row by the old tuple. The condition compares the key,
// or all columns if the table has no key. Without a key, several rows can be identical, and the
// condition finds exactly one of them. With skipLocked, it finds one that no other session has
// locked. Parameters are numbered from n+1. isNull says which columns are NULL and have no
// parameter.
func (t *Table) where(b *strings.Builder, n int, isNull Mask, skipLocked bool) {
	if t.Key != nil {
		for k, i := range t.Key {
			if k > 0 {
				b.WriteString(" AND ")
			}
			name := "t." + QuoteIdent(t.Columns[i].Name)
			switch {
			case isNull.Has(i):
				b.WriteString(name + " IS NOT DISTINCT FROM NULL")
				continue
			case t.Equal[k] == None:
				n++
				t.sameText(b, name, i, n)
			default:
				n++
				t.Equal[k].write(b, name, func() { b.WriteString("$" + strconv.Itoa(n)) })
			}
		}
		return
	}
	t.atHome(b, n, isNull)
	if t.Spread { // rows of different partitions can have the same ctid
		b.WriteString("(t.tableoid, t.ctid) = (SELECT o.tableoid, o.ctid FROM ")
	} else {
		b.WriteString("t.ctid = (SELECT o.ctid FROM ")
	}
	t.target(b)
	b.WriteString(" AS o WHERE ")
	t.same(b, n, isNull)
	b.WriteString(" LIMIT 1")
	if skipLocked {
		b.WriteString(" FOR UPDATE SKIP LOCKED")
	}
	b.WriteString(")")
}

// atHome writes the condition that selects the node that has the row, if there are several. Only
// that node knows what the row's ctid means.
func (t *Table) atHome(b *strings.Builder, n int, isNull Mask) {
	for _, i := range t.FindColumns() {
		if isNull.Has(i) {
			continue
		}
		n++
		if c := &t.Columns[i]; c.Home {
			c.Equal.write(b, "t."+QuoteIdent(c.Name), func() { b.WriteString("$" + strconv.Itoa(n) + "::" + c.Type) })
			b.WriteString(" AND ")
		}
	}
}

// same writes the condition that row o has the same text as the tuple in all columns.
func (t *Table) same(b *strings.Builder, n int, isNull Mask) {
	cols := t.FindColumns()
	if len(cols) == 0 {
		b.WriteString("true")
	}
	for k, i := range cols {
		if k > 0 {
			b.WriteString(" AND ")
		}
		c := &t.Columns[i]
		name := "o." + QuoteIdent(c.Name)
		switch {
		case isNull.Has(i):
			// IS NULL is also true for a composite value whose fields are all NULL.
			b.WriteString(name + " IS NOT DISTINCT FROM NULL")
			continue
		case c.Equal == None:
			n++
			t.sameText(b, name, i, n)
		case c.Exact:
			n++
			c.Equal.write(b, name, func() { b.WriteString("$" + strconv.Itoa(n)) })
		default:
			// The operator lets an index find equal values. The text comparison selects among them.
			n++
			c.Equal.write(b, name, func() { b.WriteString("$" + strconv.Itoa(n) + "::" + c.Type) })
			b.WriteString(" AND ")
			t.sameText(b, name, i, n)
		}
	}
}

// sameText writes the condition that column i, which is not NULL, has the same text as the
// parameter. It does not cast to text, because such a cast does something else for some types. The
// source may print values in another way. So the target also reads and prints the parameter.
func (t *Table) sameText(b *strings.Builder, name string, i, n int) {
	b.WriteString(name + " IS DISTINCT FROM NULL AND pg_catalog.concat(" + name +
		`) COLLATE pg_catalog."C" = pg_catalog.concat($` + strconv.Itoa(n) + "::" + t.Columns[i].Type + ")")
}
