package carried

import (
	"slices"
	"strconv"
	"strings"
)

// A Loaded is what a target knows of a table of the source.
type Loaded struct {
	Schema, Name string // on the source
	OID          uint32 // of the source table that was loaded, 0 if unknown
	// the snapshot of the load, as pgextract names it; empty if the table was not loaded
	Snapshot string
	Complete bool // all of its rows are on the target
	// its Counters before the snapshot; empty if they are unknown, or were not needed
	Counted string
	// a recorded statement created the table, so the change stream carries all of its rows
	Recorded bool
}

// xmin returns the first transaction that the snapshot might not see, or 0 if it is unknown.
func (l *Loaded) xmin() uint64 {
	_, x, _ := strings.Cut(l.Snapshot, "@")
	_, x, _ = strings.Cut(x, ".")
	n, _ := strconv.ParseUint(x, 10, 64)
	return n
}

// A Target is what a target knows of the tables of a source.
type Target struct {
	Tables    []Loaded
	Whole     bool // all tables of the source are migrated, not a selection
	MadeFor   bool // the slot was created for a load, so every table must come from that load
	Loading   bool // a load is running and may still load the missing tables
	Recording bool // the source records schema changes
}

// Compare adds to the reasons of each table what a target knows, and returns the tables that belong
// to the migration. Compare calls absent at most once, with the tables that the target may lack.
// absent returns the tables that the target does lack.
func (s *State) Compare(target Target, absent func([]*Table) (map[*Table]bool, error)) ([]*Table, error) {
	byOID, byName := make(map[uint32]*Loaded), make(map[[2]string]*Loaded)
	first := ^uint64(0)
	for i := range target.Tables {
		l := &target.Tables[i]
		if l.OID != 0 {
			byOID[l.OID] = l
		} else {
			byName[[2]string{l.Schema, l.Name}] = l
		}
		if x := l.xmin(); x != 0 {
			first = min(first, x)
		}
	}
	var list, fresh []*Table
	for _, t := range s.Rows() {
		l := byOID[t.OID]
		if l == nil {
			l = byName[[2]string{t.Schema, t.Name}]
		}
		published := !t.Has(NotPublished, DetachPending, Unlogged)
		if l == nil && (t.Extension || !published && !target.Whole && target.MadeFor) {
			continue
		}
		t.loaded, list = l, append(list, t)
		switch {
		case l == nil:
			fresh = append(fresh, t)
		case l.Recorded:
		case l.Snapshot == "" || !l.Complete:
			if target.MadeFor && !target.Loading {
				t.because(NotLoaded, "")
			}
		default:
			s.gap(t, l.xmin())
		}
	}
	if len(fresh) == 0 || target.Loading {
		return list, nil
	}
	lacks, err := absent(fresh)
	if err != nil {
		return nil, err
	}
	for _, t := range fresh {
		switch {
		case lacks[t]:
			t.because(Absent, "")
		case target.MadeFor && !(target.Recording && s.wide(t.XID) >= first):
			t.because(NotLoaded, "")
		}
	}
	return list, nil
}

// gap adds a reason if an operation of a table was not always published since the load that used a
// snapshot with that xmin. That is so if every publication that publishes the operation now got the
// table later.
func (s *State) gap(t *Table, xmin uint64) {
	if xmin == 0 {
		return
	}
	up := s.Ancestors(t)
	ways := s.ways(t, up)
	usable := t.Identity.usable(s.Version, slices.ContainsFunc(ways, func(w way) bool { return w.Generated }))
	var since Operations
	for _, w := range ways {
		if !slices.ContainsFunc(w.xids, func(x uint32) bool { return s.wide(x) >= xmin && !moved(x, t, up, w.Publication) }) {
			since.add(w.Operations)
		}
	}
	now := t.published(ways)
	if now.Insert && !since.Insert || now.Truncate && !since.Truncate ||
		usable && (now.Update && !since.Update || now.Delete && !since.Delete) {
		if t.Has(NoIdentity) && !now.Update && !now.Delete {
			// The table was moved to the publication of inserts, or left its publication when it
			// lost its identity.
			t.because(IdentityLost, t.Identity.Why(s.Version))
			return
		}
		t.because(Gap, "")
	}
}

// moved reports whether the transaction that put a table into a publication put the table itself,
// or one of its ancestors, into another one as well. Then it moved from where it was published
// before: place and the triggers of ddl install do so, and nobody else.
func moved(xid uint32, t *Table, up []*Table, into *Publication) bool {
	if xid == into.XID { // the publication is new
		return false
	}
	for _, x := range append([]*Table{t}, up...) {
		for _, m := range x.In {
			if m.XID == xid && m.Publication != into.OID {
				return true
			}
		}
	}
	return false
}

// wide returns the 64-bit form of a transaction ID. The transaction is in the past, because its
// rows are visible.
func (s *State) wide(xid uint32) uint64 {
	if xid < 3 {
		return 0 // a transaction of initdb
	}
	x := s.XID&^0xFFFFFFFF | uint64(xid)
	if x >= s.XID && x >= 1<<32 {
		x -= 1 << 32
	}
	return x
}
