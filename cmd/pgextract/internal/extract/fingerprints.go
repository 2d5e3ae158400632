package extract

import (
	"context"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/format"
)

// fingerprints writes the definition that each selected object has in the snapshot, so that the
// cutover can tell what has changed since. It uses its own session: if an object is dropped at the
// same time, a query may fail and abort the transaction.
func (l *Load) fingerprints(ctx context.Context, snapshot string, w *format.Writer) error {
	list, err := l.inventory(ctx, snapshot)
	if err != nil {
		return err
	}
	for i := range list {
		o := &list[i]
		if !l.chosen.object(o) {
			continue
		}
		f := &format.Fingerprint{Class: o.Class, Schema: o.Schema, Table: o.Table, Name: o.Name}
		f.Definition, f.Facts = o.Fingerprint()
		if err := writeError(w.Write(f)); err != nil {
			return err
		}
	}
	return nil
}

func (l *Load) inventory(ctx context.Context, snapshot string) ([]inventory.Object, error) {
	const tries = 3
	at := "; SET TRANSACTION SNAPSHOT " + progress.Literal(snapshot)
	for try := 1; ; try++ {
		c, err := l.Server.Connect(ctx)
		if err != nil {
			return nil, err
		}
		var list []inventory.Object
		if _, err = c.Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"+at); err != nil {
			err = slot.Ended(err)
		} else {
			list, err = inventory.Read(ctx, c)
		}
		_ = c.Close(context.WithoutCancel(ctx))
		switch {
		case err == nil || !inventory.Fleeting(err) || try == 2*tries:
			return list, l.Server.Explain(err)
		case try == tries:
			// The snapshot has an object that is gone by now, and nobody can tell any more what it
			// was: the server prints definitions as they are now. So they are those of a moment
			// later.
			at = ""
		}
	}
}

// object reports whether an object is selected, with its table or with its schema.
func (x *chosen) object(o *inventory.Object) bool {
	if x.all() {
		return true
	}
	switch {
	case o.Class == inventory.Relation:
		return x.relation(o.Schema, o.Name)
	case o.Class == inventory.Sequence && o.Fact("table") != "":
		return x.relation(o.Fact("table schema"), o.Fact("table"))
	case o.Class == inventory.Sequence:
		return x.relation(o.Schema, o.Name)
	case o.Class == inventory.Schema:
		return x.tables == nil && (x.schemas == nil || x.schemas[o.Name])
	case o.Table != "" && o.Class != inventory.DomainConstraint && o.Class != inventory.Other:
		return x.relation(o.Schema, o.Table)
	case o.Schema == "":
		return x.tables == nil && x.schemas == nil
	}
	return x.tables == nil && (x.schemas == nil || x.schemas[o.Schema])
}

// relation reports whether a relation is selected by its name.
func (x *chosen) relation(schema, name string) bool {
	if x.names == nil {
		x.names = make(map[catalog.Name]bool)
		for _, n := range x.tables {
			x.names[n] = true
		}
		for _, n := range x.exclude {
			x.names[n] = false
		}
	}
	listed, known := x.names[catalog.Name{Schema: schema, Name: name}]
	if known {
		return listed
	}
	return x.tables == nil && (x.schemas == nil || x.schemas[schema])
}
