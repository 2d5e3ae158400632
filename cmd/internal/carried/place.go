package carried

import "slices"

// A Placement is what has to change so that each table is in the right one of two publications: one
// of all operations, and one of inserts and truncates only, for tables without usable identity. In
// the first the source would refuse the application's own UPDATE and DELETE of those.
type Placement struct {
	Leave  []*Table // the first one
	Back   []*Table // leave the second one: because they join the first, or to join the second anew
	Full   []*Table // join the first one
	Insert []*Table // join the second one
}

// Place finds out where tables are to be published: those with rows that are wanted. full and
// insert are the names of the two publications, which need not exist.
//
// From 13 on a partitioned table is published as such, so that partitions which are made later are
// published too: in the first publication if all of its partitions have a usable identity, and new
// ones will get its primary key; else in the second one, with those in the first that have one.
func (s *State) Place(full, insert string, wanted func(*Table) bool) Placement {
	torn := make(map[uint32]bool)
	for _, t := range s.Tables {
		if t.Kind == "r" && t.Root != 0 {
			torn[t.Root] = torn[t.Root] || !wanted(t)
		}
	}
	return s.place(s.Publication(full), s.Publication(insert), wanted, func(root *Table) bool { return !torn[root.OID] })
}

// Replace finds out where tables are to be published that are published now: since then they may
// have lost their identity, or got one. No table joins that is in neither publication.
func (s *State) Replace(full, insert string) Placement {
	first, second := s.Publication(full), s.Publication(insert)
	in := func(t *Table) bool { return t.in(first) != nil || t.in(second) != nil }
	return s.place(first, second, func(t *Table) bool { return slices.ContainsFunc(s.chain(t), in) }, in)
}

// mixed returns the partitioned tables that cannot be published as such with all operations: a
// partition of theirs has no usable identity, or a new one would get none.
func (s *State) mixed() map[uint32]bool {
	mixed := make(map[uint32]bool)
	for _, t := range s.Tables {
		if t.Kind == "r" && t.Root != 0 {
			mixed[t.Root] = mixed[t.Root] || !t.Identity.usable(s.Version, false)
		}
	}
	for _, t := range s.Tables {
		if t.Kind == "p" && t.Root == 0 {
			mixed[t.OID] = mixed[t.OID] || !t.Identity.inherited()
		}
	}
	return mixed
}

// place is Place. whole says of a partitioned table whether it is published as such.
func (s *State) place(first, second *Publication, wanted, whole func(*Table) bool) Placement {
	var p Placement
	mixed := s.mixed()
	added := make(map[uint32]bool) // partitioned tables are met once for each partition
	add := func(list *[]*Table, in *Publication, t *Table) {
		if (in == nil || t.in(in) == nil) && !(t.Kind == "p" && added[t.OID]) {
			added[t.OID] = true
			*list = append(*list, t)
		}
	}
	// What of the first one has a partition without identity below it, has to leave it.
	left := make(map[uint32]bool)
	for _, t := range s.Tables {
		if t.Kind != "r" || first == nil || t.Unlogged || t.Identity.usable(s.Version, false) {
			continue
		}
		for _, x := range s.chain(t) {
			if x.in(first) != nil && !left[x.OID] {
				left[x.OID] = true
				p.Leave = append(p.Leave, x)
				// A membership that is older than the last load would hide that something was not
				// carried.
				if second != nil && x.in(second) != nil {
					p.Back, p.Insert = append(p.Back, x), append(p.Insert, x)
				}
			}
		}
	}
	isIn := func(t *Table, in *Publication, without map[uint32]bool) bool {
		return in != nil && slices.ContainsFunc(s.chain(t), func(x *Table) bool { return x.in(in) != nil && !without[x.OID] })
	}
	for _, t := range s.Tables {
		was := first != nil && isIn(t, first, nil) // it leaves with its root
		if t.Kind != "r" || t.Unlogged || !wanted(t) && !was {
			continue
		}
		usable := t.Identity.usable(s.Version, false)
		root := s.byOID[t.Root]
		asRoot := root != nil && s.Version >= 130000 && whole(root)
		if second != nil && usable && t.in(second) != nil {
			p.Back = append(p.Back, t)
		}
		switch {
		case asRoot && !mixed[t.Root]:
			// It stays in the second one, if it is there: that tells since when its partitions
			// are by themselves in the first.
			add(&p.Full, first, root)
			continue
		case asRoot:
			add(&p.Insert, second, root)
			if usable && left[root.OID] && t.in(first) != nil && !left[t.OID] {
				p.Leave, p.Full = append(p.Leave, t), append(p.Full, t) // anew, together with it
			}
		case !usable && !isIn(t, second, nil):
			add(&p.Insert, second, t)
		}
		if usable && !isIn(t, first, left) {
			add(&p.Full, first, t)
		}
	}
	return p
}

// chain returns a table and what its publications are, from 13 on, its own too.
func (s *State) chain(t *Table) []*Table {
	if s.Version < 130000 {
		return []*Table{t}
	}
	return append([]*Table{t}, s.Ancestors(t)...)
}

// inherited reports whether a new partition of a partitioned table gets a usable identity.
func (i *Identity) inherited() bool { return i.There && i.Immediate && i.Valid && !i.Generated }
