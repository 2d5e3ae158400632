package catalog

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
)

// A KeyIndex is the index of a primary key or unique constraint of an ordinary table.
type KeyIndex struct {
	Constraint uint32 // OID
	Name       string
	Primary    bool
	Create     string // CREATE UNIQUE INDEX …
	Deferrable bool
	Deferred   bool
}

// KeyIndexes returns the constraints that can be created from an existing index: those of ordinary
// tables whose keys contain only columns.
func KeyIndexes(ctx context.Context, c *pgx.Conn) ([]KeyIndex, error) {
	period := ""
	if pgdial.Version(c.PgConn()) >= 180000 {
		period = "AND NOT k.conperiod"
	}
	rows, err := c.Query(ctx, `SELECT k.oid, x.relname, k.contype = 'p', pg_catalog.pg_get_indexdef(k.conindid), k.condeferrable, k.condeferred
		FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class t ON t.oid = k.conrelid JOIN pg_catalog.pg_class x ON x.oid = k.conindid
		JOIN pg_catalog.pg_index i ON i.indexrelid = k.conindid JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
		WHERE k.contype IN ('p', 'u') AND t.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema') `+period)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (k KeyIndex, err error) {
		err = row.Scan(&k.Constraint, &k.Name, &k.Primary, &k.Create, &k.Deferrable, &k.Deferred)
		return k, err
	})
}

// WithOIDs returns the OIDs of the tables created WITH OIDS, which exist up to version 11.
func WithOIDs(ctx context.Context, c *pgx.Conn) (map[uint32]bool, error) {
	m := make(map[uint32]bool)
	if pgdial.Version(c.PgConn()) >= 120000 {
		return m, nil
	}
	rows, err := c.Query(ctx, "SELECT oid FROM pg_catalog.pg_class WHERE relhasoids AND relkind IN ('r', 'p') AND oid >= 16384")
	if err != nil {
		return nil, err
	}
	var oid uint32
	_, err = pgx.ForEachRow(rows, []any{&oid}, func() error { m[oid] = true; return nil })
	return m, err
}

// Populated returns the OIDs of the materialized views that have data.
func Populated(ctx context.Context, c *pgx.Conn) (map[uint32]bool, error) {
	rows, err := c.Query(ctx, "SELECT oid FROM pg_catalog.pg_class WHERE relkind = 'm' AND relispopulated")
	if err != nil {
		return nil, err
	}
	m := make(map[uint32]bool)
	var oid uint32
	_, err = pgx.ForEachRow(rows, []any{&oid}, func() error { m[oid] = true; return nil })
	return m, err
}
