package plan

import (
	"strconv"
	"strings"
)

// An Operator tells whether two values are equal. None is the one of a type that has none.
type Operator struct {
	SQL  string // between the two values
	Type string // that both are to be cast to, if any
	// the type that a parameter is to be read as, where the operator does not say it: a record's
	Read      string
	Collation string // quoted, if it is not the column's
}

// Equals is the operator of PostgreSQL's own types. It is found by its name alone, since no schema
// is on the search path.
var Equals = Operator{SQL: "="}

// None is the zero Operator: only their text tells whether two values are the same.
var None Operator

// NewOperator returns the operator of that name. Both values are cast to typ, unless that is empty.
func NewOperator(schema, name, typ, collation string) Operator {
	if schema == "pg_catalog" && name == "=" {
		return Operator{SQL: "=", Collation: collation}
	}
	return Operator{SQL: "OPERATOR(" + QuoteIdent(schema) + "." + name + ")", Type: typ, Collation: collation}
}

// write writes a comparison of a column with what value writes.
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

// where writes the condition that finds one row by the old tuple: by the key, or by all columns, in
// which case exactly one of several rows that are the same to the last character is meant: with
// skipLocked, one that no other session has locked. Parameters are numbered from n+1 on; isNull
// says which columns are NULL and have no parameter.
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
	if t.Spread { // of several tables, rows have the same ctid
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

// same writes the condition that a row o is the same as the tuple in all columns, to the last
// character.
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
			// IS NULL is true for a row of NULLs, too.
			b.WriteString(name + " IS NOT DISTINCT FROM NULL")
			continue
		case c.Equal == None:
			n++
			t.sameText(b, name, i, n)
		case c.Exact:
			n++
			c.Equal.write(b, name, func() { b.WriteString("$" + strconv.Itoa(n)) })
		default:
			// An index finds those that are equal; among them, the text tells.
			n++
			c.Equal.write(b, name, func() { b.WriteString("$" + strconv.Itoa(n) + "::" + c.Type) })
			b.WriteString(" AND ")
			t.sameText(b, name, i, n)
		}
	}
}

// sameText writes the condition that column i, which is not NULL, has the same text as the
// parameter. A cast to text is another thing for some types, and the source may print values in
// another way: so the parameter is read and printed, too.
func (t *Table) sameText(b *strings.Builder, name string, i, n int) {
	b.WriteString(name + " IS DISTINCT FROM NULL AND pg_catalog.concat(" + name +
		`) COLLATE pg_catalog."C" = pg_catalog.concat($` + strconv.Itoa(n) + "::" + t.Columns[i].Type + ")")
}
