package write

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/format"
)

// few is the largest number of rows of a table that are written one by one. A statement for a
// single row costs the server about half of what a statement for an array costs.
const few = 2

// copyMin is the number of rows from which an insert is a COPY. Below it, an insert from arrays
// costs the server less than the setup of a COPY.
const copyMin = 200

// writeFolded writes a group folded, writeSingly change by change.
func (l *lane) writeFolded(b *pgwire.Batch, g *plan.Group) {
	l.join(b, g)
	for _, step := range g.Steps() {
		if step.Fold != nil {
			l.writeFold(b, g, step.Fold)
			continue
		}
		for _, i := range step.Ops {
			l.writeOp(b, g, i)
		}
	}
}

func (l *lane) writeSingly(b *pgwire.Batch, g *plan.Group) { l.writeRange(b, g, 0, int32(g.Len())) }

// writeRange writes changes first to next-1 one by one.
func (l *lane) writeRange(b *pgwire.Batch, g *plan.Group, first, next int32) {
	l.join(b, g)
	for i := first; i < next; i++ {
		l.writeOp(b, g, i)
	}
}

// join makes all nodes of a cluster commit the transaction, or none, if the group changes a table
// that is on several.
func (l *lane) join(b *pgwire.Batch, g *plan.Group) {
	for t := range g.Counts {
		if t.Join != "" {
			b.Do(t.Join)
			b.CopyDone()
			return
		}
	}
}

func (l *lane) writeFold(b *pgwire.Batch, g *plan.Group, f *plan.Fold) {
	t := f.Table
	if l.list = f.Deletes(l.list[:0]); len(l.list) <= few {
		for _, tuple := range l.list {
			l.deleteOne(b, g, t, tuple)
		}
	} else {
		l.bulk(b, g, t, t.BulkDelete(), t.Key, l.list, len(l.list))
	}
	if l.list = f.Absent(l.list[:0]); len(l.list) > 0 {
		l.bulk(b, g, t, t.BulkDelete(), t.Key, l.list, 0)
	}
	f.Updates(func(unchanged plan.Mask, list []int32) {
		if len(list) <= few {
			for _, tuple := range list {
				l.updateOne(b, g, t, tuple, tuple, false)
			}
			return
		}
		l.bulk(b, g, t, t.BulkUpdate(unchanged), t.UpdateColumns(unchanged), list, len(list))
	})
	switch l.list = f.Inserts(l.list[:0]); {
	case len(l.list) <= few:
		for _, tuple := range l.list {
			l.insertOne(b, g, t, tuple)
		}
	case len(l.list) < copyMin || t.NoCopy:
		l.bulk(b, g, t, t.BulkInsert(), t.InsertColumns(), l.list, -1)
	default:
		l.copyIn(b, g, t, l.list)
	}
}

// bulk executes a statement that has one array parameter for each of cols, with an element for each
// tuple in list. If meets is not negative, the last parameter is the number of rows that the
// statement must meet.
func (l *lane) bulk(b *pgwire.Batch, g *plan.Group, t *plan.Table, sql string, cols []int, list []int32, meets int) {
	l.sort(g, t, list)
	n := len(cols)
	if meets >= 0 {
		n++
	}
	b.Bind(l.s.name(b, sql), n, func(n int) bool { return n >= len(cols) || t.Columns[cols[n]].Carrier == "" })
	for _, i := range cols {
		oid, size := t.ElemOID(i)
		if oid == 0 {
			list := slices.Clone(list) // the caller reuses its own before this is written
			b.Written(func(w io.Writer) { textArray(w, g, i, t.Columns[i].Delimiter, list) })
			continue
		}
		b.Array(oid)
		for _, tuple := range list {
			kind, v := g.Value(tuple, i)
			switch {
			case kind != format.Text:
				b.NullElem()
			case size > 0:
				n, ok := parseInt(v, size)
				if !ok {
					l.bad = fmt.Errorf("invalid value %q for column %q of type %s", v, t.Columns[i].Name, t.Columns[i].Type)
				}
				b.IntElem(n, size)
			default:
				b.Elem(v)
			}
		}
		b.CloseArray()
	}
	if meets >= 0 {
		b.Bytes(binary.BigEndian.AppendUint64(make([]byte, 0, 8), uint64(meets)))
	}
	b.Execute()
	if l.bad != nil {
		b.Do(refuse)
	}
}

// refuse is a statement that fails, so that the server does not execute the rest of a batch.
const refuse = "SELECT 1 OPERATOR(pg_catalog./) 0"

// spoil makes a batch fail that cannot be written.
func (l *lane) spoil(b *pgwire.Batch, err error) {
	l.bad = err
	b.Do(refuse)
}

// textArray writes the values of a column as an array in text format.
func textArray(w io.Writer, g *plan.Group, i int, delimiter byte, list []int32) {
	buf := make([]byte, 0, 1<<10)
	next := byte('{')
	for _, tuple := range list {
		buf = append(buf, next)
		next = delimiter
		kind, v := g.Value(tuple, i)
		if kind != format.Text {
			buf = append(buf, "NULL"...)
			continue
		}
		buf = append(buf, '"')
		for _, c := range v {
			if c == '"' || c == '\\' {
				buf = append(buf, '\\')
			}
			if buf = append(buf, c); len(buf) > 64<<10 {
				_, _ = w.Write(buf)
				buf = buf[:0]
			}
		}
		buf = append(buf, '"')
	}
	_, _ = w.Write(append(buf, '}'))
}

// sort orders tuples by their key if it is an integer. The server then accesses neighboring rows
// and index entries one after the other.
func (l *lane) sort(g *plan.Group, t *plan.Table, list []int32) {
	const many = 100
	if len(list) < many || len(t.Key) == 0 {
		return
	}
	_, size := t.ElemOID(t.Key[0])
	if size == 0 {
		return
	}
	l.order = l.order[:0]
	for _, tuple := range list {
		_, v := g.Value(tuple, t.Key[0])
		n, _ := parseInt(v, size)
		l.order = append(l.order, keyed{n, tuple})
	}
	slices.SortFunc(l.order, func(a, b keyed) int { return cmp.Compare(a.key, b.key) })
	for i := range list {
		list[i] = l.order[i].tuple
	}
}

// A keyed is a tuple and its key.
type keyed struct {
	key   int64
	tuple int32
}

// parseInt parses the text form of an integer of size bytes.
func parseInt(v []byte, size int) (n int64, ok bool) {
	digits := v
	neg := len(v) > 0 && v[0] == '-'
	if neg {
		digits = v[1:]
	}
	if len(digits) == 0 || len(digits) > 19 {
		return 0, false
	}
	var u uint64
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		u = u*10 + uint64(c-'0')
	}
	limit := uint64(1) << (8*size - 1)
	if neg {
		return -int64(u), u <= limit
	}
	return int64(u), u < limit
}

// copyIn inserts rows by COPY.
func (l *lane) copyIn(b *pgwire.Batch, g *plan.Group, t *plan.Table, list []int32) {
	b.Do(t.CopyIn())
	cols := t.InsertColumns()
	const chunk = 64 << 10
	for len(list) > 0 {
		buf := b.OpenCopyData()
		for full := len(buf) + chunk; len(list) > 0 && len(buf) < full; list = list[1:] {
			for n, i := range cols {
				if n > 0 {
					buf = append(buf, '\t')
				}
				if kind, v := g.Value(list[0], i); kind == format.Text {
					buf = appendCopyText(buf, v)
				} else {
					buf = append(buf, '\\', 'N')
				}
			}
			buf = append(buf, '\n')
		}
		b.CloseCopyData(buf)
	}
	b.CopyDone()
}

// appendCopyText appends a value in COPY's text format.
func appendCopyText(buf, v []byte) []byte {
	start := 0
	for i, c := range v {
		if c > '\r' && c != '\\' {
			continue
		}
		var esc byte
		switch c {
		case '\\':
			esc = '\\'
		case '\n':
			esc = 'n'
		case '\r':
			esc = 'r'
		case '\t':
			esc = 't'
		default:
			continue
		}
		buf = append(append(buf, v[start:i]...), '\\', esc)
		start = i + 1
	}
	return append(buf, v[start:]...)
}

// writeOp writes one change by itself.
func (l *lane) writeOp(b *pgwire.Batch, g *plan.Group, i int32) {
	op, t := g.Op(i)
	switch op.Kind {
	case plan.OpTruncate:
		sql, err := truncate(g.Truncate(op))
		if err != nil {
			l.spoil(b, err)
			return
		}
		b.Do(sql)
	case plan.OpDDL:
		// flush passes a recorded statement to alter, so this is a mistake of the caller.
		l.spoil(b, errors.New("a recorded statement stands beside other changes"))
	case plan.OpSavepoint:
		b.Do("SAVEPOINT " + savepoint(uint32(op.New)))
	case plan.OpInsert:
		l.insertOne(b, g, t, op.New)
	case plan.OpUpdate:
		if op.Old >= 0 {
			l.updateOne(b, g, t, op.Old, op.New, true)
		} else {
			l.updateOne(b, g, t, op.New, op.New, false)
		}
	case plan.OpDelete:
		l.deleteOne(b, g, t, op.Old)
	}
}

func (l *lane) insertOne(b *pgwire.Batch, g *plan.Group, t *plan.Table, tuple int32) {
	cols := t.InsertColumns()
	b.Bind(l.s.name(b, t.OneInsert()), len(cols), binaryIn(g, tuple, cols))
	params(b, g, tuple, cols)
	b.Execute()
}

// updateOne updates the row that the tuple find finds to the values of the tuple to.
func (l *lane) updateOne(b *pgwire.Batch, g *plan.Group, t *plan.Table, find, to int32, keyChanges bool) {
	unchanged := g.Mask(t, to, format.Unchanged)
	if len(unsent(g, t, find)) > 0 {
		l.spoil(b, errKeyNotSent)
		return
	}
	set := t.SetColumns(unchanged, keyChanges)
	where, isNull := l.whereOf(g, t, find)
	set0 := binaryIn(g, to, set)
	where0 := binaryIn(g, find, where)
	b.Bind(l.s.name(b, t.OneUpdate(unchanged, keyChanges, isNull, l.skipLocked)), len(set)+len(where), func(n int) bool {
		if n < len(set) {
			return set0(n)
		}
		return where0(n - len(set))
	})
	params(b, g, to, set)
	params(b, g, find, where)
	b.Execute()
}

func (l *lane) deleteOne(b *pgwire.Batch, g *plan.Group, t *plan.Table, tuple int32) {
	where, isNull := l.whereOf(g, t, tuple)
	b.Bind(l.s.name(b, t.OneDelete(isNull, l.skipLocked)), len(where), binaryIn(g, tuple, where))
	params(b, g, tuple, where)
	b.Execute()
}

// whereOf returns the columns of an old tuple that find its row, and the columns that are NULL,
// which have no parameter.
func (l *lane) whereOf(g *plan.Group, t *plan.Table, tuple int32) (cols []int, isNull plan.Mask) {
	isNull = g.Mask(t, tuple, format.Null)
	for _, i := range t.FindColumns() {
		if !isNull.Has(i) {
			cols = append(cols, i)
		}
	}
	return cols, isNull
}

// errKeyNotSent means that the source has left out the key of an updated row.
var errKeyNotSent = errors.New("the source has not sent the key")

// unsent returns the columns that find a tuple's row, but that the source has left out.
func unsent(g *plan.Group, t *plan.Table, tuple int32) []string {
	var names []string
	for _, i := range t.FindColumns() {
		if kind, _ := g.Value(tuple, i); kind == format.Unchanged {
			names = append(names, t.Columns[i].Name)
		}
	}
	return names
}

func binaryIn(g *plan.Group, tuple int32, cols []int) func(int) bool {
	return func(n int) bool {
		kind, _ := g.Value(tuple, cols[n])
		return kind == format.Binary
	}
}

func params(b *pgwire.Batch, g *plan.Group, tuple int32, cols []int) {
	for _, i := range cols {
		kind, v := g.Value(tuple, i)
		if kind == format.Null {
			b.Null()
		} else {
			b.Bytes(v)
		}
	}
}

// writeChecks looks for duplicates in the deferrable unique keys, which the session does not
// enforce. It checks the rows that changes first to next-1 have written.
func (l *lane) writeChecks(b *pgwire.Batch, g *plan.Group, first, next int32) {
	deferrable := false
	for t := range g.Counts {
		deferrable = deferrable || len(t.Deferrable) > 0
	}
	if !deferrable {
		return
	}
	lists := make(map[*plan.Table][]int32)
	for i := first; i < next; i++ {
		op, t := g.Op(i)
		if t == nil || len(t.Deferrable) == 0 || op.Kind == plan.OpDelete {
			continue
		}
		lists[t] = append(lists[t], op.New)
	}
	for t, rows := range lists {
		for _, k := range t.Deferrable {
			l.bulk(b, g, t, t.CheckUnique(k), t.ColumnsOf(k), rows, -1)
		}
	}
}
