package plan

// A Fold is the net effect of a run of changes on the rows of one table. Written as deletes, then
// updates, then inserts, it leaves the table as the changes one by one would have; where
// intermediate states matter (two rows swapping a unique value), the target refuses it, and the
// changes are written one by one instead.
type Fold struct {
	g      *Group
	Table  *Table
	counts *Counts
	rows   []row
	index  []int32 // hash table: number of the row plus one, 0 if free
	list   []int32
}

// A row is one key's net effect so far.
type row struct {
	net   net
	tuple int32 // has the key, and for all but deletes the values
	mask  Mask  // unchanged columns of an update
}

// A net effect, relative to the target's state before the group.
type net uint8

const (
	netInsert  net = iota // the row was not there, and is
	netUpdate             // it was there, and is different
	netDelete             // it was there, and is not
	netReplace            // it was deleted and inserted again
	netNothing            // it was not there, and is not
)

// keepRows is how many rows' memory a group keeps in its folds: more than a group has, but for one
// with a huge transaction.
const keepRows = 1 << 17

func (f *Fold) reset(g *Group, t *Table) {
	*f = Fold{g: g, Table: t, counts: g.counts(t), rows: f.rows[:0], index: f.index, list: f.list[:0]}
	clear(f.index)
}

// add folds a change in. It returns false for one that cannot be: its key changes, or its table's
// history makes no sense by the key.
func (f *Fold) add(op *Op) bool {
	g, t := f.g, f.Table
	if !t.Foldable {
		// Rows without a key can still be inserted together.
		if op.Kind != OpInsert || t.Key != nil || t.NoBulk || g.hasBinary(t, op.New) {
			return false
		}
		f.rows = append(f.rows, row{netInsert, op.New, ""})
		return true
	}
	switch op.Kind {
	case OpInsert:
		return f.addInsert(op.New)
	case OpUpdate:
		return f.addUpdate(op)
	case OpDelete:
		return f.addDelete(op.Old)
	}
	return false
}

func (f *Fold) addInsert(tuple int32) bool {
	g, t := f.g, f.Table
	if g.hasBinary(t, tuple) || !g.hasKey(t, tuple) {
		return false
	}
	slot := f.find(tuple)
	if f.index[slot] == 0 {
		f.insert(slot, row{netInsert, tuple, ""})
		return true
	}
	r := &f.rows[f.index[slot]-1]
	switch r.net {
	case netNothing:
		r.net = netInsert
	case netDelete:
		r.net = netReplace
	default:
		return false
	}
	r.tuple, r.mask = tuple, ""
	return true
}

// addUpdate may replace op's new tuple by one that has more of the row.
func (f *Fold) addUpdate(op *Op) bool {
	g, t := f.g, f.Table
	if op.Old != noTuple && !g.sameKey(t, op.Old, op.New) || !g.hasKey(t, op.New) {
		return false
	}
	mask := g.mask(g.refs[op.New:int(op.New)+len(t.Columns)], refUnchanged)
	if mask != "" && op.Old != noTuple && t.Full {
		// The whole old row is there: it has what the new one leaves out.
		op.New = g.merge(t, op.Old, op.New)
		mask = g.mask(g.refs[op.New:int(op.New)+len(t.Columns)], refUnchanged)
	}
	if g.hasBinary(t, op.New) {
		return false
	}
	slot := f.find(op.New)
	if f.index[slot] == 0 {
		f.insert(slot, row{netUpdate, op.New, mask})
		return true
	}
	r := &f.rows[f.index[slot]-1]
	if r.net == netDelete || r.net == netNothing {
		return false
	}
	if mask != "" {
		r.tuple = g.merge(t, r.tuple, op.New)
		mask = g.mask(g.refs[r.tuple:int(r.tuple)+len(t.Columns)], refUnchanged)
	} else {
		r.tuple = op.New
	}
	r.mask = mask
	return true
}

func (f *Fold) addDelete(tuple int32) bool {
	if !f.g.hasKey(f.Table, tuple) {
		return false
	}
	slot := f.find(tuple)
	if f.index[slot] == 0 {
		f.insert(slot, row{netDelete, tuple, ""})
		return true
	}
	r := &f.rows[f.index[slot]-1]
	switch r.net {
	case netInsert:
		r.net = netNothing
	case netUpdate, netReplace:
		r.net = netDelete
	default:
		return false
	}
	r.tuple, r.mask = tuple, ""
	return true
}

// find returns the place in the index of the row with a tuple's key: its own, or the free one where
// it belongs.
func (f *Fold) find(tuple int32) int {
	if 2*len(f.rows) >= len(f.index) {
		f.grow()
	}
	size := len(f.index) - 1
	for i := int(f.g.hash(f.Table, tuple)) & size; ; i = (i + 1) & size {
		n := f.index[i]
		if n == 0 || f.g.equal(f.Table, f.rows[n-1].tuple, tuple) {
			return i
		}
	}
}

func (f *Fold) insert(slot int, r row) {
	f.rows = append(f.rows, r)
	f.index[slot] = int32(len(f.rows))
}

func (f *Fold) grow() {
	f.index = make([]int32, max(16, 2*len(f.index)))
	size := len(f.index) - 1
	for n := range f.rows {
		i := int(f.g.hash(f.Table, f.rows[n].tuple)) & size
		for f.index[i] != 0 {
			i = (i + 1) & size
		}
		f.index[i] = int32(n + 1)
	}
}

// Deletes appends the tuples of the rows to be deleted to list.
func (f *Fold) Deletes(list []int32) []int32 {
	return f.collect(list, func(r *row) bool { return r.net == netDelete || r.net == netReplace })
}

// Absent appends the tuples of the rows that must not be there to list.
func (f *Fold) Absent(list []int32) []int32 {
	return f.collect(list, func(r *row) bool { return r.net == netNothing })
}

// Inserts appends the tuples of the rows to be inserted to list.
func (f *Fold) Inserts(list []int32) []int32 {
	return f.collect(list, func(r *row) bool { return r.net == netInsert || r.net == netReplace })
}

func (f *Fold) collect(list []int32, want func(*row) bool) []int32 {
	for i := range f.rows {
		if want(&f.rows[i]) {
			list = append(list, f.rows[i].tuple)
		}
	}
	return list
}

// Updates calls write for each set of unchanged columns with the tuples of the rows to be updated.
func (f *Fold) Updates(write func(Mask, []int32)) {
	list := f.list[:0]
	var others map[Mask][]int32
	for i := range f.rows {
		r := &f.rows[i]
		switch {
		case r.net != netUpdate:
		case r.mask == "":
			list = append(list, r.tuple)
		default:
			if others == nil {
				others = make(map[Mask][]int32)
			}
			others[r.mask] = append(others[r.mask], r.tuple)
		}
	}
	f.list = list
	if len(list) > 0 {
		write("", list)
	}
	for mask, l := range others {
		write(mask, l)
	}
}

// merge returns new with its unchanged columns taken from old.
func (g *Group) merge(t *Table, old, new int32) int32 {
	at := len(g.refs)
	for i := range t.Columns {
		r := g.refs[int(new)+i]
		if r.n&refKind == refUnchanged {
			r = g.refs[int(old)+i]
		}
		g.refs = append(g.refs, r)
	}
	return int32(at)
}

// sameKey reports whether the key is the same in both tuples. An old tuple is only sent if it is
// not, or if it is the whole row.
func (g *Group) sameKey(t *Table, old, new int32) bool {
	for _, k := range t.Key {
		if g.refs[int(new)+k].n&refKind == refUnchanged {
			return false
		}
	}
	return g.equal(t, old, new)
}

// hasBinary reports whether a tuple has values in binary format, which the arrays do not carry.
func (g *Group) hasBinary(t *Table, tuple int32) bool {
	for i := range t.Columns {
		if g.refs[int(tuple)+i].n&refKind == refBinary {
			return true
		}
	}
	return false
}

// hasKey reports whether all key columns are there, as text: otherwise the row cannot be found by
// them in bulk.
func (g *Group) hasKey(t *Table, tuple int32) bool {
	for _, k := range t.Key {
		if g.refs[int(tuple)+k].n&refKind != refText {
			return false
		}
	}
	return true
}
