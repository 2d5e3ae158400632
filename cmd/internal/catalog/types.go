// Package catalog holds the queries on PostgreSQL's catalogs, for both source and target. It
// returns what the catalogs say and makes no decisions.
package catalog

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// TypeNames returns the names of all types by OID, as format_type prints them without modifiers:
// "numeric", "public.mood", `"char"`, "bpchar".
func TypeNames(ctx context.Context, c *pgx.Conn) (map[uint32]string, error) {
	rows, err := c.Query(ctx, "SELECT oid, pg_catalog.format_type(oid, -1) FROM pg_catalog.pg_type")
	if err != nil {
		return nil, err
	}
	names := make(map[uint32]string)
	var oid uint32
	var name string
	_, err = pgx.ForEachRow(rows, []any{&oid, &name}, func() error {
		names[oid] = name
		return nil
	})
	return names, err
}
