package plan

import (
	"encoding/binary"
	"errors"

	"github.com/pgsluice/pgsluice/format"
)

// A Log keeps the changes of a transaction in progress, before it is known whether the transaction
// commits. The encoding is compact, because there may be very many logs at once. A piece of a log
// can be stored as it is. A table is encoded as its Index, so only the run that makes a piece can
// read it.
//
// A change is its kind, its subtransaction and its table, each as a uvarint, and then its tuples. A
// tuple has a uvarint for each column: 0 for NULL, 1 for an unchanged value, 2n+2 for a text value
// of n bytes, and 2n+3 for a binary value of n bytes. The bytes of the value follow.
type Log struct {
	// Lend logs large values without copying them. The values must not change until TakeLent's
	// result has been used.
	Lend bool
	buf  []byte
	cuts []cut
}

// A cut is a lent value that belongs before byte number at of a log.
type cut struct {
	at    int
	value []byte
}

// TakeLent empties the log and returns its content as consecutive slices. The first slice is a
// piece of its own: it tells the reader to join the slices that follow before adding them.
func (l *Log) TakeLent() [][]byte {
	size := len(l.buf)
	pieces := [][]byte{nil}
	from := 0
	for _, c := range l.cuts {
		size += len(c.value)
		pieces = append(pieces, l.buf[from:c.at], c.value)
		from = c.at
	}
	pieces = append(pieces, l.buf[from:])
	var whole Log
	whole.head(logLent, 0, size)
	pieces[0] = whole.buf
	l.buf, l.cuts = nil, nil
	return pieces
}

// Lent reports whether a piece says that the slices that follow it must be joined, and returns
// their total size in bytes.
func Lent(piece []byte) (size int, ok bool) {
	c := logCursor{b: piece}
	kind, _, n := c.uvarint(), c.uvarint(), c.uvarint()
	return int(n), kind == logLent && !c.bad && len(c.b) == 0 && n <= maxLent
}

// Size returns how much memory the log takes, in bytes. It is 0 after Take.
func (l *Log) Size() int { return cap(l.buf) }

// Take returns the log's content and empties the log.
func (l *Log) Take() []byte {
	b := l.buf
	l.buf = nil
	return b
}

// Len returns the number of bytes logged.
func (l *Log) Len() int { return len(l.buf) }

// Clear empties the log and keeps its memory.
func (l *Log) Clear() { l.buf = l.buf[:0] }

// Append adds the content of another log.
func (l *Log) Append(other *Log) { l.buf = append(l.buf, other.buf...) }

// Open logs the changes of a group's open transaction that have not been folded.
func (l *Log) Open(sub uint32, g *Group) {
	var tuples [2]format.Tuple
	values := func(n int, t *Table, at int32) format.Tuple {
		if at == noTuple {
			return nil
		}
		tuple := tuples[n][:0]
		if tuple == nil {
			tuple = format.Tuple{}
		}
		for i := range t.Relation.Columns {
			kind, data := g.Value(at, i)
			tuple = append(tuple, format.Value{Kind: kind, Data: data})
		}
		tuples[n] = tuple
		return tuple
	}
	for i := g.folded; i < len(g.ops); i++ {
		op, t := g.Op(int32(i))
		switch op.Kind {
		case OpInsert:
			l.Insert(sub, t, values(0, t, op.New))
		case OpUpdate:
			l.Update(sub, t, values(0, t, op.Old), values(1, t, op.New))
		case OpDelete:
			l.Delete(sub, t, values(0, t, op.Old))
		case OpTruncate:
			l.Truncate(sub, g.Truncate(op))
		case OpDDL:
			l.DDL(sub, g.DDL(op))
		}
	}
}

// The kinds of logged changes. A truncate and DDL have arguments instead of tuples.
const (
	logInsert = iota
	logUpdate // without an old tuple
	logUpdateOld
	logDelete
	logTruncate
	logDDL
	logLent // starts a change with lent values
)

// maxLent limits the size of a change. Every record of a stream is shorter.
const maxLent = 1 << 31

func (l *Log) head(kind uint64, sub uint32, index int) {
	l.buf = binary.AppendUvarint(l.buf, kind)
	l.buf = binary.AppendUvarint(l.buf, uint64(sub))
	l.buf = binary.AppendUvarint(l.buf, uint64(index))
}

func (l *Log) tuple(t format.Tuple) {
	for i := range t {
		v := &t[i]
		n := uint64(len(v.Data))
		switch v.Kind {
		case format.Null:
			l.buf = append(l.buf, 0)
			continue
		case format.Unchanged:
			l.buf = append(l.buf, 1)
			continue
		case format.Binary:
			l.buf = binary.AppendUvarint(l.buf, 2*n+3)
		default:
			l.buf = binary.AppendUvarint(l.buf, 2*n+2)
		}
		if l.Lend && len(v.Data) >= minLent {
			l.cuts = append(l.cuts, cut{len(l.buf), v.Data})
			continue
		}
		l.buf = append(l.buf, v.Data...)
	}
}

// Insert logs an insert by a (sub)transaction.
func (l *Log) Insert(sub uint32, t *Table, new format.Tuple) {
	l.head(logInsert, sub, t.Index)
	l.tuple(new)
}

// Update logs an update. old is nil if the record has no old tuple.
func (l *Log) Update(sub uint32, t *Table, old, new format.Tuple) {
	if old == nil {
		l.head(logUpdate, sub, t.Index)
	} else {
		l.head(logUpdateOld, sub, t.Index)
		l.tuple(old)
	}
	l.tuple(new)
}

// Delete logs a delete.
func (l *Log) Delete(sub uint32, t *Table, old format.Tuple) {
	l.head(logDelete, sub, t.Index)
	l.tuple(old)
}

// Truncate logs a truncate.
func (l *Log) Truncate(sub uint32, op *TruncateOp) {
	l.head(logTruncate, sub, len(op.Tables))
	flag := byte(0)
	if op.RestartIdentity {
		flag = 1
	}
	l.buf = append(l.buf, flag)
	for _, t := range op.Tables {
		l.buf = binary.AppendUvarint(l.buf, uint64(t.Index))
	}
}

// DDL logs a statement that changes the schema.
func (l *Log) DDL(sub uint32, d *format.DDL) {
	l.head(logDDL, sub, len(d.SQL))
	l.buf = append(l.buf, d.SQL...)
	for _, s := range []string{d.SearchPath, d.Owner, d.Type} {
		l.string(s)
	}
	l.buf = binary.AppendUvarint(l.buf, uint64(len(d.Settings)))
	for name, value := range d.Settings {
		l.string(name)
		l.string(value)
	}
	l.buf = binary.AppendUvarint(l.buf, uint64(len(d.Objects)))
	for _, o := range d.Objects {
		l.string(o.Type)
		l.strings(o.Names)
		l.strings(o.Args)
	}
}

func (l *Log) string(s string) {
	l.buf = binary.AppendUvarint(l.buf, uint64(len(s)))
	l.buf = append(l.buf, s...)
}

func (l *Log) strings(list []string) {
	l.buf = binary.AppendUvarint(l.buf, uint64(len(list)))
	for _, s := range list {
		l.string(s)
	}
}

// A Replay reads pieces of logs into a group.
type Replay struct {
	Tables []*Table // by Index
	// Sub reports whether to add the changes of a subtransaction. It is called for each change,
	// just before the change is added.
	Sub func(sub uint32) bool
	// Table returns the table that the changes go to, or nil to skip them. It returns an error if
	// they cannot be applied.
	Table func(*Table) (*Table, error)
	// DDL is called for a statement after everything before it has been added. It returns the group
	// for what follows.
	DDL func(*format.DDL) (*Group, error)

	tuples [2]format.Tuple
}

var errLog = errors.New("a piece of a transaction in progress is damaged")

// Add adds the changes of a piece to the open transaction of a group.
func (r *Replay) Add(g *Group, piece []byte) (err error) {
	c := logCursor{b: piece}
	for len(c.b) > 0 {
		kind, sub, n := c.uvarint(), uint32(c.uvarint()), int(c.uvarint())
		if c.bad {
			return errLog
		}
		wanted := r.Sub(sub)
		switch kind {
		case logTruncate:
			err = r.truncate(g, &c, n, wanted)
		case logDDL:
			g, err = r.statement(g, &c, n, wanted)
		default:
			err = r.change(g, &c, kind, n, wanted)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// truncate adds a truncate of n tables.
func (r *Replay) truncate(g *Group, c *logCursor, n int, wanted bool) error {
	op := &TruncateOp{RestartIdentity: c.byte() == 1}
	for range n {
		i := int(c.uvarint())
		if c.bad || i >= len(r.Tables) {
			return errLog
		}
		t, err := r.wants(wanted, r.Tables[i])
		if err != nil {
			return err
		}
		if t != nil {
			op.Tables = append(op.Tables, t)
		}
	}
	if len(op.Tables) > 0 {
		g.AddTruncate(op)
	}
	return nil
}

// statement passes a statement of n bytes to r.DDL. It returns the group for what follows.
func (r *Replay) statement(g *Group, c *logCursor, n int, wanted bool) (*Group, error) {
	d := c.ddl(n)
	if c.bad {
		return g, errLog
	}
	if !wanted {
		return g, nil
	}
	return r.DDL(d)
}

// change adds a change of a row in table n.
func (r *Replay) change(g *Group, c *logCursor, kind uint64, n int, wanted bool) error {
	if n >= len(r.Tables) {
		return errLog
	}
	t := r.Tables[n]
	first, second := c.tuple(&r.tuples[0], t), format.Tuple(nil)
	if kind == logUpdateOld {
		second = c.tuple(&r.tuples[1], t)
	}
	if c.bad {
		return errLog
	}
	t, err := r.wants(wanted, t)
	if err != nil || t == nil {
		return err
	}
	switch kind {
	case logInsert:
		g.Insert(t, first)
	case logUpdate:
		g.Update(t, nil, first)
	case logUpdateOld:
		g.Update(t, first, second)
	case logDelete:
		g.Delete(t, first)
	default:
		return errLog
	}
	return nil
}

func (r *Replay) wants(wanted bool, t *Table) (*Table, error) {
	if !wanted {
		return nil, nil
	}
	return r.Table(t)
}

type logCursor struct {
	b   []byte
	bad bool
}

func (c *logCursor) uvarint() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.bad, c.b = true, nil
		return 0
	}
	c.b = c.b[n:]
	return v
}

// ddl reads a statement of n bytes, and its attributes.
func (c *logCursor) ddl(n int) *format.DDL {
	d := &format.DDL{Section: format.Change, SQL: string(c.bytes(n)), SearchPath: c.string(), Owner: c.string(), Type: c.string()}
	for n := c.uvarint(); n > 0 && !c.bad; n-- {
		if d.Settings == nil {
			d.Settings = make(map[string]string)
		}
		name := c.string()
		d.Settings[name] = c.string()
	}
	for n := c.uvarint(); n > 0 && !c.bad; n-- {
		d.Objects = append(d.Objects, format.Object{Type: c.string(), Names: c.strings(), Args: c.strings()})
	}
	return d
}

func (c *logCursor) string() string { return string(c.bytes(int(c.uvarint()))) }

func (c *logCursor) strings() (list []string) {
	for n := c.uvarint(); n > 0 && !c.bad; n-- {
		list = append(list, c.string())
	}
	return list
}

func (c *logCursor) byte() byte {
	if b := c.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *logCursor) bytes(n int) []byte {
	if n < 0 || n > len(c.b) {
		c.bad, c.b = true, nil
		return nil
	}
	b := c.b[:n:n]
	c.b = c.b[n:]
	return b
}

// tuple reads a tuple into buf. The table's relation has the number of columns.
func (c *logCursor) tuple(buf *format.Tuple, t *Table) format.Tuple {
	tuple := (*buf)[:0]
	if tuple == nil {
		tuple = format.Tuple{}
	}
	for range t.Relation.Columns {
		switch v := c.uvarint(); {
		case v == 0:
			tuple = append(tuple, format.Value{})
		case v == 1:
			tuple = append(tuple, format.Value{Kind: format.Unchanged})
		case v%2 == 1:
			tuple = append(tuple, format.Value{Kind: format.Binary, Data: c.bytes(int(v-3) / 2)})
		default:
			tuple = append(tuple, format.Value{Kind: format.Text, Data: c.bytes(int(v-2) / 2)})
		}
	}
	*buf = tuple
	return tuple
}
