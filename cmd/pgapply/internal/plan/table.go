// Package plan decides what to write to the target. It collects the changes of source transactions
// into groups, folds the changes of each row to their net effect, and builds the statements. The
// package is pure: it knows records and tables, but no connection.
package plan

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/pgsluice/pgsluice/format"
)

// A Table is a relation of the stream and its table on the target. Columns[i] is the column for the
// i-th value of a tuple.
type Table struct {
	Index    int // among all tables of the stream
	Relation *format.Relation
	Schema   string // on the target
	Name     string
	OID      uint32 // on the target
	Only     bool   // an ordinary table: statements leave out its children
	Spread   bool   // a partitioned table: its rows are in other tables
	// Root is the table that rows are written to instead, if not nil. OID, Only and Spread are then
	// the root's.
	Root    *Root
	Columns []Column

	// Key has the columns that find a row, in ascending order. It is nil for a table without a key,
	// where all columns find the row.
	Key []int
	// Equal has the equality operator of each column in Key.
	Equal []Operator
	// Foldable is false if changes must be written one by one, in order: Key has no unique index,
	// or no array can carry a type.
	Foldable bool
	// NoBulk is true if rows can only be inserted one by one: the table has no columns to insert,
	// or no array can carry a type.
	NoBulk bool
	// NoCopy is true if the server refuses COPY FROM: the table is a view or a foreign table.
	NoCopy bool
	// Full is true if old tuples are whole rows.
	Full bool
	// Deferrable has the deferrable unique constraints. Replica mode does not enforce them, so
	// pgapply must check them.
	Deferrable []UniqueKey
	// Snapshot is the LSN of the snapshot of the loaded rows. The rows include every transaction
	// that ended by then.
	Snapshot format.LSN

	// Join is a COPY of no rows that a transaction which changes the table begins with, so that all
	// nodes of a cluster commit it or none does. It is empty for a table of one server.
	Join string

	// Problem is set if the relation cannot be applied. The first change reports it.
	Problem error

	mu  sync.Mutex // guards sql, which parallel sessions share
	sql map[shape]string
}

// A Root is a partitioned table of the target. Rows are written and found through it, because the
// target may have them in other partitions than the source.
type Root struct {
	Schema, Name string
	Leaves       int // how many partitions have rows
}

// A Column of a Table, as the target has it.
type Column struct {
	Name   string
	Type   string // for casts, without modifiers
	OID    uint32
	Ignore bool     // generated on the target: never written
	Fixed  bool     // the target can insert its values, but not update them: GENERATED ALWAYS AS IDENTITY
	Home   bool     // its value decides which node has the row
	Equal  Operator // the type's equality operator
	Exact  bool     // values that Equal finds equal have the same text

	// Carrier is the array type that carries values in bulk where the type's cast from text may
	// change them. It is empty for other types.
	Carrier   string
	Delimiter byte // between the elements of Carrier
}

// A UniqueKey is a unique constraint and its columns.
type UniqueKey struct {
	Name    string
	Columns []string
}

// QuoteIdent quotes an identifier.
func QuoteIdent(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// QualifiedName returns the table's schema and name, quoted for SQL.
func (t *Table) QualifiedName() string {
	return QuoteIdent(t.Schema) + "." + QuoteIdent(t.Name)
}

// Place returns the quoted name of the table that rows are written to.
func (t *Table) Place() string {
	if t.Root != nil {
		return QuoteIdent(t.Root.Schema) + "." + QuoteIdent(t.Root.Name)
	}
	return t.QualifiedName()
}

// String returns the table's name for messages.
func (t *Table) String() string { return t.Schema + "." + t.Name }

// A shape identifies a statement of a table.
type shape struct {
	verb verb
	// columns that are left out (bulk and single updates) or are NULL (tables without a key)
	mask string
	more string

	skipLocked bool
}

type verb uint8

const (
	bulkInsert verb = iota
	bulkUpdate
	bulkDelete
	copyIn
	oneInsert
	oneUpdate
	oneDelete
	deleteAny
	countKey
	checkUnique
	checkUniqueWhole
)

func (t *Table) statement(s shape, build func(*strings.Builder)) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	sql, ok := t.sql[s]
	if !ok {
		var b strings.Builder
		build(&b)
		sql = b.String()
		if t.sql == nil {
			t.sql = make(map[shape]string)
		}
		t.sql[s] = sql
	}
	return sql
}

func (t *Table) target(b *strings.Builder) {
	if t.Only {
		b.WriteString("ONLY ")
	}
	b.WriteString(t.Place())
}

// A Mask says which columns of a tuple are unchanged or NULL. It has one byte per column, '1' for
// yes. The empty mask means none.
type Mask string

// Has reports whether column i is in the mask.
func (m Mask) Has(i int) bool { return i < len(m) && m[i] == '1' }

func (t *Table) isKey(i int) bool {
	for _, k := range t.Key {
		if k == i {
			return true
		}
	}
	return false
}

// Inserted reports whether column i takes part in inserts.
func (t *Table) Inserted(i int) bool { return !t.Columns[i].Ignore }

// Updated reports whether an update with this mask sets column i. An update sets key columns only
// if the key changes.
func (t *Table) Updated(i int, unchanged Mask, keyChanges bool) bool {
	c := &t.Columns[i]
	return !c.Ignore && !unchanged.Has(i) && (keyChanges || t.Key == nil || !t.isKey(i))
}

// ElemOID returns the element type of the array parameter that carries column i in bulk, and the
// size of an integer type in bytes. All other types travel as text in the server's own notation.
// The server casts them. The element type of a Carrier is 0: the parameter is in text format, and
// the type's input function reads the elements.
func (t *Table) ElemOID(i int) (oid uint32, size int) {
	if t.Columns[i].Carrier != "" {
		return 0, 0
	}
	switch t.Columns[i].OID {
	case 20:
		return 20, 8
	case 21:
		return 21, 2
	case 23:
		return 23, 4
	}
	return 25, 0
}

var elemTypes = map[uint32]string{20: "pg_catalog.int8[]", 21: "pg_catalog.int2[]", 23: "pg_catalog.int4[]", 25: "pg_catalog.text[]"}

// unnest writes "(SELECT unnest($1::text[])::date AS c0, …) AS v" for the columns in list. A
// function in FROM would cost more, because the server materializes its rows first. The casts have
// no modifiers, because a cast to a type with a length truncates silently. They are here because a
// Citus cluster refuses a cast that depends on settings where it changes rows.
func (t *Table) unnest(b *strings.Builder, list []int) {
	b.WriteString("(SELECT ")
	for n, i := range list {
		if n > 0 {
			b.WriteString(", ")
		}
		oid, _ := t.ElemOID(i)
		c := &t.Columns[i]
		b.WriteString("unnest($" + strconv.Itoa(n+1) + "::" + cmp.Or(c.Carrier, elemTypes[oid]) + ")")
		if oid == 0 || oid == 25 && c.OID != 25 {
			b.WriteString("::" + c.Type) // from a Carrier, only to a domain
		}
		b.WriteString(" AS c" + strconv.Itoa(n))
	}
	b.WriteString(") AS v")
}

// given writes the n-th column of v.
func given(b *strings.Builder, n int) { b.WriteString("v.c" + strconv.Itoa(n)) }

func (t *Table) list(keep func(int) bool) []int {
	var l []int
	for i := range t.Columns {
		if keep(i) {
			l = append(l, i)
		}
	}
	return l
}

func (t *Table) names(b *strings.Builder, list []int) {
	for n, i := range list {
		if n > 0 {
			b.WriteString(", ")
		}
		b.WriteString(QuoteIdent(t.Columns[i].Name))
	}
}

// InsertColumns returns the columns that take part in inserts.
func (t *Table) InsertColumns() []int { return t.list(t.Inserted) }

// BulkInsert returns the statement that inserts rows given as one array for each of InsertColumns.
func (t *Table) BulkInsert() string {
	return t.statement(shape{verb: bulkInsert}, func(b *strings.Builder) {
		cols := t.InsertColumns()
		b.WriteString("INSERT INTO " + t.Place() + " (")
		t.names(b, cols)
		b.WriteString(") OVERRIDING SYSTEM VALUE SELECT ")
		for n := range cols {
			if n > 0 {
				b.WriteString(", ")
			}
			given(b, n)
		}
		b.WriteString(" FROM ")
		t.unnest(b, cols)
	})
}

// CopyIn returns the statement that takes rows of InsertColumns as COPY text.
func (t *Table) CopyIn() string {
	return t.statement(shape{verb: copyIn}, func(b *strings.Builder) {
		b.WriteString("COPY " + t.Place() + " (")
		t.names(b, t.InsertColumns())
		b.WriteString(") FROM STDIN")
	})
}

// UpdateColumns returns the columns that an update with this mask takes as parameters: the key's
// columns, then the columns that it sets.
func (t *Table) UpdateColumns(unchanged Mask) []int {
	set := t.list(func(i int) bool { return t.Updated(i, unchanged, false) })
	return append(append([]int{}, t.Key...), set...)
}

// counted builds a statement from the CTEs that write writes. The last CTE is w. The statement
// fails with 22012 (division by zero) unless w has as many rows as the parameter after the n-th
// says, or exactly one row if n is -1. The client cannot check the count itself: by the time of the
// reply, it has already sent the commit.
func counted(b *strings.Builder, n int, write func()) {
	b.WriteString("WITH ")
	write()
	b.WriteString(") SELECT 1/(pg_catalog.count(*) = ")
	if n < 0 {
		b.WriteString("1")
	} else {
		b.WriteString("$" + strconv.Itoa(n+1) + "::pg_catalog.int8")
	}
	b.WriteString(")::pg_catalog.int4 FROM w")
}

func (t *Table) matchKey(b *strings.Builder) {
	for n, i := range t.Key {
		if n > 0 {
			b.WriteString(" AND ")
		}
		t.Equal[n].write(b, "t."+QuoteIdent(t.Columns[i].Name), func() { given(b, n) })
	}
}

// BulkUpdate returns the statement that updates rows given as one array for each of UpdateColumns,
// and a count.
func (t *Table) BulkUpdate(unchanged Mask) string {
	return t.statement(shape{verb: bulkUpdate, mask: string(unchanged)}, func(b *strings.Builder) {
		cols := t.UpdateColumns(unchanged)
		set := cols[len(t.Key):]
		counted(b, len(cols), func() {
			switch {
			case len(set) == 0: // the row must still exist
				b.WriteString("w AS (SELECT 1 FROM ")
				t.target(b)
				b.WriteString(" AS t, ")
				t.unnest(b, cols)
				b.WriteString(" WHERE ")
				t.matchKey(b)
				return
			case t.replaced(set):
				b.WriteString("v AS (DELETE FROM ")
				t.target(b)
				b.WriteString(" AS t USING ")
				t.unnest(b, cols)
				b.WriteString(" WHERE ")
				t.matchKey(b)
				b.WriteString(" RETURNING v.*")
				t.reinsert(b, cols, func(n int) { given(b, n) })
				return
			}
			b.WriteString("w AS (UPDATE ")
			t.target(b)
			b.WriteString(" AS t SET ")
			for n, i := range set {
				if n > 0 {
					b.WriteString(", ")
				}
				b.WriteString(QuoteIdent(t.Columns[i].Name) + " = ")
				given(b, n+len(t.Key))
			}
			b.WriteString(" FROM ")
			t.unnest(b, cols)
			b.WriteString(" WHERE ")
			t.matchKey(b)
			b.WriteString(" RETURNING 1")
		})
	})
}

// replaced reports whether an update that sets these columns becomes a delete and an insert,
// because the server refuses to update one of them.
func (t *Table) replaced(set []int) bool {
	return slices.ContainsFunc(set, func(i int) bool { return t.Columns[i].Fixed })
}

// reinsert continues after a delete in v AS (DELETE … RETURNING …). It inserts the deleted row
// again, with the columns cols set to what value writes and the other columns kept.
func (t *Table) reinsert(b *strings.Builder, cols []int, value func(n int)) {
	kept := t.list(func(i int) bool { return t.Inserted(i) && !slices.Contains(cols, i) })
	for n, i := range kept {
		b.WriteString(", t." + QuoteIdent(t.Columns[i].Name) + " AS k" + strconv.Itoa(n))
	}
	b.WriteString("), w AS (INSERT INTO " + t.Place() + " (")
	t.names(b, append(slices.Clone(cols), kept...))
	b.WriteString(") OVERRIDING SYSTEM VALUE SELECT ")
	for n := range cols {
		if n > 0 {
			b.WriteString(", ")
		}
		value(n)
	}
	for n := range kept {
		b.WriteString(", v.k" + strconv.Itoa(n))
	}
	b.WriteString(" FROM v RETURNING 1")
}

// BulkDelete returns the statement that deletes rows given as one array for each column of Key, and
// a count.
func (t *Table) BulkDelete() string {
	return t.statement(shape{verb: bulkDelete}, func(b *strings.Builder) {
		counted(b, len(t.Key), func() {
			b.WriteString("w AS (DELETE FROM ")
			t.target(b)
			b.WriteString(" AS t USING ")
			t.unnest(b, t.Key)
			b.WriteString(" WHERE ")
			t.matchKey(b)
			b.WriteString(" RETURNING 1")
		})
	})
}

// OneInsert returns the statement that inserts one row, given as a parameter for each of
// InsertColumns.
func (t *Table) OneInsert() string {
	return t.statement(shape{verb: oneInsert}, func(b *strings.Builder) {
		b.WriteString("INSERT INTO " + t.Place())
		cols := t.InsertColumns()
		if len(cols) == 0 {
			b.WriteString(" DEFAULT VALUES")
			return
		}
		b.WriteString(" (")
		t.names(b, cols)
		b.WriteString(") OVERRIDING SYSTEM VALUE VALUES (")
		for n := range cols {
			if n > 0 {
				b.WriteString(", ")
			}
			b.WriteString("$" + strconv.Itoa(n+1))
		}
		b.WriteString(")")
	})
}

// FindColumns returns the columns that find a single row.
func (t *Table) FindColumns() []int {
	if t.Key != nil {
		return t.Key
	}
	return t.list(func(i int) bool { return !t.Columns[i].Ignore })
}

// SetColumns returns the columns that a single update with this mask sets. It includes key columns
// only if the key changes.
func (t *Table) SetColumns(unchanged Mask, keyChanges bool) []int {
	return t.list(func(i int) bool { return t.Updated(i, unchanged, keyChanges) })
}

// OneUpdate returns the statement that updates one row, given as a parameter for each of
// SetColumns, then one for each of FindColumns that is not NULL in the old tuple. The statement
// fails with division by zero unless it finds exactly one row.
func (t *Table) OneUpdate(unchanged Mask, keyChanges bool, isNull Mask, skipLocked bool) string {
	more := string(isNull)
	if keyChanges {
		more += "k"
	}
	return t.statement(shape{verb: oneUpdate, mask: string(unchanged), more: more, skipLocked: skipLocked}, func(b *strings.Builder) {
		set := t.SetColumns(unchanged, keyChanges)
		counted(b, -1, func() {
			switch {
			case len(set) == 0: // the row must still exist
				b.WriteString("w AS (SELECT 1 FROM ")
				t.target(b)
				b.WriteString(" AS t WHERE ")
				t.where(b, 0, isNull, skipLocked)
				return
			case t.replaced(set):
				b.WriteString("v AS (DELETE FROM ")
				t.target(b)
				b.WriteString(" AS t WHERE ")
				t.where(b, len(set), isNull, skipLocked)
				b.WriteString(" RETURNING 1")
				t.reinsert(b, set, func(n int) { b.WriteString("$" + strconv.Itoa(n+1)) })
				return
			}
			b.WriteString("w AS (UPDATE ")
			t.target(b)
			b.WriteString(" AS t SET ")
			for n, i := range set {
				if n > 0 {
					b.WriteString(", ")
				}
				b.WriteString(QuoteIdent(t.Columns[i].Name) + " = $" + strconv.Itoa(n+1))
			}
			b.WriteString(" WHERE ")
			t.where(b, len(set), isNull, skipLocked)
			b.WriteString(" RETURNING 1")
		})
	})
}

// OneDelete returns the statement that deletes one row, given as a parameter for each of
// FindColumns that is not NULL. The statement fails with division by zero unless it finds exactly
// one row.
func (t *Table) OneDelete(isNull Mask, skipLocked bool) string {
	return t.statement(shape{verb: oneDelete, more: string(isNull), skipLocked: skipLocked}, func(b *strings.Builder) {
		counted(b, -1, func() {
			b.WriteString("w AS (DELETE FROM ")
			t.target(b)
			b.WriteString(" AS t WHERE ")
			t.where(b, 0, isNull, skipLocked)
			b.WriteString(" RETURNING 1")
		})
	})
}

// DeleteAny returns the statement that deletes the row with a key, if the row exists. Its
// parameters are those of OneDelete.
func (t *Table) DeleteAny(isNull Mask) string {
	return t.statement(shape{verb: deleteAny, more: string(isNull)}, func(b *strings.Builder) {
		b.WriteString("DELETE FROM ")
		t.target(b)
		b.WriteString(" AS t WHERE ")
		t.where(b, 0, isNull, false)
	})
}

// CountKey returns the query that counts the rows that OneUpdate or OneDelete would find.
func (t *Table) CountKey(isNull Mask) string {
	return t.statement(shape{verb: countKey, more: string(isNull)}, func(b *strings.Builder) {
		b.WriteString("SELECT pg_catalog.count(*) FROM ")
		t.target(b)
		b.WriteString(" AS t WHERE ")
		t.where(b, 0, isNull, false)
	})
}

// CheckUnique returns the statement that fails with division by zero if two rows have the same
// values in a unique key. It looks at the rows given as one array for each of the key's columns. It
// replaces the server's check of deferrable constraints, which replica mode does not enforce.
func (t *Table) CheckUnique(k UniqueKey) string {
	return t.statement(shape{verb: checkUnique, more: k.Name}, func(b *strings.Builder) {
		cols := t.ColumnsOf(k)
		b.WriteString("SELECT 1/(CASE WHEN EXISTS (SELECT FROM (SELECT DISTINCT ")
		for n := range cols {
			if n > 0 {
				b.WriteString(", ")
			}
			given(b, n)
			b.WriteString(" AS c" + strconv.Itoa(n))
		}
		b.WriteString(" FROM ")
		t.unnest(b, cols)
		b.WriteString(") AS v JOIN ")
		t.target(b)
		b.WriteString(" AS t ON ")
		for n, i := range cols {
			if n > 0 {
				b.WriteString(" AND ")
			}
			name, value := "t."+QuoteIdent(t.Columns[i].Name), "v.c"+strconv.Itoa(n)
			if t.Columns[i].Equal == None { // NULLs are not duplicates
				b.WriteString(name + " IS DISTINCT FROM NULL AND " + value + " IS DISTINCT FROM NULL AND pg_catalog.concat(" + name +
					`) COLLATE pg_catalog."C" = pg_catalog.concat(` + value + ")")
				continue
			}
			t.Columns[i].Equal.write(b, name, func() { b.WriteString(value) })
		}
		b.WriteString(" GROUP BY ")
		for n := range cols {
			if n > 0 {
				b.WriteString(", ")
			}
			b.WriteString("v.c" + strconv.Itoa(n))
		}
		b.WriteString(" HAVING pg_catalog.count(*) > 1) THEN 0 ELSE 1 END)")
	})
}

// CheckUniqueWhole returns the statement that checks all rows. It is for a transaction that is too
// large to track which rows it wrote.
func (t *Table) CheckUniqueWhole(k UniqueKey) string {
	return t.statement(shape{verb: checkUniqueWhole, more: k.Name}, func(b *strings.Builder) {
		cols := t.ColumnsOf(k)
		b.WriteString("SELECT 1/(CASE WHEN EXISTS (SELECT FROM ")
		t.target(b)
		b.WriteString(" AS t WHERE ")
		for n, i := range cols {
			if n > 0 {
				b.WriteString(" AND ")
			}
			b.WriteString("t." + QuoteIdent(t.Columns[i].Name) + " IS NOT NULL")
		}
		b.WriteString(" GROUP BY ")
		t.names(b, cols)
		b.WriteString(" HAVING pg_catalog.count(*) > 1) THEN 0 ELSE 1 END)")
	})
}

// ColumnsOf returns the indexes of a unique key's columns.
func (t *Table) ColumnsOf(k UniqueKey) []int {
	var l []int
	for _, name := range k.Columns {
		for i := range t.Columns {
			if t.Columns[i].Name == name {
				l = append(l, i)
			}
		}
	}
	return l
}
