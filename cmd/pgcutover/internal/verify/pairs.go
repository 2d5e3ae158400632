package verify

import (
	"context"
	"fmt"
	"math/big"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/coverage"
)

// A pair is a table on both sides.
type pair struct {
	schema, name             string // on the source
	targetSchema, targetName string
	// expressions for a value's text, which is the same on both sides
	columns []string
	// a partitioned table on the target; its partitions hold the rows
	whole bool
	// partitions on the source that are compared as one table; if empty, the table itself
	leaves     []catalog.Name
	names, key []string
	bytes      int64

	source, target sum
	problem        string

	types []string // of the columns
	// its rows are too large to compare as text; columns are compared by their hashes
	large      bool
	unverified string // why it could not be compared
	cause      error  // the server's error for that
	remedy     string // what would allow the comparison, if known
	byCopy     bool   // the rows were hashed by rowHashes
}

// A sum is a table's content: the number of rows, and the sums of two 64-bit hashes of each row.
type sum struct {
	rows int64
	a, b big.Int
}

func (s *sum) add(x *sum) {
	s.rows += x.rows
	s.a.Add(&s.a, &x.a)
	s.b.Add(&s.b, &x.b)
}

func (s *sum) equal(x *sum) bool {
	return s.rows == x.rows && s.a.Cmp(&x.a) == 0 && s.b.Cmp(&x.b) == 0
}

func (p *pair) equal() bool {
	return p.problem == "" && p.unverified == "" && p.source.equal(&p.target)
}

// findPairs finds the tables to compare: all tables of the source, or the selected ones.
func (v *verification) findPairs(ctx context.Context) error {
	known, err := progress.Tables(ctx, v.OnTarget, v.Stream.ID)
	if err != nil {
		return v.Target.Explain(err)
	}
	pairs, err := v.ofSource(ctx, known)
	if err != nil {
		return err
	}
	if err := v.onTarget(ctx, pairs); err != nil {
		return err
	}
	v.pairs, err = v.merge(ctx, pairs)
	return err
}

// ofSource returns the source's tables that belong to the migration, with their names on the
// target.
func (v *verification) ofSource(ctx context.Context, known []progress.TableInfo) (pairs []*pair, err error) {
	tables, err := catalog.Tables(ctx, v.OnSource)
	if err != nil {
		return nil, v.Source.Explain(err)
	}
	list, err := coverage.Compare(ctx, v.Session, known)
	if err != nil {
		return nil, err
	}
	wanted := make(map[catalog.Name]bool)
	for _, x := range list {
		wanted[catalog.Name{Schema: x.Schema, Name: x.Name}] = true
	}
	renamed := make(map[[2]string][2]string)
	for _, k := range known {
		renamed[[2]string{k.SourceSchema, k.SourceTable}] = [2]string{k.Schema, k.Table}
	}
	old := oldFloats(v.OnSource, v.target.Keep)
	for _, x := range tables {
		if x.Kind != "r" || x.Condition != "" || !wanted[catalog.Name{Schema: x.Schema, Name: x.Name}] {
			continue
		}
		p := &pair{schema: x.Schema, name: x.Name, targetSchema: x.Schema, targetName: x.Name, bytes: x.Bytes}
		if to, ok := renamed[[2]string{x.Schema, x.Name}]; ok {
			p.targetSchema, p.targetName = to[0], to[1]
		}
		for _, c := range x.Columns {
			p.names, p.types = append(p.names, c.Name), append(p.types, c.Type)
			p.columns = append(p.columns, textOf(c.Name, c.Type, old))
			if c.Key && x.ReplicaIdentity != "f" {
				p.key = append(p.key, c.Name)
			}
		}
		pairs = append(pairs, p)
	}
	return pairs, nil
}

// onTarget looks up the tables of pairs on the target. A table that lacks a column differs.
func (v *verification) onTarget(ctx context.Context, pairs []*pair) error {
	names := make([][2]string, len(pairs))
	for i, p := range pairs {
		names[i] = [2]string{p.targetSchema, p.targetName}
	}
	found, err := catalog.LookupAll(ctx, v.target.Keep, names)
	if err != nil {
		return v.Target.Explain(err)
	}
	had, err := v.columnsAtLoad(ctx)
	if err != nil {
		return err
	}
	for _, p := range pairs {
		r := found[[2]string{p.targetSchema, p.targetName}]
		if r == nil {
			p.problem = "it does not exist on the target"
			continue
		}
		p.whole = r.Kind == "p"
		for _, c := range p.names {
			if !slices.ContainsFunc(r.Columns, func(x catalog.Column) bool { return x.Name == c }) {
				p.problem = fmt.Sprintf("column %q does not exist on the target", c)
				break
			}
		}
		for _, c := range r.Columns {
			if p.problem == "" && !slices.Contains(p.names, c.Name) && had[catalog.Name{Schema: p.schema, Name: p.name}][c.Name] {
				p.problem = fmt.Sprintf("column %q has been dropped on the source since the load", c.Name)
			}
		}
	}
	return nil
}

// columnsAtLoad returns the columns that the source's tables had when they were loaded.
func (v *verification) columnsAtLoad(ctx context.Context) (map[catalog.Name]map[string]bool, error) {
	had := make(map[catalog.Name]map[string]bool)
	err := progress.Fingerprints(ctx, v.OnTarget, v.Stream.ID, func(side string, f *progress.Fingerprint) {
		if side != "source" || f.Class != inventory.Column {
			return
		}
		n := catalog.Name{Schema: f.Schema, Name: f.Table}
		if had[n] == nil {
			had[n] = make(map[string]bool)
		}
		had[n][f.Name] = true
	})
	return had, v.Target.Explain(err)
}

// oldFloats reports whether one of the servers is older than version 12. Such a server prints
// floating-point numbers with fewer digits.
func oldFloats(a, b *pgx.Conn) bool {
	return pgdial.Version(a.PgConn()) < 120000 || pgdial.Version(b.PgConn()) < 120000
}

// textOf returns an expression for a column's value that prints the same on both sides.
func textOf(name, typ string, oldFloats bool) string {
	q := pgx.Identifier{name}.Sanitize()
	if oldFloats {
		switch typ {
		case "real":
			return "pg_catalog.float4send(" + q + ")"
		case "double precision":
			return "pg_catalog.float8send(" + q + ")"
		}
	}
	return q
}
