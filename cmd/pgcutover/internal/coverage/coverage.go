// Package coverage compares the source's tables with those that the slot carries: which tables do
// not reach the target completely, why, and what to do about it.
package coverage

import (
	"context"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/carried"
	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Compare compares the tables in the slot's publications with those on the target. It returns the
// source's tables that belong to the migration, each with the reasons why it does not reach the
// target completely. If the migration began with a selection, only published or loaded tables
// belong to it. The number of queries does not depend on the number of tables. Compare queries the
// target only if the target may lack some of the tables.
func Compare(ctx context.Context, s *session.Session, tables []progress.TableInfo) ([]*carried.Table, error) {
	publications, err := slot.PublicationsOf(ctx, s.OnSource, s.Slot)
	if err != nil {
		return nil, s.Source.Explain(err)
	}
	state, err := carried.Tables(ctx, s.OnSource, publications)
	if err != nil {
		return nil, s.Source.Explain(err)
	}
	recorder, err := slot.GetRecorder(ctx, s.OnSource)
	if err != nil {
		return nil, s.Source.Explain(err)
	}
	target := carried.Target{Whole: s.Stream.Whole, MadeFor: s.Stream.Source.Token != "" ||
		s.Stream.LoadStatus != "none", Loading: s.Stream.LoadStatus == "loading",
		Recording: recorder.Trusted()}
	for _, x := range tables {
		target.Tables = append(target.Tables, carried.Loaded{Schema: x.SourceSchema, Name: x.SourceTable,
			OID: x.SourceOID, Snapshot: x.Snapshot, Counted: x.Counted,
			Complete: x.Status == "copied" || x.Status == "indexing" || x.Status == "loaded",
			Recorded: x.Snapshot == progress.MadeByStatement})
	}
	list, err := state.Compare(target, func(list []*carried.Table) (map[*carried.Table]bool, error) { return absent(ctx, s, list) })
	if err != nil {
		return nil, err
	}
	return list, s.Source.Explain(state.Changes(ctx, s.OnSource, target, list))
}

// absent returns the tables that the target does not have.
func absent(ctx context.Context, s *session.Session, list []*carried.Table) (map[*carried.Table]bool, error) {
	s.Asking.Lock()
	defer s.Asking.Unlock()
	schemas, err := progress.RenamedSchemas(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return nil, s.Target.Explain(err)
	}
	names := make([]catalog.Name, len(list))
	for i, x := range list {
		names[i] = catalog.Name{Schema: x.Schema, Name: x.Name}
		if to, ok := schemas[x.Schema]; ok {
			names[i].Schema = to
		}
	}
	lacks, err := catalog.Absent(ctx, s.OnTarget, names)
	if err != nil {
		return nil, s.Target.Explain(err)
	}
	absent := make(map[*carried.Table]bool)
	for i, x := range list {
		absent[x] = lacks[names[i]]
	}
	return absent, nil
}

// A TableName names a table of the source.
type TableName struct {
	Schema string `json:"schema"`
	Table  string `json:"table"`
}

func (n TableName) String() string { return n.Schema + "." + n.Table }

// Names returns the tables' names.
func Names(list []TableName) []string {
	names := make([]string, len(list))
	for i, n := range list {
		names[i] = n.String()
	}
	return names
}

// An Uncarried table is a table of the source that does not reach the target as completely as the
// load promised.
type Uncarried struct {
	TableName
	Reason string `json:"reason"` // a code for programs
	Says   string `json:"says"`   // the reason for people

	lacks []string // statements that grant sync's role the missing privileges
	mend  string   // statement after which its changes are carried
}

// Sort sorts the tables that do not reach the target completely: those that the target lacks, those
// of which the slot carries less than the load promised, and those of which the load promised
// inserts only.
func Sort(tables []*carried.Table) (missing []TableName, uncarried []Uncarried, insertOnly []TableName) {
	missing, uncarried, insertOnly = []TableName{}, []Uncarried{}, []TableName{}
	for _, t := range tables {
		name := TableName{t.Schema, t.Name}
		if t.Has(carried.Absent, carried.NotLoaded) {
			missing = append(missing, name)
			continue
		}
		if t.Has(carried.NoIdentity) {
			insertOnly = append(insertOnly, name)
		}
		for _, r := range t.Reasons {
			if !r.Known() {
				uncarried = append(uncarried, Uncarried{name, string(r.Code), r.String(), r.Lacks, r.Mend})
			}
		}
	}
	return missing, uncarried, insertOnly
}

// UncarriedText names the tables that are not carried completely, and what to do about them.
func UncarriedText(slot string, list []Uncarried) (says, remedy string) {
	const most = 20
	var order, options, lines []string
	tables := make(map[string][]string) // by the text of the reason
	seen := make(map[TableName]bool)
	reload, publish, refused, changed, truncated := false, false, false, false, false
	var grants, mends []string
	for _, u := range list {
		if tables[u.Says] == nil {
			order = append(order, u.Says)
		}
		tables[u.Says] = append(tables[u.Says], u.TableName.String())
		switch carried.Code(u.Reason) {
		case carried.Refuses:
			refused = true
			for _, g := range u.lacks {
				if !slices.Contains(grants, g) {
					grants = append(grants, g)
				}
			}
			continue
		case carried.Gap, carried.IdentityLost:
			reload = true
		case carried.Changed, carried.Uncounted:
			changed = true
			if u.mend != "" && len(mends) < most {
				mends = append(mends, u.mend)
			}
		case carried.Truncated:
			truncated = true
		default:
			publish, reload = true, true
		}
		if !seen[u.TableName] && len(options) < most {
			options = append(options, "--table "+tablePattern(u.TableName))
		}
		seen[u.TableName] = true
	}
	for _, o := range order[:min(len(order), most)] {
		lines = append(lines, count.Some(tables[o])+" "+o)
	}
	says = strings.Join(lines, "; ")
	if len(seen) > most {
		options = append(options, "and so on")
	}
	var todo []string
	if refused {
		todo = append(todo, "Give those whose updates are refused a primary key, or ALTER TABLE … REPLICA IDENTITY FULL. While sync runs (scripts/sync "+slot+
			"), it takes them out of the publication of updates within seconds; by hand: ALTER PUBLICATION "+
			pgx.Identifier{slot}.Sanitize()+" DROP TABLE …")
		if len(grants) > 0 {
			todo = append(todo, "Its role may not do so. On the source, as a role that may: "+strings.Join(grants, " "))
		}
	}
	if publish {
		todo = append(todo, "Publish them as they were when they were loaded (ALTER PUBLICATION "+pgx.Identifier{slot}.Sanitize()+" …).")
	}
	if changed {
		todo = append(todo, changedRemedy(slot, mends, options))
	}
	if truncated {
		todo = append(todo, truncatedRemedy(slot, options))
	}
	if reload {
		todo = append(todo, "What was changed meanwhile is in no stream; while sync is stopped: pgextract --slot "+
			slot+" "+strings.Join(options, " ")+" --reload | pgapply")
	}
	return says, strings.Join(todo, " ")
}

// changedRemedy says what to do about tables that have changed in a way that is not carried. Loaded
// again they are equal, but only as long as they do not change in that way again.
func changedRemedy(slot string, mends, options []string) string {
	first := "on the source and on the target, give each a primary key."
	if len(mends) > 0 {
		first = "on the source and on the target: " + strings.Join(mends, " ")
	}
	return "To see whether rows differ: pgcutover verify --slot " + slot + " --only-different. To have all changes carried, " + first +
		" Then load them again; while sync is stopped: pgextract --slot " + slot + " " + strings.Join(options, " ") +
		" --reload | pgapply"
}

// truncatedRemedy says what to do about tables that may have been truncated on the source.
func truncatedRemedy(slot string, options []string) string {
	return "To see whether rows differ: pgcutover verify --slot " + slot +
		" --only-different. Load those again; while sync is stopped: pgextract --slot " + slot + " " +
		strings.Join(options, " ") + " --reload | pgapply. Accept the others: --allow-missing ID"
}

// MissingText names the tables that the target lacks, and what to do about them.
func MissingText(slot string, list []TableName) (says, remedy string) {
	const most = 20
	options := make([]string, 0, most)
	for _, n := range list[:min(len(list), most)] {
		options = append(options, "--table "+tablePattern(n))
	}
	says = "the target does not have " + count.Of(len(list), "table") + " of the source: " +
		count.Some(Names(list)) + ". They are not there, or have never been loaded"
	remedy = "While sync is stopped: pgextract --slot " + slot + " " + strings.Join(options, " ") + " --reload | pgapply"
	if len(list) > most {
		remedy += ", and so on"
	}
	return says, remedy
}

var plainName = regexp.MustCompile("^[a-z_][a-z0-9_]*$")

// tablePattern returns the pattern that matches only this table, quoted for the shell.
func tablePattern(n TableName) string {
	if plainName.MatchString(n.Schema) && plainName.MatchString(n.Table) {
		return n.String()
	}
	return text.Shell(pgx.Identifier{n.Schema, n.Table}.Sanitize())
}
