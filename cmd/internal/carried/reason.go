package carried

import "strings"

// A Code says in one word why a table is not carried completely.
type Code string

// The codes. NoIdentity, Unlogged and NotPublished are limits that check and pgextract have
// reported from the start. The other codes mean that promised changes are lost, or will be.
const (
	// UPDATE and DELETE are not carried, because nothing identifies the rows.
	NoIdentity   Code = "no-identity"
	Unlogged     Code = "unlogged"      // its changes are not in the WAL
	NotPublished Code = "not-published" // none of the slot's publications has it
	// The publication of its partitioned table no longer publishes it.
	DetachPending Code = "detach-pending"
	Narrowed      Code = "narrowed"    // some operations are not published
	RowFilter     Code = "row-filter"  // some rows are not published
	ColumnList    Code = "column-list" // some columns are not published
	// The source refuses the application's UPDATE and DELETE because they are published.
	Refuses Code = "refuses"
	// The table lost its identity after the load, so UPDATE and DELETE are no longer carried.
	IdentityLost Code = "identity-lost"
	// The table was not published, or not completely, for some time since it was loaded.
	Gap Code = "gap"
	// The table was neither loaded nor created by a recorded statement.
	NotLoaded Code = "not-loaded"
	Absent    Code = "absent" // the target does not have it
	// Rows have changed since the load in a way that is not carried, because of NoIdentity or
	// Unlogged.
	Changed Code = "changed"
	// Whether rows have changed in such a way cannot be told.
	Uncounted Code = "uncounted"
	// The source does not decode TRUNCATE, and the table has another file than when it was loaded.
	Truncated Code = "truncated"
)

// A Reason is why a table is not carried completely.
type Reason struct {
	Code   Code
	Detail string // operations, columns, a filter, or why there is no identity
	// Lacks are the statements that give the role the rights to repair this. It is empty if the
	// role has them.
	Lacks []string
	// Mend is the statement after which all changes of the table can be carried. It is empty if
	// only a person can tell.
	Mend string
}

// Known reports whether the load has already reported the reason: the table has no identity, or is
// unlogged. Every other reason blocks a cutover, also that such a table has changed.
func (r Reason) Known() bool { return r.Code == NoIdentity || r.Code == Unlogged }

// String returns the reason in words that follow a table's name.
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
	case Changed:
		return "differs, or may: " + r.Detail
	case Uncounted:
		return "may differ: " + r.Detail
	case Truncated:
		return "may have been truncated: " + r.Detail
	}
	return string(r.Code)
}

func join(list []string) string { return strings.Join(list, ", ") }

// Has reports whether a table has a reason with one of the codes.
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
