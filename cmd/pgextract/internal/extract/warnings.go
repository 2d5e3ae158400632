package extract

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/format"
)

// warn logs that something of the source is not migrated as it is. It returns the record that makes
// the target remember the warning.
func (l *Load) warn(schema, table, says string) *format.DDL {
	l.Log.Warn(text.Escape(says))
	return &format.DDL{Section: format.PostData, Type: format.Warning, Schema: schema, Table: table, Name: says}
}

// oids names the tables whose rows have OIDs, which no server since 12 can keep.
func (l *Load) oids(ctx context.Context, c *pgx.Conn, tables []*catalog.Table, write func(*format.DDL) error) error {
	with, err := catalog.WithOIDs(ctx, c)
	if err != nil {
		return l.Server.Explain(err)
	}
	for _, t := range tables {
		if with[t.ID] {
			if err := write(l.warn(t.Schema, t.Name,
				text.Sprintf("table %s.%s is WITH OIDS; the values of its column oid are not loaded",
					t.Schema, t.Name))); err != nil {
				return err
			}
		}
	}
	return nil
}
