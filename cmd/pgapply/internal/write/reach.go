package write

import (
	"errors"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/sqltext"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/format"
)

// A recorded statement may be older than the snapshot that tables were loaded from. Then it depends
// on what the statement can do to rows whether, and how, the target needs it.

// A Reach is what a recorded statement can do to the rows of tables.
type Reach uint8

const (
	// None: the statement changes no rows. It does no harm if it is executed again.
	None Reach = iota
	// Named: it changes the tables among its objects, or creates or drops them.
	Named
	// Moved is Named for a statement that gives tables other names. Only its text has the old ones.
	Moved
	// Joined is Named for a statement that adds a partition or takes it away. Only its text has the
	// partition.
	Joined
	// Computed is Named for a statement that defines what a column computes. Loaded rows do not
	// show that.
	Computed
	// Filled: it fills a new table with rows of other tables.
	Filled
	// Unknown: it may change tables that it does not name.
	Unknown
)

// ReachOf returns what a recorded statement can do to rows.
func ReachOf(d *format.DDL) Reach {
	if strings.HasPrefix(d.SQL, undecided) {
		return None // it only reports why it cannot be repeated
	}
	var words []string
	if all := sqltext.RulesOf(d.Settings).Split(d.SQL); len(all) == 1 {
		words = all[0].Words
	}
	has := func(w string) bool { return slices.Contains(words, w) }
	made := func(kind string) bool {
		return slices.ContainsFunc(d.Objects, func(o format.Object) bool { return o.Type == kind })
	}
	switch d.Type {
	case "", "DROP OWNED":
		return Unknown
	case "CREATE TABLE", "DROP TABLE", "DROP SCHEMA":
		return Named
	case "CREATE TABLE AS", "SELECT INTO":
		return Filled
	case "CREATE SCHEMA":
		if made("table") {
			return Named
		}
	case "ALTER SCHEMA":
		if has("RENAME") {
			return Moved
		}
	case "ALTER TYPE":
		// Rows were loaded as text, with the names and the order of another time.
		if has("ATTRIBUTE") || has("RENAME") && has("VALUE") {
			return Unknown
		}
	}
	verb, kind, _ := strings.Cut(d.Type, " ")
	switch {
	case verb == "DROP" && has("CASCADE") && !slices.Contains(spares, kind):
		return Unknown
	case verb != "ALTER" || !made("table") && !made("table column"):
		return None
	case computes(words):
		return Computed
	case has("ATTACH"), has("DETACH"), has("INHERIT"):
		return Joined
	case made("table") && (has("RENAME") || has("SCHEMA")):
		return Moved
	}
	return Named
}

// spares lists the kinds of objects that no column depends on, so that CASCADE drops no column.
var spares = []string{"VIEW", "MATERIALIZED VIEW", "INDEX", "TRIGGER", "RULE", "POLICY", "SEQUENCE", "STATISTICS"}

// computes reports whether the words of a statement define a generated column.
func computes(words []string) bool {
	for i, w := range words {
		next := append(slices.Clone(words[i+1:]), "", "", "")
		if w == "EXPRESSION" || w == "GENERATED" && next[0] == "ALWAYS" && next[1] == "AS" && next[2] != "IDENTITY" {
			return true
		}
	}
	return false
}

// stale lists the SQLSTATEs of a statement that does not fit later definitions: something exists
// already, or does not exist any more.
var stale = []string{"42P07", "42710", "42P06", "42723", "42701", "42P16", "42P01", "42704", "42883", "42703", "3F000"}

// superseded reports whether the target has refused the recorded statement of a group because it
// has later definitions. That is so only before the last snapshot that a table was loaded from, and
// matters only if the statement does something to rows.
func (l *lane) superseded(g *plan.Group, d *format.DDL, refused error) bool {
	var pg *pgconn.PgError
	if !l.old(g) || !errors.As(refused, &pg) {
		return false
	}
	gone := pg.Code == "42P01" && d.Type == "DROP TABLE" && len(d.Objects) == 1
	return gone || ReachOf(d) == None && slices.Contains(stale, pg.Code)
}

// old reports whether a group is of a transaction that is older than the last load of a table.
func (l *lane) old(g *plan.Group) bool {
	lsn := g.CommitLSN(0)
	return lsn != 0 && lsn < l.loaded
}

// Shown returns a statement as messages show it.
func Shown(d *format.DDL) string { return shown(d) }
