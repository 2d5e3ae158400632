package plan

import (
	"bytes"
	"hash/maphash"
	"slices"

	"github.com/pgsluice/pgsluice/format"
)

// A ref is a value of a group: its offset in the arena and its length. The two highest bits of n
// are the value's kind.
type ref struct{ off, n uint32 }

const (
	refText      = 0 << 30
	refBinary    = 1 << 30
	refNull      = 2 << 30
	refUnchanged = 3 << 30
	refKind      = 3 << 30
	refLen       = 1<<30 - 1
)

// lent is the bit of off that marks a value outside the arena. The other bits are then the value's
// index in Group.lent.
const lent = 1 << 31

// noTuple stands for a tuple that an operation does not have.
const noTuple = -1

// An OpKind says what an Op does.
type OpKind uint8

// The kinds of operations.
const (
	OpInsert OpKind = iota
	OpUpdate
	OpDelete
	OpTruncate
	OpDDL
	OpSavepoint
)

// An Op is one change, in source order. Old and New are tuples of the group, or noTuple. For a
// truncate or DDL, New is the index of the argument in Group.extras. For a savepoint, New is the
// subtransaction.
type Op struct {
	Kind  OpKind
	table int32
	Old   int32
	New   int32
}

// Counts counts the changes of a table.
type Counts struct{ Inserts, Updates, Deletes, Truncates uint64 }

// Add adds n, or subtracts it if sign is -1.
func (c *Counts) Add(n *Counts, sign int64) {
	c.Inserts += uint64(sign) * n.Inserts
	c.Updates += uint64(sign) * n.Updates
	c.Deletes += uint64(sign) * n.Deletes
	c.Truncates += uint64(sign) * n.Truncates
}

// A Group is a run of changes that is written to the target at once: whole source transactions, or
// a piece of one large transaction. It keeps every change in source order, in case the changes must
// be written one by one. It also folds the changes of each table to their net effect. Reset reuses
// its memory.
//
// A change first belongs to the open transaction, and is folded when that transaction commits. A
// transaction that never commits leaves no trace.
type Group struct {
	Transactions []Transaction // complete transactions, in order
	EndLSN       format.LSN    // of the last transaction, or of a later progress record
	Time         format.Time   // the source's clock at EndLSN
	OpenLSN      format.LSN    // commit LSN of the open transaction; 0 if not yet known
	Counts       map[*Table]*Counts
	Skip         bool // the changes are skipped; only the position advances
	// Lend adds large values without copying them. The values must not change until the group is
	// written.
	Lend bool

	arena   []byte
	lent    [][]byte
	refs    []ref
	ops     []Op
	folded  int // ops[:folded] are in steps; the rest is not folded yet
	tables  []*Table
	folds   []*Fold // the open Fold of each table; other Folds in steps are closed
	places  map[*Table]int32
	steps   []Step
	extras  []any // *TruncateOp, *format.DDL
	masks   map[string]Mask
	spare   []*Fold
	scratch []byte
	keys    []uint64 // hash table of the changed rows, for Meets
}

// A Transaction is a complete source transaction in a group.
type Transaction struct {
	XID       uint32
	CommitLSN format.LSN
	EndLSN    format.LSN
	Time      format.Time
	Ops       int // index of the first change after it
}

// A Step is a part of a group: a Fold, or Ops that are written one by one. Steps are written in
// order.
type Step struct {
	Fold *Fold
	Ops  []int32 // arguments for Group.Op
}

// A TruncateOp is the argument of an OpTruncate.
type TruncateOp struct {
	Tables          []*Table
	RestartIdentity bool
}

// Reset empties the group. It keeps the memory, unless a huge transaction made it large.
func (g *Group) Reset() {
	const keep = 16 << 20
	if cap(g.arena) > keep {
		g.arena = nil
	}
	if cap(g.refs) > keep/8 {
		g.refs = nil
	}
	if cap(g.ops) > keep/16 {
		g.ops = nil
	}
	clear(g.lent)
	for _, s := range g.steps {
		if s.Fold != nil {
			g.spare = append(g.spare, s.Fold)
		}
	}
	kept := 0 // bounds the sum: each of many folds may once have been large
	g.spare = slices.DeleteFunc(g.spare, func(f *Fold) bool {
		n := max(16, cap(f.rows))
		if kept+n > keepRows {
			return true
		}
		kept += n
		return false
	})
	*g = Group{Transactions: g.Transactions[:0], arena: g.arena[:0], lent: g.lent[:0], refs: g.refs[:0],
		ops: g.ops[:0], tables: g.tables[:0], folds: g.folds[:0], places: g.places,
		steps: g.steps[:0], extras: g.extras[:0], masks: g.masks, spare: g.spare, scratch: g.scratch, keys: g.keys, Counts: g.Counts}
	clear(g.places)
	clear(g.Counts)
}

// Size returns roughly how many bytes the group's content takes, without lent values.
func (g *Group) Size() int { return len(g.arena) + 8*len(g.refs) + 32*len(g.ops) }

// Len returns the number of changes that are folded: those of complete transactions, and those that
// Fold took from the open transaction.
func (g *Group) Len() int { return g.folded }

// Ready reports whether there is anything to write.
func (g *Group) Ready() bool { return g.EndLSN != 0 }

// Pending returns the number of changes of the open transaction.
func (g *Group) Pending() int { return len(g.ops) - g.folded }

// Steps returns the steps to write, in order.
func (g *Group) Steps() []Step { return g.steps }

// CommitLSN returns the commit LSN of change i's transaction.
func (g *Group) CommitLSN(i int32) format.LSN {
	for _, t := range g.Transactions {
		if int(i) < t.Ops {
			return t.CommitLSN
		}
	}
	return g.OpenLSN
}

// Op returns change i and its table. The table is nil for a change that is not of one table's rows.
func (g *Group) Op(i int32) (Op, *Table) {
	op := g.ops[i]
	if op.table == noTuple {
		return op, nil
	}
	return op, g.tables[op.table]
}

// Truncate returns the argument of an OpTruncate.
func (g *Group) Truncate(op Op) *TruncateOp { return g.extras[op.New].(*TruncateOp) }

// DDL returns the argument of an OpDDL.
func (g *Group) DDL(op Op) *format.DDL { return g.extras[op.New].(*format.DDL) }

// Value returns column i of a tuple. The bytes are valid until Reset.
func (g *Group) Value(tuple int32, i int) (format.ValueKind, []byte) {
	r := g.refs[int(tuple)+i]
	switch r.n & refKind {
	case refNull:
		return format.Null, nil
	case refUnchanged:
		return format.Unchanged, nil
	case refBinary:
		return format.Binary, g.data(r)
	}
	return format.Text, g.data(r)
}

// data returns the bytes of a text or binary value.
func (g *Group) data(r ref) []byte {
	if r.off&lent != 0 {
		return g.lent[r.off&^lent]
	}
	return g.arena[r.off : r.off+r.n&refLen]
}

// Mask returns which columns of a tuple are of the given kind, Null or Unchanged.
func (g *Group) Mask(t *Table, tuple int32, kind format.ValueKind) Mask {
	want := uint32(refNull)
	if kind == format.Unchanged {
		want = refUnchanged
	}
	return g.mask(g.refs[tuple:int(tuple)+len(t.Columns)], want)
}

func (g *Group) mask(refs []ref, want uint32) Mask {
	last := -1
	for i := range refs {
		if refs[i].n&refKind == want {
			last = i
		}
	}
	if last < 0 {
		return ""
	}
	b := g.scratch[:0]
	for i := range refs[:last+1] {
		c := byte('0')
		if refs[i].n&refKind == want {
			c = '1'
		}
		b = append(b, c)
	}
	g.scratch = b
	m, ok := g.masks[string(b)]
	if !ok {
		if g.masks == nil {
			g.masks = make(map[string]Mask)
		}
		m = Mask(b)
		g.masks[string(m)] = m
	}
	return m
}

// minLent is the length from which a value is lent instead of copied.
const minLent = 64

// tuple copies a tuple, which may have no columns, into the group.
func (g *Group) tuple(t format.Tuple) int32 {
	at := len(g.refs)
	for i := range t {
		v := &t[i]
		r := ref{uint32(len(g.arena)), uint32(len(v.Data))}
		switch v.Kind {
		case format.Null:
			r.n = refNull
		case format.Unchanged:
			r.n = refUnchanged
		case format.Binary:
			r.n |= refBinary
		}
		if g.Lend && len(v.Data) >= minLent {
			r.off = lent | uint32(len(g.lent))
			g.lent = append(g.lent, v.Data)
			g.refs = append(g.refs, r)
			continue
		}
		g.arena = append(g.arena, v.Data...)
		g.refs = append(g.refs, r)
	}
	return int32(at)
}

func (g *Group) add(kind OpKind, t *Table, old, new int32) {
	g.ops = append(g.ops, Op{kind, g.place(t), old, new})
}

// place returns a table's index in g.tables.
func (g *Group) place(t *Table) int32 {
	// A change is usually of the same table as the change before.
	if n := len(g.ops); n > 0 {
		if i := g.ops[n-1].table; i >= 0 && int(i) < len(g.tables) && g.tables[i] == t {
			return i
		}
	}
	i, ok := g.places[t]
	if !ok {
		if g.places == nil {
			g.places = make(map[*Table]int32)
		}
		i = int32(len(g.tables))
		g.tables = append(g.tables, t)
		g.folds = append(g.folds, nil)
		g.places[t] = i
	}
	return i
}

// Insert adds an insert to the open transaction.
func (g *Group) Insert(t *Table, new format.Tuple) { g.add(OpInsert, t, noTuple, g.tuple(new)) }

// Update adds an update. old is nil if the record has no old tuple.
func (g *Group) Update(t *Table, old, new format.Tuple) {
	o := int32(noTuple)
	if old != nil {
		o = g.tuple(old)
	}
	g.add(OpUpdate, t, o, g.tuple(new))
}

// Delete adds a delete.
func (g *Group) Delete(t *Table, old format.Tuple) { g.add(OpDelete, t, g.tuple(old), noTuple) }

// AddTruncate adds a truncate of all tables in one statement.
func (g *Group) AddTruncate(op *TruncateOp) {
	g.extras = append(g.extras, op)
	g.ops = append(g.ops, Op{OpTruncate, noTuple, noTuple, int32(len(g.extras) - 1)})
}

// AddDDL adds a statement that changes the schema.
func (g *Group) AddDDL(d *format.DDL) {
	g.extras = append(g.extras, d)
	g.ops = append(g.ops, Op{OpDDL, noTuple, noTuple, int32(len(g.extras) - 1)})
}

// AddSavepoint adds the savepoint that the abort of a subtransaction rolls back to.
func (g *Group) AddSavepoint(sub uint32) {
	g.ops = append(g.ops, Op{OpSavepoint, noTuple, noTuple, int32(sub)})
}

// Begin opens a transaction. commit is 0 if the commit LSN is not known yet.
func (g *Group) Begin(commit format.LSN) { g.OpenLSN = commit }

// Commit completes the open transaction.
func (g *Group) Commit(xid uint32, commit, end format.LSN, at format.Time) {
	g.Fold()
	g.Transactions = append(g.Transactions, Transaction{xid, commit, end, at, len(g.ops)})
	g.OpenLSN = 0
	g.Progress(end, at)
}

// Progress advances the position without a transaction.
func (g *Group) Progress(lsn format.LSN, at format.Time) { g.EndLSN, g.Time = lsn, at }

// Rollback drops the changes of the open transaction that have not been folded.
func (g *Group) Rollback() { g.ops = g.ops[:g.folded] }

// MoveOpen moves the open transaction to another group, which must be empty.
func (g *Group) MoveOpen(to *Group) {
	for _, op := range g.ops[g.folded:] {
		switch op.Kind {
		case OpTruncate:
			to.AddTruncate(g.Truncate(op))
		case OpDDL:
			to.AddDDL(g.DDL(op))
		case OpSavepoint:
			to.AddSavepoint(uint32(op.New))
		default:
			t := g.tables[op.table]
			to.add(op.Kind, t, to.copyTuple(g, op.Old, len(t.Columns)), to.copyTuple(g, op.New, len(t.Columns)))
		}
	}
	to.OpenLSN, g.OpenLSN = g.OpenLSN, 0
	g.Rollback()
}

func (g *Group) copyTuple(from *Group, tuple int32, n int) int32 {
	if tuple == noTuple {
		return noTuple
	}
	at := len(g.refs)
	for _, r := range from.refs[tuple : int(tuple)+n] {
		if r.n&refKind == refText || r.n&refKind == refBinary {
			data := from.data(r)
			r.off = uint32(len(g.arena))
			g.arena = append(g.arena, data...)
		}
		g.refs = append(g.refs, r)
	}
	return int32(at)
}

// Fold adds the open transaction's changes so far to the steps. Commit calls it. Its other callers
// write transactions that are too large to wait for their commit.
func (g *Group) Fold() {
	if g.Counts == nil {
		g.Counts = make(map[*Table]*Counts)
	}
	for i := g.folded; i < len(g.ops); i++ {
		g.fold(int32(i))
	}
	g.folded = len(g.ops)
}

func (g *Group) counts(t *Table) *Counts {
	c := g.Counts[t]
	if c == nil {
		c = new(Counts)
		g.Counts[t] = c
	}
	return c
}

func (g *Group) fold(i int32) {
	op := &g.ops[i]
	switch op.Kind {
	case OpTruncate:
		for _, t := range g.Truncate(*op).Tables {
			g.counts(t).Truncates++
			g.folds[g.place(t)] = nil
		}
		g.single(i)
		return
	case OpDDL, OpSavepoint:
		clear(g.folds)
		g.single(i)
		return
	}
	f := g.folds[op.table]
	if f == nil {
		f = g.newFold(op.table)
	}
	switch op.Kind {
	case OpInsert:
		f.counts.Inserts++
	case OpUpdate:
		f.counts.Updates++
	case OpDelete:
		f.counts.Deletes++
	}
	if !f.add(op) {
		// The change must follow the changes folded so far, and precede later changes. So the fold
		// is closed.
		g.folds[op.table] = nil
		if len(f.rows) == 0 { // the fold was created for this change
			g.steps = g.steps[:len(g.steps)-1]
			g.spare = append(g.spare, f)
		}
		g.single(i)
	}
}

// single adds to the steps a change that must be written by itself.
func (g *Group) single(i int32) {
	if n := len(g.steps); n > 0 && g.steps[n-1].Fold == nil {
		g.steps[n-1].Ops = append(g.steps[n-1].Ops, i)
		return
	}
	g.steps = append(g.steps, Step{Ops: []int32{i}})
}

func (g *Group) newFold(place int32) *Fold {
	var f *Fold
	if n := len(g.spare); n > 0 {
		f = g.spare[n-1]
		g.spare = g.spare[:n-1]
	} else {
		f = new(Fold)
	}
	f.reset(g, g.tables[place])
	g.folds[place] = f
	g.steps = append(g.steps, Step{Fold: f})
	return f
}

var seed = maphash.MakeSeed()

// hash hashes a tuple's key columns, which are never NULL. equal compares them.
func (g *Group) hash(t *Table, tuple int32) uint64 {
	var h uint64
	for _, k := range t.Key {
		r := g.refs[int(tuple)+k]
		h = h*0x9e3779b97f4a7c15 + maphash.Bytes(seed, g.data(r))
	}
	return h
}

func (g *Group) equal(t *Table, a, b int32) bool {
	for _, k := range t.Key {
		x, y := g.refs[int(a)+k], g.refs[int(b)+k]
		if x.n != y.n || !bytes.Equal(g.data(x), g.data(y)) {
			return false
		}
	}
	return true
}
