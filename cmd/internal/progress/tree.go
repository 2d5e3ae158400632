package progress

// Torn reports whether a tree of partitions, whose rows the target may have put into any of them,
// must be loaded anew as a whole: parts of a partition's rows are there, the rest would be of
// another snapshot, and nobody can tell them from the other partitions' rows.
func Torn(states map[[2]string]*TableState, leaves [][2]string, snapshot string) bool {
	for _, name := range leaves {
		if s := states[name]; s != nil && !s.Complete() && len(s.Done) > 0 && s.Snapshot != snapshot {
			return true
		}
	}
	return false
}
