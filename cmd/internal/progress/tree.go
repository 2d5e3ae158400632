package progress

// Torn reports whether a tree of partitions must be loaded again as a whole. That is so if part of
// a partition's rows are loaded and the rest would come from another snapshot. The target may have
// put the rows into any partition of the tree, so nobody can tell which rows belong to which source
// partition.
func Torn(states map[[2]string]*TableState, leaves [][2]string, snapshot string) bool {
	for _, name := range leaves {
		if s := states[name]; s != nil && !s.Complete() && len(s.Done) > 0 && s.Snapshot != snapshot {
			return true
		}
	}
	return false
}
