package lines

import (
	"slices"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/testdecoding"
	"github.com/pgsluice/pgsluice/format"
)

// A Table is a table as the catalog has it at one moment.
type Table struct {
	ID              uint32
	Schema, Name    string
	ReplicaIdentity string
	Columns         []Column

	Insert, Update, Delete, Truncate bool // what the publications carry

	// Sign changes whenever the name may belong to another table, or the table may have another
	// replica identity. Young has the transactions that have brought it about, but for those that
	// had ended before everything that the slot still has.
	Sign  string
	Young []uint32

	recorder bool // its rows are recorded changes of the schema
}

// A Column is a column of a Table.
type Column struct {
	format.Column
	Printed string // the type, as the plugin prints it
}

// A Catalog looks tables up on the source.
type Catalog interface {
	// Tables reads those of the named tables that exist. It returns the end of the WAL as it was
	// before the look.
	Tables(names [][2]string) (map[[2]string]*Table, format.LSN, error)
	// Renamed returns young transactions that have created or renamed a table that is carried.
	Renamed() ([]uint32, error)
	// Recorder reports whether the table is the trusted one of the recorder of schema changes.
	Recorder(oid uint32) (bool, error)
}

// known has the tables that were looked up. The catalog is that of the moment of the look, and a
// change may be older or newer. For a change that is newer, verify looks again: if nothing has
// changed in between, the catalog was the same when the row was changed. For an older change,
// the transactions that made the table what it is must have ended before: before everything in the
// slot, or in this session.
//
// A list of columns cannot be wrong: each new row has all names and types.
type known struct {
	tables map[[2]string]*Table // nil: there is no such table now
	until  format.LSN           // what committed before here has been looked at
	own    uint32               // the transaction that is being written

	seen map[uint32]struct{} // transactions of this session, the newest ones
	ring []uint32
	next int
}

// remembered is how many transactions of the session are known.
const remembered = 1 << 16

// committed notes the end of a transaction.
func (k *known) committed(xid uint32) {
	if k.seen == nil {
		k.seen = make(map[uint32]struct{})
	}
	if len(k.ring) < remembered {
		k.ring = append(k.ring, xid)
	} else {
		delete(k.seen, k.ring[k.next])
		k.ring[k.next] = xid
		k.next = (k.next + 1) % remembered
	}
	k.seen[xid] = struct{}{}
}

// table returns a table that a change names, or nil if nothing of it is carried.
func (k *known) table(c Catalog, name testdecoding.Name, kind testdecoding.Kind) (*Table, error) {
	t, ok := k.tables[[2]string{string(name.Schema), string(name.Table)}]
	if !ok {
		key := [2]string{string(name.Schema), string(name.Table)}
		found, until, err := c.Tables([][2]string{key})
		if err != nil {
			return nil, err
		}
		if k.tables == nil {
			k.tables = make(map[[2]string]*Table)
		}
		if k.until == 0 {
			k.until = until
		}
		if t, err = k.take(c, key, found[key]); err != nil {
			return nil, err
		}
		k.tables[key] = t
	}
	if t == nil || t.recorder {
		return t, nil
	}
	for _, xid := range t.Young {
		// What the transaction itself has made before or after the row, only a row without a
		// replica identity can ignore.
		own := xid == k.own && (kind == testdecoding.Insert || kind == testdecoding.Truncate)
		if _, ok := k.seen[xid]; !ok && !own {
			return nil, unclear(t.Schema+"."+t.Name, xid)
		}
	}
	if len(t.Young) > 0 && !slices.Contains(t.Young, k.own) {
		t.Young = nil
	}
	return t, nil
}

// take returns the table if changes of it are carried.
func (k *known) take(c Catalog, key [2]string, t *Table) (*Table, error) {
	if t == nil {
		// It was dropped, and its rows with it, unless it is one that was renamed.
		young, err := c.Renamed()
		if err != nil {
			return nil, err
		}
		for _, xid := range young {
			if _, ok := k.seen[xid]; !ok {
				return nil, unclear(key[0]+"."+key[1], xid)
			}
		}
		return nil, nil
	}
	if !t.Insert && !t.Update && !t.Delete && !t.Truncate || t.Schema == "pgsluice" && t.Name != "ddl" {
		return nil, nil
	}
	if t.Schema == "pgsluice" {
		ours, err := c.Recorder(t.ID)
		if err != nil || !ours {
			return nil, err
		}
		t.recorder = true
	}
	return t, nil
}

func unclear(table string, xid uint32) error {
	return fault.New(fault.Unavailable, "cannot tell which definition table %s had when a row of it was changed", table).
		WithDetail("Transaction %d has created or renamed a table, or changed its primary key or replica identity. The plugin test_decoding does not say whether that was before or after the row was changed.", xid).
		WithHint("The target needs a new full load. Do not rename tables, or change their keys, during a migration with test_decoding.")
}

// verify looks at the tables again, unless what committed before an LSN has been looked at.
func (k *known) verify(c Catalog, end format.LSN) error {
	if len(k.tables) == 0 || end <= k.until {
		return nil
	}
	names := make([][2]string, 0, len(k.tables))
	for key := range k.tables {
		names = append(names, key)
	}
	found, until, err := c.Tables(names)
	if err != nil {
		return err
	}
	for _, key := range names {
		old, now := k.tables[key], found[key]
		if old == nil && now == nil {
			continue
		}
		t, err := k.take(c, key, now)
		if err != nil {
			return err
		}
		if t != nil && old != nil && old.Sign == t.Sign {
			t.Young = old.Young // which may have been found to be older
		}
		k.tables[key] = t
	}
	k.until = until
	return nil
}
