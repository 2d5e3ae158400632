package catalog

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Heirs returns tables, and all tables that inherit from them or are their partitions. It leaves
// out those that do not exist.
func Heirs(ctx context.Context, c *pgx.Conn, names [][2]string) ([][2]string, error) {
	schemas, tables := make([]string, len(names)), make([]string, len(names))
	for i, n := range names {
		schemas[i], tables[i] = n[0], n[1]
	}
	rows, err := c.Query(ctx, `WITH RECURSIVE t(oid) AS (SELECT c.oid FROM unnest($1::pg_catalog.text[], $2::pg_catalog.text[]) AS v(s, t)
			JOIN pg_catalog.pg_namespace n ON n.nspname = v.s JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = v.t
			UNION SELECT i.inhrelid FROM t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid)
		SELECT n.nspname, c.relname FROM t JOIN pg_catalog.pg_class c ON c.oid = t.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace`, schemas, tables)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (k [2]string, err error) {
		err = row.Scan(&k[0], &k[1])
		return k, err
	})
}
