package hold

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// locksAtOnce is how many keys one transaction drops. Each drop locks two tables.
const locksAtOnce = 16

// Keys drops the foreign keys of the tables that the query of returns until the cutover, and
// records them in the same transactions. It returns the number of keys. A session without
// session_replication_role = replica needs that: keys with an action would change rows that the
// stream changes as well.
func Keys(ctx context.Context, c *pgx.Conn, stream int32, of string) (int, error) {
	rows, err := c.Query(ctx, of)
	if err != nil {
		return 0, err
	}
	oids, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
	if err != nil {
		return 0, err
	}
	keys, err := catalog.ForeignKeys(ctx, c, oids)
	if err != nil || len(keys) == 0 {
		return 0, err
	}
	ids, err := progress.NewIDs(ctx, c, 2*len(keys))
	if err != nil {
		return 0, err
	}
	var batches [][]progress.Object
	for i, k := range keys {
		o := progress.Object{ID: ids[2*i], Phase: progress.PhaseCutover, Type: "FK CONSTRAINT", Schema: k.Schema,
			Table: k.Table, Name: k.Table + " " + k.Name, SQL: k.SQL} // as pg_dump names it
		list := []progress.Object{o}
		if k.Comment != "" {
			list = append(list, progress.Object{ID: ids[2*i+1], Needs: []int64{o.ID}, Phase: o.Phase, Type: "COMMENT",
				Schema: k.Schema, Table: k.Table, Name: o.Type + " " + o.Name, SQL: k.Comment})
		}
		batches = append(batches, list)
	}
	n := 0
	for some := range slices.Chunk(batches, locksAtOnce) {
		if err := pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '"+lockTimeout+"'"); err != nil {
				return err
			}
			for _, list := range some {
				k := keys[n]
				n++
				if _, err := tx.Exec(ctx, progress.AddObjectsSQL(stream, list, "deferred"), pgx.QueryExecModeSimpleProtocol); err != nil {
					return err
				}
				if _, err := tx.Exec(ctx, "ALTER TABLE "+k.Relation()+" DROP CONSTRAINT "+pgx.Identifier{k.Name}.Sanitize()); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return 0, err
		}
	}
	return n, nil
}
