package plan

// Retained returns about how many bytes an empty group keeps for the next changes.
func (g *Group) Retained() int {
	n := cap(g.arena) + 8*cap(g.refs) + 16*cap(g.ops)
	for _, f := range g.spare {
		n += 12*cap(f.rows) + 4*cap(f.index) + 4*cap(f.list)
	}
	return n
}

// Hash returns the hash of the key of the open transaction's newest insert.
func (g *Group) Hash(t *Table) uint64 { return g.hash(t, g.ops[len(g.ops)-1].New) }
