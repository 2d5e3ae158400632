// Package carried answers for each table of a source, by OID, what a slot carries of it: which of
// the slot's publications have it, with which operations, rows and columns, and by which replica
// identity. It answers as the server does, when it decodes a change and when it refuses a statement
// of the application. Judge is pure; Tables asks the catalog first, once for all tables.
package carried

import "slices"

// A Table is a table of the source that has rows of its own, or a partitioned one, whose rows are
// its partitions'.
type Table struct {
	OID          uint32
	Schema, Name string
	Kind         string // pg_class.relkind: r, or p for a partitioned one
	Unlogged     bool   // its changes are in no WAL
	Extension    bool   // a configuration table of an extension
	Owner        string
	Foreign      int    // how far the role is from the owner's rights
	XID          uint32 // which transaction has made it
	Identity     Identity

	Parent    uint32 // of a partition: what it is a partition of, 0 of others
	ParentXID uint32 // which transaction has made it one
	// DETACH CONCURRENTLY has been begun and is not finished: for the server it is no partition any
	// more
	DetachPending bool

	In []Membership // without what it gets through its partitioned table, or FOR ALL TABLES

	// What Judge finds, for tables with rows of their own.
	Root    uint32     // the topmost partitioned table, 0 if there is none
	Carried Operations // what of it the slot's publications publish
	Refused []string   // publications because of which the source refuses its UPDATE and DELETE
	Reasons []Reason   // why not all of it is carried; empty if all is
}

func (t *Table) String() string { return t.Schema + "." + t.Name }

// Operations are those of a table that are published.
type Operations struct{ Insert, Update, Delete, Truncate bool }

func (o *Operations) add(x Operations) {
	o.Insert, o.Update, o.Delete, o.Truncate = o.Insert || x.Insert, o.Update || x.Update, o.Delete || x.Delete, o.Truncate || x.Truncate
}

// A Publication is one of the slot's.
type Publication struct {
	OID       uint32
	Name      string
	XID       uint32 // which transaction has altered it last
	Owner     string
	Foreign   int // how far the role is from the owner's rights
	AllTables bool
	ViaRoot   bool // publish_via_partition_root
	Generated bool // publish_generated_columns = stored
	Operations
}

// A Membership is a table's in a publication: by itself, or through its schema.
type Membership struct {
	Publication uint32
	XID         uint32   // which transaction has made it
	Schema      bool     // FOR TABLES IN SCHEMA
	Filter      string   // of rows, as SQL; empty if there is none
	LeftOut     []string // columns that are not published, generated ones apart
}

// How far a role is from an owner's rights.
const (
	ofOther     = 1 // it could be granted them
	ofSuperuser = 2 // nobody should be
)

// An Identity is what UPDATE and DELETE of a table name its rows by. A partitioned table's setting
// is not its partitions': of one, the index is the primary key, which new partitions will have.
type Identity struct {
	Setting    string // pg_class.relreplident: d default, i index, f full, n nothing
	There      bool   // there is the primary key, or the index, that the setting names
	Immediate  bool   // it is not DEFERRABLE
	Valid      bool   // it is valid, and not about to be dropped
	Generated  bool   // a column of it is generated
	Virtual    bool   // a column of it is generated and virtual
	Generating bool   // the table has stored generated columns
	Imagining  bool   // the table has virtual generated columns
}

// Full reports whether a row's identity is all of its columns.
func (i *Identity) Full() bool { return i.Setting == "f" }

// Indexed reports whether the server finds an index that is the replica identity, as its function
// RelationGetReplicaIndex does.
func (i *Identity) Indexed() bool {
	return (i.Setting == "d" || i.Setting == "i") && i.There && i.Immediate && i.Valid
}

// accepted reports whether the server lets UPDATE and DELETE of a table through that a publication
// with updates has.
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

// usable reports whether what is decoded of an UPDATE or DELETE names the row.
func (i *Identity) usable(version int, generated bool) bool {
	return i.accepted(version, generated) && (i.Full() || !i.Generated || generated)
}

// Why says in words why there is no usable identity, empty if there is one.
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
	Version      int    // of the server
	Role         string // that asks
	Publications []*Publication
	Tables       []*Table // by schema and name
	XID          uint64   // the next transaction's, of 64 bits

	byOID map[uint32]*Table
}

// Table returns a table by its OID, nil if there is none.
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

// Ancestors returns the partitioned tables above a table, nearest first. One with a pending DETACH
// has none any more.
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

// Publication returns a publication by its name, nil if there is none.
func (s *State) Publication(name string) *Publication {
	for _, p := range s.Publications {
		if p.Name == name {
			return p
		}
	}
	return nil
}
