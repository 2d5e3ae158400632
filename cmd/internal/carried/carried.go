// Package carried answers what a slot carries of each table of a source. Tables are identified by
// OID. The answer names the slot's publications that contain the table, their operations, rows and
// columns, and the replica identity that they use. It follows the server's own rules for decoding a
// change and for refusing a statement of the application. Judge is pure. Tables reads the catalog
// first, once for all tables.
package carried

import "slices"

// A Table is a table of the source. It has rows of its own, or it is a partitioned table, whose
// rows are in its partitions.
type Table struct {
	OID          uint32
	Schema, Name string
	Kind         string // pg_class.relkind: r, or p for a partitioned table
	Unlogged     bool   // its changes are not in the WAL
	Extension    bool   // configuration table of an extension
	Owner        string
	Foreign      int    // 0 if the role has the owner's rights; else ofOther or ofSuperuser
	XID          uint32 // transaction that created it
	Identity     Identity

	Parent    uint32 // the partitioned table that contains this partition; 0 for other tables
	ParentXID uint32 // transaction that attached the partition
	// DETACH CONCURRENTLY was started and is not finished. The server no longer treats the table as
	// a partition.
	DetachPending bool

	In []Membership // excludes memberships through a partitioned table or FOR ALL TABLES

	// What Judge finds for tables with rows of their own.
	Root    uint32     // topmost partitioned table, 0 if there is none
	Carried Operations // operations that the slot's publications publish
	Refused []string   // publications that make the source refuse its UPDATE and DELETE
	Reasons []Reason   // why changes are missing; empty if the table is carried completely

	loaded *Loaded // what Compare has found on the target; nil if it does not know the table
	// The counters of a table that is not carried completely, if they say that nothing has changed
	// that would have to be carried. Set by Changes.
	Unchanged *Counters
}

func (t *Table) String() string { return t.Schema + "." + t.Name }

// Operations says which operations of a table are published.
type Operations struct{ Insert, Update, Delete, Truncate bool }

func (o *Operations) add(x Operations) {
	o.Insert, o.Update, o.Delete, o.Truncate = o.Insert || x.Insert, o.Update || x.Update, o.Delete || x.Delete, o.Truncate || x.Truncate
}

// A Publication is one of the slot's publications.
type Publication struct {
	OID       uint32
	Name      string
	XID       uint32 // transaction that last altered it
	Owner     string
	Foreign   int // 0 if the role has the owner's rights; else ofOther or ofSuperuser
	AllTables bool
	ViaRoot   bool // publish_via_partition_root
	Generated bool // publish_generated_columns = stored
	Operations
}

// A Membership says that a publication contains a table, directly or through its schema.
type Membership struct {
	Publication uint32
	XID         uint32   // transaction that created it
	Schema      bool     // FOR TABLES IN SCHEMA
	Filter      string   // row filter as SQL; empty if there is none
	LeftOut     []string // unpublished columns, except generated ones
}

// Values of Foreign: the role does not have the owner's rights.
const (
	ofOther     = 1 // the owner's role could be granted
	ofSuperuser = 2 // the owner is a superuser, whose role should not be granted
)

// An Identity is the replica identity of a table. UPDATE and DELETE identify rows by it. Partitions
// do not use the setting of their partitioned table. For a partitioned table, the index is the
// primary key, which new partitions inherit.
type Identity struct {
	Setting    string // pg_class.relreplident: d default, i index, f full, n nothing
	There      bool   // the primary key or index that the setting names exists
	Immediate  bool   // the index is not DEFERRABLE
	Valid      bool   // the index is valid and not being dropped
	Generated  bool   // one of its columns is generated
	Virtual    bool   // one of its columns is a virtual generated column
	Generating bool   // the table has stored generated columns
	Imagining  bool   // the table has virtual generated columns
}

// Full reports whether the replica identity consists of all columns.
func (i *Identity) Full() bool { return i.Setting == "f" }

// Indexed reports whether the server finds an index to use as replica identity. It follows the
// server's function RelationGetReplicaIndex.
func (i *Identity) Indexed() bool {
	return (i.Setting == "d" || i.Setting == "i") && i.There && i.Immediate && i.Valid
}

// accepted reports whether the server allows UPDATE and DELETE on a table in a publication that
// publishes updates.
func (i *Identity) accepted(version int, generated bool) bool {
	switch {
	case version < 180000:
	case i.Full() && (i.Generating && !generated || i.Imagining):
		return false
	case i.Indexed() && (i.Virtual || i.Generated && !generated):
		return false
	}
	return i.Full() || i.Indexed()
}

// usable reports whether a decoded UPDATE or DELETE identifies the row.
func (i *Identity) usable(version int, generated bool) bool {
	return i.accepted(version, generated) && (i.Full() || !i.Generated || generated)
}

// Why explains why there is no usable identity. It returns "" if there is one.
func (i *Identity) Why(version int) string {
	switch {
	case i.usable(version, false):
		return ""
	case i.Setting == "n":
		return "REPLICA IDENTITY NOTHING"
	case i.Full() && i.Imagining:
		return "REPLICA IDENTITY FULL, and a virtual generated column"
	case i.Full():
		return "REPLICA IDENTITY FULL, and a generated column"
	case i.Indexed():
		return "a generated column in its replica identity"
	case i.Setting == "i" && !i.There:
		return "the index of its REPLICA IDENTITY is gone"
	case !i.There:
		return "no primary key"
	case !i.Immediate:
		return "its primary key is DEFERRABLE"
	}
	return "the index of its key is not valid"
}

// A State is what is known of all tables of a source at one moment.
type State struct {
	Version      int    // server version
	Role         string // the role that queries the source
	Publications []*Publication
	Tables       []*Table // ordered by schema and name
	XID          uint64   // next transaction ID, 64 bits wide

	byOID map[uint32]*Table
}

// Table returns the table with an OID, or nil.
func (s *State) Table(oid uint32) *Table { return s.byOID[oid] }

// Rows returns the tables that have rows of their own.
func (s *State) Rows() []*Table {
	var list []*Table
	for _, t := range s.Tables {
		if t.Kind == "r" {
			list = append(list, t)
		}
	}
	return list
}

// Ancestors returns the partitioned tables above a table, nearest first. A table with a pending
// DETACH has no ancestors.
func (s *State) Ancestors(t *Table) []*Table {
	var list []*Table
	for t.Parent != 0 && !t.DetachPending {
		up := s.byOID[t.Parent]
		if up == nil || slices.Contains(list, up) {
			break
		}
		list, t = append(list, up), up
	}
	return list
}

// Publication returns the publication with a name, or nil.
func (s *State) Publication(name string) *Publication {
	for _, p := range s.Publications {
		if p.Name == name {
			return p
		}
	}
	return nil
}
