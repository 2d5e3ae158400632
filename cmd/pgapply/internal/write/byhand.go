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

// takeOff records what stands in the way of a load on tables that were created by hand, and takes
// it off: foreign keys, triggers and rules until the cutover, and, if that is wanted, indexes until
// the rows are there.
func (l *Loader) takeOff(tables []*loadTable) error {
	var all, empty []uint32
	for _, t := range tables {
		if t.target == nil || t.target.Kind != "r" && t.target.Kind != "p" {
			continue
		}
		all = append(all, t.target.OID)
		t.target.Referenced = false // when we are done
		if t.state.Status == "queued" {
			empty = append(empty, t.target.OID)
		}
	}
	if err := l.hold(all, false); err != nil {
		return err
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
			// One that something else rests on, such as a view, stays.
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

// hold makes what acts on the rows of tables wait for the cutover: only what does so in our
// sessions, or all that there is.
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

// locksAtOnce is how many objects are taken off in one transaction: each locks its table, and one
// of another, and there may be thousands of them.
const locksAtOnce = 16

// take records an object and executes the statement that takes it off.
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
