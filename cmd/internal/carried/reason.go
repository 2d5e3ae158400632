package carried

import "strings"

// A Code says in one word why not all of a table is carried.
type Code string

// The codes. The first three are of tables that were never promised more: check and pgextract have
// said so. Those after them are of tables of which changes that were promised are lost, or will be.
const (
	// UPDATE and DELETE are not carried: nothing names the rows
	NoIdentity   Code = "no-identity"
	Unlogged     Code = "unlogged"      // its changes are in no WAL
	NotPublished Code = "not-published" // none of the slot's publications has it
	// so that the publication of its partitioned table has it no more
	DetachPending Code = "detach-pending"
	Narrowed      Code = "narrowed"    // some operations are not published
	RowFilter     Code = "row-filter"  // some rows are not published
	ColumnList    Code = "column-list" // some columns are not published
	// the source refuses the application's UPDATE and DELETE, because they are published
	Refuses Code = "refuses"
	// UPDATE and DELETE are not carried any more: nothing names the rows since it was loaded
	IdentityLost Code = "identity-lost"
	// it was not published, or not whole, for a time since it was loaded
	Gap Code = "gap"
	// it has neither been loaded nor made by a statement that was recorded
	NotLoaded Code = "not-loaded"
	Absent    Code = "absent" // the target does not have it
)

// A Reason is why not all of a table is carried.
type Reason struct {
	Code   Code
	Detail string // what of it: operations, columns, a filter, why there is no identity
	// Lacks are the statements that give the role what it needs to mend it, if it has not got that.
	Lacks []string
}

// Known reports whether the reason is one that the load has named: the table has no identity, or is
// unlogged. All others stand in the way of a cutover.
func (r Reason) Known() bool { return r.Code == NoIdentity || r.Code == Unlogged }

// String says it in words that follow a table's name.
func (r Reason) String() string {
	switch r.Code {
	case NoIdentity:
		return "without usable replica identity (" + r.Detail + "): UPDATE and DELETE are not carried"
	case Unlogged:
		return "is unlogged: its changes are in no WAL"
	case NotPublished:
		return "is in none of the slot's publications: its changes are not carried"
	case DetachPending:
		return "has a pending DETACH: its changes are not carried"
	case Narrowed:
		return "is published without " + r.Detail
	case RowFilter:
		return "is published with a row filter: " + r.Detail
	case ColumnList:
		return "is published without its columns " + r.Detail
	case Refuses:
		return "is published with updates, and the source refuses the application's UPDATE and DELETE (" + r.Detail + ")"
	case IdentityLost:
		return "has lost its replica identity since it was loaded (" + r.Detail + "): UPDATE and DELETE are not carried"
	case Gap:
		return "was not published as a whole for a time since it was loaded: changes may be missing"
	case NotLoaded:
		return "has not been loaded"
	case Absent:
		return "is not on the target"
	}
	return string(r.Code)
}

func join(list []string) string { return strings.Join(list, ", ") }

// Has reports whether a table has a reason of one of the codes.
func (t *Table) Has(codes ...Code) bool {
	for _, r := range t.Reasons {
		for _, c := range codes {
			if r.Code == c {
				return true
			}
		}
	}
	return false
}
