package extract

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/carried"
	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/pgextract/internal/pattern"
)

// A Selection selects parts of a database by patterns, as in pg_dump. The zero Selection is the
// whole database.
type Selection struct {
	Schemas       []string
	Tables        []string
	ExcludeTables []string
	ExcludeData   []string
}

func (s *Selection) all() bool {
	return len(s.Schemas)+len(s.Tables)+len(s.ExcludeTables) == 0
}

// A chosen is a Selection with what its patterns match. A partition is selected with its
// partitioned table.
type chosen struct {
	Selection
	// relations by OID; tables is nil if all of the schemas are wanted
	tables, exclude, noData map[uint32]catalog.Name
	schemas                 map[string]bool       // nil if all are wanted
	names                   map[catalog.Name]bool // of tables and, with false, of exclude
}

// choose resolves the patterns on the source.
func (l *Load) choose(ctx context.Context, c *pgx.Conn) (*chosen, error) {
	x := &chosen{Selection: l.Select}
	for _, s := range l.Select.Schemas {
		schema, name, err := pattern.Parse(s)
		if err != nil || schema != "" {
			return nil, fault.New(fault.Usage, "invalid --schema %q", s)
		}
		found, err := catalog.MatchSchemas(ctx, c, name)
		if err != nil {
			return nil, l.Server.Explain(err)
		}
		if len(found) == 0 {
			return nil, fault.New(fault.Usage, "no schema of the source matches %q", s)
		}
		if x.schemas == nil {
			x.schemas = make(map[string]bool)
		}
		for _, n := range found {
			x.schemas[n] = true
		}
	}
	for _, f := range []struct {
		flag     string
		patterns []string
		into     *map[uint32]catalog.Name
		must     bool
	}{{"--table", l.Select.Tables, &x.tables, true},
		{"--exclude-table", l.Select.ExcludeTables, &x.exclude, false},
		{"--exclude-table-data", l.Select.ExcludeData, &x.noData, false}} {
		for _, p := range f.patterns {
			schema, name, err := pattern.Parse(p)
			if err != nil {
				return nil, fault.New(fault.Usage, "%s: %w", f.flag, err)
			}
			if *f.into == nil {
				*f.into = make(map[uint32]catalog.Name)
			}
			n, err := catalog.MatchTables(ctx, c, schema, name, *f.into)
			if err != nil {
				return nil, l.Server.Explain(err)
			}
			if n == 0 && f.must {
				return nil, fault.New(fault.Usage, "no table of the source matches %q", p).
					WithHint("Names are folded to lower case, unless they are in double quotes: --table 'app.\"Orders\"'.")
			}
		}
	}
	return x, nil
}

// has reports whether the rows of a table are selected.
func (x *chosen) has(oid uint32, schema string) bool {
	_, listed := x.tables[oid]
	_, excluded := x.exclude[oid]
	_, empty := x.noData[oid]
	return (listed || x.tables == nil && (x.schemas == nil || x.schemas[schema])) && !excluded && !empty
}

// rows reports whether the rows of a table are selected.
func (x *chosen) rows(t *carried.Table) bool { return x.has(t.OID, t.Schema) }

// filter returns the tables whose rows are selected.
func (x *chosen) filter(tables []*catalog.Table) []*catalog.Table {
	var list []*catalog.Table
	for _, t := range tables {
		if x.has(t.ID, t.Schema) {
			list = append(list, t)
		}
	}
	return list
}

// sequence reports whether a sequence is selected, with the table that it belongs to.
func (x *chosen) sequence(s *catalog.Sequence) bool {
	_, listed := x.tables[s.OID]
	_, owner := x.tables[s.Table]
	_, excluded := x.exclude[s.OID]
	_, ownerExcluded := x.exclude[s.Table]
	return (listed || owner || x.tables == nil && (x.schemas == nil || x.schemas[s.Schema])) && !excluded && !ownerExcluded
}

// args returns the arguments that make pg_dump select the same objects.
func (x *chosen) args() []string {
	var args []string
	for _, n := range x.tables {
		args = append(args, "--table="+pattern.Exact(n.Schema, n.Name))
	}
	if x.tables == nil {
		for n := range x.schemas {
			args = append(args, "--schema="+pattern.Quote(n))
		}
	}
	for _, n := range x.exclude {
		args = append(args, "--exclude-table="+pattern.Exact(n.Schema, n.Name))
	}
	return args
}
