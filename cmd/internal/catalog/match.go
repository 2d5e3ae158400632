package catalog

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
)

// A Name is the name of a relation.
type Name struct{ Schema, Name string }

// MatchSchemas returns the schemas whose names match a regular expression.
func MatchSchemas(ctx context.Context, c *pgx.Conn, re string) ([]string, error) {
	rows, err := c.Query(ctx,
		"SELECT nspname FROM pg_catalog.pg_namespace n WHERE nspname ~ $1 AND nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'pgsluice') ORDER BY 1", re)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// MatchTables adds to found the tables, views and sequences whose schema and name match the regular
// expressions, and their partitions. An empty schema means the search path of the user's own
// sessions. It returns the number of matches.
func MatchTables(ctx context.Context, c *pgx.Conn, schema, name string, found map[uint32]Name) (int, error) {
	var path []string
	if schema == "" {
		var err error
		if path, err = DefaultPath(ctx, c); err != nil {
			return 0, err
		}
	}
	partition := "false"
	if pgdial.Version(c.PgConn()) >= 100000 {
		partition = "p.relispartition"
	}
	rows, err := c.Query(ctx, `WITH RECURSIVE m(oid) AS (
			SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
			WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND `+Migrated+` AND c.relname ~ $2
			AND CASE WHEN $1 = '' THEN n.oid = (SELECT x.oid
				FROM pg_catalog.unnest($3::pg_catalog.text[]) WITH ORDINALITY AS v(schema, place) JOIN pg_catalog.pg_namespace x ON x.nspname = v.schema
				JOIN pg_catalog.pg_class r ON r.relnamespace = x.oid AND r.relname = c.relname
				WHERE pg_catalog.has_schema_privilege(x.oid, 'USAGE') ORDER BY v.place LIMIT 1) ELSE n.nspname ~ $1 END
			UNION SELECT i.inhrelid FROM m JOIN pg_catalog.pg_inherits i ON i.inhparent = m.oid JOIN pg_catalog.pg_class p ON p.oid = i.inhrelid WHERE `+partition+`)
		SELECT c.oid, n.nspname, c.relname FROM m JOIN pg_catalog.pg_class c ON c.oid = m.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')`, schema, name, path)
	if err != nil {
		return 0, err
	}
	n := 0
	var oid uint32
	var at Name
	_, err = pgx.ForEachRow(rows, []any{&oid, &at.Schema, &at.Name}, func() error {
		found[oid] = at
		n++
		return nil
	})
	return n, err
}
