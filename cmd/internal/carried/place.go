package carried

import "slices"

// A Placement is the list of changes that puts each table into the right one of two publications.
// The first publishes all operations. The second publishes only inserts and truncates, for tables
// without a usable identity: if the first published them, the source would refuse the application's
// UPDATE and DELETE.
type Placement struct {
	Leave []*Table // tables that leave the first publication
	// tables that leave the second publication, to join the first or to rejoin the second
	Back   []*Table
	Full   []*Table // tables that join the first publication
	Insert []*Table // tables that join the second publication
}

// Place finds the publication for each wanted table with rows. full and insert are the names of the
// two publications, which need not exist.
//
// From 13 on, Place publishes the partitioned table itself, so that partitions created later are
// published as well. It goes into the first publication if all of its partitions have a usable
// identity and new partitions inherit its primary key. Otherwise the partitioned table goes into
// the second publication, and its partitions with a usable identity also go into the first.
func (s *State) Place(full, insert string, wanted func(*Table) bool) Placement {
	torn := make(map[uint32]bool)
	for _, t := range s.Tables {
		if t.Kind == "r" && t.Root != 0 {
			torn[t.Root] = torn[t.Root] || !wanted(t)
		}
	}
	return s.place(s.Publication(full), s.Publication(insert), wanted, func(root *Table) bool { return !torn[root.OID] })
}

// Replace finds the publication for each table that is published now. A table may have lost or
// gained its identity since it was published. Replace adds no table that is in neither publication.
func (s *State) Replace(full, insert string) Placement {
	first, second := s.Publication(full), s.Publication(insert)
	in := func(t *Table) bool { return t.in(first) != nil || t.in(second) != nil }
	return s.place(first, second, func(t *Table) bool { return slices.ContainsFunc(s.chain(t), in) }, in)
}

// mixed returns the partitioned tables that cannot be published with all operations: one of their
// partitions has no usable identity, or a new partition would have none.
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

// place implements Place and Replace. whole reports whether a partitioned table is published as
// such.
func (s *State) place(first, second *Publication, wanted, whole func(*Table) bool) Placement {
	var p Placement
	mixed := s.mixed()
	added := make(map[uint32]bool) // the loop meets a partitioned table once for each partition
	add := func(list *[]*Table, in *Publication, t *Table) {
		if (in == nil || t.in(in) == nil) && !(t.Kind == "p" && added[t.OID]) {
			added[t.OID] = true
			*list = append(*list, t)
		}
	}
	// A table in the first publication leaves it if one of its partitions has no usable identity.
	left := make(map[uint32]bool)
	for _, t := range s.Tables {
		if t.Kind != "r" || first == nil || t.Unlogged || t.Identity.usable(s.Version, false) {
			continue
		}
		for _, x := range s.chain(t) {
			if x.in(first) != nil && !left[x.OID] {
				left[x.OID] = true
				p.Leave = append(p.Leave, x)
				// Rejoin the second publication. A membership older than the last load would hide
				// that changes were not carried. That of a partitioned table stays: it shows since
				// when its partitions are in the first one by themselves.
				if second != nil && x.in(second) != nil && x.Kind == "r" {
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
		if second != nil && usable && t.in(second) != nil && !t.joint(first, second) {
			p.Back = append(p.Back, t)
		}
		switch {
		case asRoot && !mixed[t.Root]:
			// The root stays in the second publication if it is a member. Its membership shows
			// since when its partitions are in the first one by themselves.
			add(&p.Full, first, root)
			if first != nil && second != nil && root.in(second) != nil && !was {
				// It has had no identity. Its own membership shows until when, also when the root
				// has left again.
				add(&p.Full, first, t)
			}
			continue
		case asRoot:
			add(&p.Insert, second, root)
			if second != nil && usable && left[root.OID] && root.in(second) != nil && t.in(first) == nil {
				// It was published only through the root. It joins both publications at once, which
				// shows that there was no gap.
				add(&p.Insert, second, t)
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

// joint reports whether one transaction put the table into both publications.
func (t *Table) joint(first, second *Publication) bool {
	if first == nil || second == nil {
		return false
	}
	a, b := t.in(first), t.in(second)
	return a != nil && b != nil && a.XID == b.XID && a.XID != first.XID
}

// chain returns a table and, from 13 on, its ancestors, whose publications are its publications.
func (s *State) chain(t *Table) []*Table {
	if s.Version < 130000 {
		return []*Table{t}
	}
	return append([]*Table{t}, s.Ancestors(t)...)
}

// inherited reports whether a new partition of a partitioned table gets a usable identity.
func (i *Identity) inherited() bool { return i.There && i.Immediate && i.Valid && !i.Generated }
