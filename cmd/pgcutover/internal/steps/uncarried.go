package steps

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/carried"
	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// carried compares what the slot's publications carry with what the target has got, and returns the
// tables of the source that belong to the migration, each with the reasons why not all of it
// reaches the target. Of a migration that began with a selection, only what is published or was
// loaded belongs to it. It asks each side once, whatever the number of tables, and of the target
// only if there are tables that it may not have.
func (m *Migration) carried(ctx context.Context, c, t *pgx.Conn, stream *progress.Stream,
	tables []progress.TableInfo) ([]*carried.Table, error) {
	publications, err := slot.PublicationsOf(ctx, c, m.Slot)
	if err != nil {
		return nil, m.Source.Explain(err)
	}
	state, err := carried.Tables(ctx, c, publications)
	if err != nil {
		return nil, m.Source.Explain(err)
	}
	recorder, err := slot.GetRecorder(ctx, c)
	if err != nil {
		return nil, m.Source.Explain(err)
	}
	target := carried.Target{Whole: stream.Whole, MadeFor: stream.Source.Token != "" ||
		stream.LoadStatus != "none", Loading: stream.LoadStatus == "loading", Recording: recorder.Trusted()}
	for _, x := range tables {
		target.Tables = append(target.Tables, carried.Loaded{Schema: x.SourceSchema, Name: x.SourceTable,
			OID: x.SourceOID, Snapshot: x.Snapshot,
			Complete: x.Status == "copied" || x.Status == "indexing" || x.Status == "loaded",
			Recorded: x.Snapshot == progress.MadeByStatement})
	}
	return state.Compare(target, func(list []*carried.Table) (map[*carried.Table]bool, error) { return m.absent(ctx, t, stream, list) })
}

// absent returns the tables that the target does not have.
func (m *Migration) absent(ctx context.Context, t *pgx.Conn, stream *progress.Stream,
	list []*carried.Table) (map[*carried.Table]bool, error) {
	schemas, err := progress.RenamedSchemas(ctx, t, stream.ID)
	if err != nil {
		return nil, m.Target.Explain(err)
	}
	names := make([]catalog.Name, len(list))
	for i, x := range list {
		names[i] = catalog.Name{Schema: x.Schema, Name: x.Name}
		if to, ok := schemas[x.Schema]; ok {
			names[i].Schema = to
		}
	}
	lacks, err := catalog.Absent(ctx, t, names)
	if err != nil {
		return nil, m.Target.Explain(err)
	}
	absent := make(map[*carried.Table]bool)
	for i, x := range list {
		absent[x] = lacks[names[i]]
	}
	return absent, nil
}

// An Uncarried table is one of the source of which not all that the load promised reaches the
// target.
type Uncarried struct {
	TableName
	Reason string `json:"reason"` // a word for programs
	Says   string `json:"says"`   // the same for people

	lacks []string // statements that give sync's role what it lacks to mend it
}

// sorted sorts the tables of which not all reaches the target: what is missing there as a whole,
// what is carried less than the load promised, and of what never more than inserts was promised.
func sorted(tables []*carried.Table) (missing []TableName, uncarried []Uncarried, insertOnly []TableName) {
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
				uncarried = append(uncarried, Uncarried{name, string(r.Code), r.String(), r.Lacks})
			}
		}
	}
	return missing, uncarried, insertOnly
}

// tablesStatus adds to a status which tables do not reach the target as a whole.
func (m *Migration) tablesStatus(ctx context.Context, c, t *pgx.Conn, s *Status, stream *progress.Stream) error {
	if stream.Ended || stream.Key.Slot == "" { // nothing has to reach the target
		s.Missing, s.Uncarried, s.InsertOnly = []TableName{}, []Uncarried{}, []TableName{}
		return nil
	}
	list, err := m.carried(ctx, c, t, stream, s.Tables)
	if err == nil {
		s.Missing, s.Uncarried, s.InsertOnly = sorted(list)
	}
	return err
}

// uncarriedText says of which tables not all is carried, and what to do about it.
func (m *Migration) uncarriedText(list []Uncarried) (says, remedy string) {
	const most = 20
	var order, options, lines []string
	tables := make(map[string][]string) // by what is said of them
	seen := make(map[TableName]bool)
	reload, publish, refused := false, false, false
	var grants []string
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
		default:
			publish, reload = true, true
		}
		if !seen[u.TableName] && len(options) < most {
			options = append(options, "--table "+tablePattern(u.TableName))
		}
		seen[u.TableName] = true
	}
	for _, o := range order[:min(len(order), most)] {
		lines = append(lines, some(tables[o])+" "+o)
	}
	says = strings.Join(lines, "; ")
	if len(seen) > most {
		options = append(options, "and so on")
	}
	var todo []string
	if refused {
		todo = append(todo, "Give those whose updates are refused a primary key, or ALTER TABLE … REPLICA IDENTITY FULL. While sync runs (scripts/sync "+m.Slot+
			"), it takes them out of the publication of updates within seconds; by hand: ALTER PUBLICATION "+
			pgx.Identifier{m.Slot}.Sanitize()+" DROP TABLE …")
		if len(grants) > 0 {
			todo = append(todo, "Its role may not do so. On the source, as a role that may: "+strings.Join(grants, " "))
		}
	}
	if publish {
		todo = append(todo, "Publish them as they were when they were loaded (ALTER PUBLICATION "+pgx.Identifier{m.Slot}.Sanitize()+" …).")
	}
	if reload {
		todo = append(todo, "What was changed meanwhile is in no stream; while sync is stopped: pgextract --slot "+
			m.Slot+" "+strings.Join(options, " ")+" --reload | pgapply")
	}
	return says, strings.Join(todo, " ")
}

// requireLoaded refuses to go on while a load is under way, or has been left unfinished. What it
// has not brought is not in the ledger before.
func (m *Migration) requireLoaded(stream *progress.Stream) error {
	if stream.LoadStatus != "loading" {
		return nil
	}
	return fault.New(fault.Config, "the full load is not complete").
		WithHint("Wait for it: pgcutover wait loaded --slot %[1]s. If nobody loads any more, while sync is stopped: pgextract --slot %[1]s --resume | pgapply", m.Slot)
}

// watchCarried says once in a while which tables do not reach the target, as long as that is so.
type watchCarried struct {
	looked time.Time
	said   string
}

func (w *watchCarried) look(ctx context.Context, m *Migration, c, t *pgx.Conn, stream *progress.Stream) error {
	if time.Since(w.looked) < watchEvery {
		return nil
	}
	w.looked = time.Now()
	tables, err := progress.Tables(ctx, t, stream.ID)
	if err != nil {
		return m.Target.Explain(err)
	}
	list, err := m.carried(ctx, c, t, stream, tables)
	if err != nil {
		return err
	}
	_, uncarried, _ := sorted(list)
	if len(uncarried) == 0 {
		w.said = ""
		return nil
	}
	says, remedy := m.uncarriedText(uncarried)
	if says != w.said {
		m.Log.Warn("changes do not reach the target: "+says, "hint", remedy)
	}
	w.said = says
	return nil
}

// watchEvery is how often a wait compares what is published with what was loaded.
const watchEvery = 5 * time.Second

// missingText says which tables the target lacks, and what to do about it.
func (m *Migration) missingText(list []TableName) (says, remedy string) {
	const most = 20
	options := make([]string, 0, most)
	for _, n := range list[:min(len(list), most)] {
		options = append(options, "--table "+tablePattern(n))
	}
	says = "the target does not have " + count.Of(len(list), "table") + " of the source: " +
		some(namesOf(list)) + ". They are not there, or have never been loaded"
	remedy = "While sync is stopped: pgextract --slot " + m.Slot + " " + strings.Join(options, " ") + " --reload | pgapply"
	if len(list) > most {
		remedy += ", and so on"
	}
	return says, remedy
}

var plainName = regexp.MustCompile("^[a-z_][a-z0-9_]*$")

// tablePattern returns the pattern, quoted for the shell, that only this table matches.
func tablePattern(n TableName) string {
	if plainName.MatchString(n.Schema) && plainName.MatchString(n.Table) {
		return n.String()
	}
	return text.Shell(pgx.Identifier{n.Schema, n.Table}.Sanitize())
}
