package steps

import (
	"context"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// wanted returns the tables of the source that belong to a migration, and those of them that the target knows. Of one that began with a selection, only what is published
// or was loaded does.
func (m *Migration) wanted(ctx context.Context, c *pgx.Conn, stream *progress.Stream, tables []progress.TableInfo) (list []catalog.Listed, known map[catalog.Name]bool, err error) {
	all, err := catalog.List(ctx, c, []string{m.Slot, slot.InsertOnly(m.Slot)})
	if err != nil {
		return nil, nil, m.Source.Explain(err)
	}
	known = make(map[catalog.Name]bool)
	for _, t := range tables {
		known[catalog.Name{Schema: t.SourceSchema, Name: t.SourceTable}] = true
	}
	for _, t := range all {
		if stream.Whole || stream.LoadStatus == "none" || t.Published || known[t.Name] {
			list = append(list, t)
		}
	}
	return list, known, nil
}

// missing returns the tables that were made on the source after the load and are not on the target, or never get rows there because they are in no
// publication. It asks little of the source, and of the target only if there may be some.
func (m *Migration) missing(ctx context.Context, c, t *pgx.Conn, stream *progress.Stream, tables []progress.TableInfo) ([]TableName, error) {
	if stream.LoadStatus != "loaded" || stream.Ended || stream.Key.Slot == "" {
		return nil, nil
	}
	list, known, err := m.wanted(ctx, c, stream, tables)
	if err != nil {
		return nil, err
	}
	var fresh []catalog.Listed
	for _, x := range list {
		if !known[x.Name] {
			fresh = append(fresh, x)
		}
	}
	if len(fresh) == 0 {
		return nil, nil
	}
	schemas, err := progress.RenamedSchemas(ctx, t, stream.ID)
	if err != nil {
		return nil, m.Target.Explain(err)
	}
	onTarget := func(n catalog.Name) catalog.Name {
		if to, ok := schemas[n.Schema]; ok {
			n.Schema = to
		}
		return n
	}
	names := make([]catalog.Name, len(fresh))
	for i, x := range fresh {
		names[i] = onTarget(x.Name)
	}
	absent, err := catalog.Absent(ctx, t, names)
	if err != nil {
		return nil, m.Target.Explain(err)
	}
	var missing []TableName
	for _, x := range fresh {
		if absent[onTarget(x.Name)] || !x.Published {
			missing = append(missing, TableName{x.Schema, x.Name.Name})
		}
	}
	return missing, nil
}

// missingText says which tables the target lacks, and what to do about it.
func (m *Migration) missingText(list []TableName) (says, remedy string) {
	const most = 20
	options := make([]string, 0, most)
	for _, n := range list[:min(len(list), most)] {
		options = append(options, "--table "+tablePattern(n))
	}
	says = "the target does not have " + count.Of(len(list), "table") + " of the source: " + some(namesOf(list))
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
