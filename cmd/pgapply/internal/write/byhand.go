package write

import (
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/hold"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
)

// takeOff records and removes what hinders a load into tables that were created by hand. Foreign
// keys, triggers and rules come back at the cutover. With RebuildIndexes, takeOff also drops
// indexes, which come back after the rows are loaded.
func (l *Loader) takeOff(tables []*loadTable) error {
	var all, empty []uint32
	for _, t := range tables {
		if t.target == nil || t.target.Kind != "r" && t.target.Kind != "p" {
			continue
		}
		all = append(all, t.target.OID)
		t.target.Referenced = false // takeOff drops the foreign keys
		if t.state.Status == "queued" {
			empty = append(empty, t.target.OID)
		}
	}
	if err := l.hold(all, false); err != nil {
		return err
	}
	if len(all) > 0 { // those that pgcutover prepare has created are recorded already
		if _, err := hold.ReleaseKeys(l.ctx, l.Control, l.Stream.ID, hold.OIDs(all...)); err != nil {
			return l.Server.Explain(err)
		}
	}
	keys, err := catalog.ForeignKeys(l.ctx, l.Control, all)
	if err != nil {
		return l.Server.Explain(err)
	}
	for some := range slices.Chunk(keys, locksAtOnce) {
		if err := pgx.BeginFunc(l.ctx, l.Control, func(tx pgx.Tx) error {
			for _, k := range some {
				if err := l.take(tx, k, "FK CONSTRAINT", progress.PhaseCutover,
					"ALTER TABLE "+k.Relation()+" DROP CONSTRAINT "+plan.QuoteIdent(k.Name)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return l.Server.Explain(err)
		}
	}
	return l.Server.Explain(pgx.BeginFunc(l.ctx, l.Control, func(tx pgx.Tx) error {
		if !l.RebuildIndexes {
			return nil
		}
		indexes, err := catalog.Indexes(l.ctx, tx.Conn(), empty)
		if err != nil {
			return err
		}
		for _, k := range indexes {
			kind, drop := "INDEX", "DROP INDEX "+plan.QuoteIdent(k.Schema)+"."+plan.QuoteIdent(k.Name)
			if k.Constraint {
				kind, drop = "CONSTRAINT", "ALTER TABLE ONLY "+k.Relation()+" DROP CONSTRAINT "+plan.QuoteIdent(k.Name)
			}
			// An index stays if another object, such as a view, depends on it.
			err := pgx.BeginFunc(l.ctx, tx, func(tx pgx.Tx) error { return l.take(tx, k, kind, progress.PhaseTable, drop) })
			var pg *pgconn.PgError
			if errors.As(err, &pg) && pg.Code == "2BP01" {
				continue
			}
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

// hold defers to the cutover what acts on the rows of tables. If acting is true, it defers only
// what acts in pgapply's sessions; otherwise it defers everything.
func (l *Loader) hold(oids []uint32, acting bool) error {
	if len(oids) == 0 {
		return nil
	}
	list, err := hold.Look(l.ctx, l.Control, l.guard.replica, hold.OIDs(oids...))
	if err != nil {
		return l.Server.Explain(err)
	}
	if acting {
		list = hold.Acting(list)
	}
	if list, err = hold.Refused(list, l.guard.version); err != nil {
		return err
	}
	return l.Server.Explain(hold.Make(l.ctx, l.Control, l.Stream.ID, list))
}

// locksAtOnce is how many objects one transaction drops. Each drop locks the object's table and
// another one, and there may be thousands of objects.
const locksAtOnce = 16

// take records an object and executes the statement that drops it.
func (l *Loader) take(tx pgx.Tx, d catalog.Definition, kind string, phase progress.Phase, drop string) error {
	name := d.Name
	if kind != "INDEX" {
		name = d.Table + " " + d.Name // as pg_dump names them
	}
	return l.takeAs(tx, d, kind, name, phase, drop)
}

func (l *Loader) takeAs(tx pgx.Tx, d catalog.Definition, kind, name string, phase progress.Phase, drop string) error {
	o := progress.Object{Phase: phase, Type: kind, Schema: d.Schema, Table: d.Table, Name: name, SQL: d.SQL,
		Index: d.Index, Attach: d.Attach}
	var err error
	if o.ID, err = l.newID(); err != nil {
		return err
	}
	list := []progress.Object{o}
	if d.Comment != "" {
		id, err := l.newID()
		if err != nil {
			return err
		}
		list = append(list, progress.Object{ID: id, Needs: []int64{o.ID}, Phase: phase, Type: "COMMENT",
			Schema: d.Schema, Table: d.Table, Name: kind + " " + o.Name, SQL: d.Comment})
	}
	if _, err := tx.Exec(l.ctx, progress.AddObjectsSQL(l.Stream.ID, list, "deferred"), pgx.QueryExecModeSimpleProtocol); err != nil {
		return err
	}
	_, err = tx.Exec(l.ctx, drop)
	return err
}
