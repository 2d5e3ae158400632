package verify

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
)

// A part is what one query sums: a table, or a range of its pages. Each side splits its tables by
// itself, because only the sums of whole tables are compared.
type part struct {
	*pair
	where string // the condition for its rows; empty: all
}

// minPart is the smallest size of a part in bytes. Smaller parts cost more than they gain.
const minPart = 16 << 20

// parts returns what the sessions of a side sum, in that order. It splits the tables that keep one
// session busy when the others have nothing left to do. The server itself reads a table with
// several processes if it may, but not a range of pages. So tables are split only where there are
// more sessions than such processes, and from version 14 on, which finds pages without a scan.
func (v *verification) parts(ctx context.Context, server pgdial.Server, largest []*pair) ([]part, error) {
	onTarget := server.Side == v.Target.Side
	c := v.OnSource
	if onTarget {
		c = v.target.Keep
	}
	var total int64
	for _, p := range largest {
		total += p.bytes
	}
	least := max(total/int64(v.Jobs), 2*minPart)
	var names []catalog.Name
	for _, p := range largest {
		if p.bytes < least || p.problem != "" || len(p.leaves) > 0 || p.whole {
			continue
		}
		names = append(names, p.on(onTarget))
	}
	var pages map[catalog.Name]int64
	if v.Jobs > 1 && v.Rate == 0 && len(names) > 0 && pgdial.Version(c.PgConn()) >= 140000 {
		var err error
		if pages, err = pagesOf(ctx, c, v.Jobs, names); err != nil {
			return nil, err
		}
	}
	list := make([]part, 0, len(largest))
	for _, p := range largest {
		all := pages[p.on(onTarget)]
		n := max(1, min(p.bytes/minPart, int64(4*v.Jobs), all))
		for i := range n {
			list = append(list, part{p, between(i, n, all)})
		}
	}
	return list, nil
}

// between returns the condition for range i of n of a table's pages. The last range has no end.
func between(i, n, all int64) string {
	switch {
	case n == 1:
		return ""
	case i == n-1:
		return fmt.Sprintf(" WHERE ctid >= '(%d,0)'", all*i/n)
	}
	return fmt.Sprintf(" WHERE ctid >= '(%d,0)' AND ctid < '(%d,0)'", all*i/n, all*(i+1)/n)
}

// on returns the table's name on one side.
func (p *pair) on(target bool) catalog.Name {
	if target {
		return catalog.Name{Schema: p.targetSchema, Name: p.targetName}
	}
	return catalog.Name{Schema: p.schema, Name: p.name}
}

// pagesOf returns how many pages tables have. It returns nothing if the server itself reads a table
// with as many processes as there are jobs.
func pagesOf(ctx context.Context, c *pgx.Conn, jobs int, names []catalog.Name) (map[catalog.Name]int64, error) {
	var schemas, tables []string
	for _, n := range names {
		schemas, tables = append(schemas, n.Schema), append(tables, n.Name)
	}
	rows, err := c.Query(ctx, `SELECT n.nspname, c.relname, pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::bigint
		FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[])) x (schema, name) JOIN pg_catalog.pg_namespace n ON n.nspname = x.schema
		JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = x.name JOIN pg_catalog.pg_am a ON a.oid = c.relam AND a.amname = 'heap'
		WHERE $3::int > 1 + least(pg_catalog.current_setting('max_parallel_workers_per_gather')::int, pg_catalog.current_setting('max_parallel_workers')::int)`,
		schemas, tables, jobs)
	if err != nil {
		return nil, err
	}
	pages := make(map[catalog.Name]int64)
	var name catalog.Name
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&name.Schema, &name.Name, &n}, func() error {
		pages[name] = n
		return nil
	})
	return pages, err
}
