package plan

// Apart reports whether the group can be written in parallel with groups that it does not meet.
// Keys must know the row of every change, so every change must be folded.
func (g *Group) Apart() bool {
	for _, s := range g.Steps() {
		if s.Fold == nil || len(s.Fold.Table.Deferrable) > 0 {
			return false
		}
	}
	return !g.Skip
}

// Keys records which rows the group changes, for Meets.
func (g *Group) Keys() {
	n := 0
	for _, s := range g.steps {
		n += len(s.Fold.rows)
	}
	size := 16
	for size < 2*n {
		size *= 2
	}
	if cap(g.keys) < size || cap(g.keys) > 8*size {
		g.keys = make([]uint64, size)
	} else {
		g.keys = g.keys[:size]
		clear(g.keys)
	}
	for _, s := range g.steps {
		if s.Fold.Table.Foldable { // rows without a key are only inserted and meet nothing
			for i := range s.Fold.rows {
				h := g.rowHash(s.Fold.Table, s.Fold.rows[i].tuple)
				g.keys[find(g.keys, h)] = h
			}
		}
	}
}

// Meets reports whether two groups may change the same row. The caller must have called other.Keys.
func (g *Group) Meets(other *Group) bool {
	for _, s := range g.steps {
		if !s.Fold.Table.Foldable {
			continue
		}
		for i := range s.Fold.rows {
			if other.keys[find(other.keys, g.rowHash(s.Fold.Table, s.Fold.rows[i].tuple))] != 0 {
				return true
			}
		}
	}
	return false
}

// rowHash identifies a row of the target. It is never 0. Rows with the same hash are treated as the
// same row.
func (g *Group) rowHash(t *Table, tuple int32) uint64 {
	return (g.hash(t, tuple)+uint64(t.OID))*0x9e3779b97f4a7c15 | 1
}

func find(set []uint64, h uint64) int {
	mask := len(set) - 1
	i := int(h>>32) & mask
	for set[i] != 0 && set[i] != h {
		i = (i + 1) & mask
	}
	return i
}
