package apply

import (
	"context"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/hold"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/write"
	"github.com/pgsluice/pgsluice/format"
)

func (f *follower) relation(ctx context.Context, r *format.Relation) error {
	if err := write.Writable(r.Kind(), r.Schema, r.Name); err != nil {
		return f.refuse(ctx, err)
	}
	// The writer identifies rows by the keys that were chosen when a table was looked up. The
	// writer must be idle before a table gets a new key.
	if err := f.await(); err != nil {
		return err
	}
	t, err := f.mapper.Map(ctx, r)
	if err != nil {
		return f.Server.Explain(err)
	}
	if t.OID != 0 && !f.tx.altered && !f.loaded(t) {
		// The start of the follower, or the statement that altered the table, has handled all other
		// tables.
		if err := f.hold(ctx, hold.OIDs(t.OID)); err != nil {
			return f.refuse(ctx, err)
		}
	}
	f.tables[r.ID] = t
	t.Index = len(f.progress.replay.Tables)
	f.progress.replay.Tables = append(f.progress.replay.Tables, t)
	return nil
}

// loaded reports whether a load of this stream loaded the table.
func (f *follower) loaded(t *plan.Table) bool { return t.Snapshot != 0 }

// alter executes a statement that changes the schema, at its place in the open transaction.
func (f *follower) alter(d *format.DDL) error {
	if err := f.settle(); err != nil {
		return err
	}
	if f.cur.Pending() > 0 {
		if err := f.flush(); err != nil {
			return err
		}
		if err := f.await(); err != nil {
			return err
		}
	}
	if !f.cur.Skip {
		for _, name := range write.Created(d) {
			delete(f.snapshots, name) // all of its changes are in the stream
		}
	}
	f.cur.AddDDL(d)
	f.tx.altered = true
	return f.flush()
}

// seeAltered makes the next transactions see the schema changes of the last transaction.
func (f *follower) seeAltered(ctx context.Context) error {
	if err := f.await(); err != nil {
		return err
	}
	for id := range f.progress.early {
		if t := f.tables[id]; t != nil {
			if err := f.relation(ctx, t.Relation); err != nil {
				return err
			}
		}
	}
	clear(f.progress.early)
	return nil
}

// lookup reads a table of the target as the open transaction sees it.
func (f *follower) lookup(ctx context.Context, schema, table string) (*catalog.Relation, error) {
	if !f.tx.altered {
		return f.Run.lookup(ctx, schema, table)
	}
	var session uint32 // XID of the transaction with its own session; 0: the main session
	if f.tx.state == ahead {
		session = f.tx.xid
	}
	var r *catalog.Relation
	err := f.do(func(ctx context.Context, _ *plan.Group) (err error) {
		r, err = f.applier.Lookup(ctx, session, schema, table)
		return err
	})
	if err == nil {
		err = f.await()
	}
	return r, err
}
