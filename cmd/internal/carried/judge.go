package carried

import (
	"slices"
)

// Judge finds what is carried of each table, and why the rest is not.
func (s *State) Judge() {
	if s.byOID == nil {
		s.byOID = make(map[uint32]*Table, len(s.Tables))
		for _, t := range s.Tables {
			s.byOID[t.OID] = t
		}
	}
	for _, t := range s.Tables {
		up := s.Ancestors(t)
		t.Root = 0
		if len(up) > 0 {
			t.Root = up[len(up)-1].OID
		}
		if t.Kind == "r" {
			s.judge(t, up)
		}
	}
}

// A way is how one publication publishes a table, with its filter and column list.
type way struct {
	*Publication
	xids    []uint32 // transactions that created this way
	filter  string
	leftOut []string
}

// ways returns the publications that publish a table, by pgoutput's rules: directly, through its
// schema, through FOR ALL TABLES, or (from 13 on) through a partitioned table above it.
func (s *State) ways(t *Table, up []*Table) (list []way) {
	if t.Unlogged {
		return nil // no publication publishes an unlogged table
	}
	for _, p := range s.Publications {
		if p.AllTables {
			list = append(list, way{Publication: p, xids: []uint32{p.XID}})
			continue
		}
		// The publication contains the table itself or the nearest ancestor. With
		// publish_via_partition_root, the filter and column list of the topmost published ancestor
		// apply.
		var found, restricts *Membership
		xids := []uint32{p.XID}
		chain := []*Table{t}
		if s.Version >= 130000 {
			chain = append(chain, up...)
		}
		for i, x := range chain {
			m := x.in(p)
			if m == nil {
				continue
			}
			if found == nil {
				xids = append(xids, m.XID)
				for _, below := range chain[:i] {
					xids = append(xids, below.ParentXID)
				}
				found, restricts = m, m
				if i > 0 {
					restricts = nil // an ancestor's apply only with publish_via_partition_root
				}
			}
			if p.ViaRoot {
				restricts = m
			}
		}
		if found == nil {
			continue
		}
		w := way{Publication: p, xids: xids}
		if restricts != nil && !restricts.Schema {
			w.filter, w.leftOut = restricts.Filter, restricts.LeftOut
		}
		list = append(list, w)
	}
	return list
}

// in returns the table's membership in a publication, or nil. A membership through the schema comes
// first, because it has no filter and no column list.
func (t *Table) in(p *Publication) (m *Membership) {
	for i := range t.In {
		if x := &t.In[i]; x.Publication == p.OID && (m == nil || x.Schema) {
			m = x
		}
	}
	return m
}

func (s *State) judge(t *Table, up []*Table) {
	t.Carried, t.Refused, t.Reasons = Operations{}, nil, nil
	ways := s.ways(t, up)
	var named, whole Operations // with a usable identity; without a filter
	var filter string
	generated := false
	for _, w := range ways {
		t.Carried.add(w.Operations)
		if w.filter == "" {
			whole.add(w.Operations)
		} else {
			filter = w.filter
		}
		generated = generated || w.Generated
		if (w.Update || w.Delete) && !t.Identity.accepted(s.Version, w.Generated) {
			t.Refused = append(t.Refused, w.Name)
		}
		if t.Identity.usable(s.Version, w.Generated) {
			named.add(w.Operations)
		}
	}
	usable := t.Identity.usable(s.Version, generated)
	t.Carried.Update, t.Carried.Delete = named.Update, named.Delete
	switch {
	case t.Unlogged:
		t.because(Unlogged, "")
	case len(ways) == 0 && t.DetachPending:
		t.because(DetachPending, "")
	case len(ways) == 0:
		t.because(NotPublished, "")
	}
	if len(t.Refused) > 0 {
		t.because(Refuses, t.Identity.Why(s.Version))
		if first, second := s.pairOf(t.Refused); second != nil {
			t.Reasons[len(t.Reasons)-1].Lacks = s.lacks([]*Publication{first, second}, []*Table{t})
		}
	}
	if len(ways) == 0 {
		return
	}
	if !usable && len(t.Refused) == 0 {
		t.because(NoIdentity, t.Identity.Why(s.Version))
	}
	if lacks := t.narrowed(s.Version, usable); len(lacks) > 0 {
		t.because(Narrowed, join(lacks))
	}
	if filter != "" && whole != t.published(ways) {
		t.because(RowFilter, filter)
	}
	if columns := leftOut(ways); len(columns) > 0 {
		t.because(ColumnList, join(columns))
	}
}

// narrowed returns the operations that should be carried but are not. Updates and deletes need a
// usable identity.
func (t *Table) narrowed(version int, usable bool) (lacks []string) {
	for _, o := range []struct {
		name   string
		needed bool
		has    bool
	}{{"INSERT", true, t.Carried.Insert}, {"UPDATE", usable, t.Carried.Update},
		{"DELETE", usable, t.Carried.Delete}, {"TRUNCATE", version >= 110000, t.Carried.Truncate}} {
		if o.needed && !o.has {
			lacks = append(lacks, o.name)
		}
	}
	return lacks
}

// leftOut returns the columns that at least one way leaves out.
func leftOut(ways []way) (columns []string) {
	for _, w := range ways {
		for _, c := range w.leftOut {
			if !slices.Contains(columns, c) {
				columns = append(columns, c)
			}
		}
	}
	return columns
}

// published returns the operations that at least one way publishes.
func (t *Table) published(ways []way) (o Operations) {
	for _, w := range ways {
		o.add(w.Operations)
	}
	return o
}

func (t *Table) because(code Code, detail string) {
	t.Reasons = append(t.Reasons, Reason{Code: code, Detail: detail})
}
