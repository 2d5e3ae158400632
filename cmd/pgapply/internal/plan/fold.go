package plan

// A Fold is the net effect of a run of changes on the rows of one table. Its deletes, then its
// updates, then its inserts leave the table as the single changes would. Intermediate states can
// matter, for example when two rows swap a unique value. The target then refuses the Fold, and the
// changes are written one by one.
type Fold struct {
	g      *Group
	Table  *Table
	counts *Counts
	rows   []row
	index  []int32 // hash table: row number plus one, 0 if free
	list   []int32
}

// A row is one key's net effect so far.
type row struct {
	net   net
	tuple int32 // has the key; has all values if the row exists afterwards
	mask  Mask  // unchanged columns of an update
}

// A net is a net effect, relative to the target's state before the group.
type net uint8

const (
	netInsert  net = iota // absent before, present after
	netUpdate             // present before, changed after
	netDelete             // present before, absent after
	netReplace            // deleted and inserted again
	netNothing            // absent before and after
)

// keepRows limits the number of rows that a group's folds keep memory for. Only a group with a huge
// transaction has more rows.
const keepRows = 1 << 17

func (f *Fold) reset(g *Group, t *Table) {
	*f = Fold{g: g, Table: t, counts: g.counts(t), rows: f.rows[:0], index: f.index, list: f.list[:0]}
	clear(f.index)
}

// add folds in a change. It returns false for a change that cannot be folded: the change replaces
// the key, contradicts the earlier changes of its key, or has values that an array cannot carry.
func (f *Fold) add(op *Op) bool {
	g, t := f.g, f.Table
	if !t.Foldable {
		// Rows without a key can still be inserted in bulk.
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

// addUpdate folds in an update. It may replace op.New with a tuple that has more of the row's
// values.
func (f *Fold) addUpdate(op *Op) bool {
	g, t := f.g, f.Table
	if op.Old != noTuple && !g.sameKey(t, op.Old, op.New) || !g.hasKey(t, op.New) {
		return false
	}
	mask := g.mask(g.refs[op.New:int(op.New)+len(t.Columns)], refUnchanged)
	if mask != "" && op.Old != noTuple && t.Full {
		// The old tuple is the whole row. It has the values that the new tuple leaves out.
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

// find returns the index slot for a tuple's key: the slot of the row with that key, or the free
// slot where such a row belongs.
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

// Deletes appends to list the tuples of the rows to delete.
func (f *Fold) Deletes(list []int32) []int32 {
	return f.collect(list, func(r *row) bool { return r.net == netDelete || r.net == netReplace })
}

// Absent appends to list the tuples of the rows that must not exist.
func (f *Fold) Absent(list []int32) []int32 {
	return f.collect(list, func(r *row) bool { return r.net == netNothing })
}

// Inserts appends to list the tuples of the rows to insert.
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

// Updates calls write once for each set of unchanged columns, with the tuples of the rows to
// update.
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

// merge returns a copy of new that has its unchanged columns from old.
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

// sameKey reports whether both tuples have the same key. The source sends an old tuple only if the
// key changes, or if the old tuple is the whole row.
func (g *Group) sameKey(t *Table, old, new int32) bool {
	for _, k := range t.Key {
		if g.refs[int(new)+k].n&refKind == refUnchanged {
			return false
		}
	}
	return g.equal(t, old, new)
}

// hasBinary reports whether a tuple has values in binary format. Array parameters do not carry
// them.
func (g *Group) hasBinary(t *Table, tuple int32) bool {
	for i := range t.Columns {
		if g.refs[int(tuple)+i].n&refKind == refBinary {
			return true
		}
	}
	return false
}

// hasKey reports whether a tuple has all key columns as text. Otherwise a bulk statement cannot
// find the row by its key.
func (g *Group) hasKey(t *Table, tuple int32) bool {
	for _, k := range t.Key {
		if g.refs[int(tuple)+k].n&refKind != refText {
			return false
		}
	}
	return true
}
