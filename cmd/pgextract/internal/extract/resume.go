package extract

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgextract/internal/copyout"
	"github.com/pgsluice/pgsluice/cmd/pgextract/internal/pattern"
)

// A loaded is what the target has of a load already, by the names that tables have on the source.
type loaded map[catalog.Name]*progress.TableState

// loaded asks the target what it has.
func (l *Load) loaded(ctx context.Context, id *slot.Identity) (loaded, error) {
	c, err := l.Target.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	if err := progress.Trust(ctx, c); err != nil {
		return nil, l.Target.Explain(err)
	}
	streams, err := progress.Streams(ctx, c, l.Slot)
	if err != nil {
		return nil, l.Target.Explain(err)
	}
	have := make(loaded)
	for _, s := range streams {
		if s.Key != (progress.Key{SystemID: id.SystemID, Database: id.Database, Slot: l.Slot}) {
			continue
		}
		states, err := progress.TableStates(ctx, c, s.ID)
		if err != nil {
			return nil, l.Target.Explain(err)
		}
		if err := l.torn(ctx, c, states); err != nil {
			return nil, err
		}
		for _, t := range states {
			have[catalog.Name{Schema: t.SourceSchema, Name: t.SourceName}] = t
		}
	}
	return have, nil
}

// torn treats all partitions of a tree as not loaded if pgapply will load them again.
func (l *Load) torn(ctx context.Context, c *pgx.Conn, states map[[2]string]*progress.TableState) error {
	leaves, err := catalog.Leaves(ctx, c)
	if err != nil {
		return l.Target.Explain(err)
	}
	trees := make(map[*catalog.Root][][2]string)
	for _, x := range leaves {
		trees[x.Root] = append(trees[x.Root], [2]string{x.Schema, x.Name})
	}
	for _, names := range trees {
		if !progress.Torn(states, names, l.token.id()) {
			continue
		}
		for _, name := range names {
			if s := states[name]; s != nil {
				s.Status, s.Snapshot, s.Done = "queued", "", nil
			}
		}
	}
	return nil
}

// complete reports whether the target has all rows of a table.
func (h loaded) complete(schema, name string) bool {
	t := h[catalog.Name{Schema: schema, Name: name}]
	return t != nil && t.Complete()
}

// missing returns the parts that the target does not have: all parts of an unfinished table, unless
// its other parts were read with the same snapshot.
func (h loaded) missing(parts []*copyout.Part, snapshot string) []*copyout.Part {
	if h == nil {
		return parts
	}
	var list []*copyout.Part
	for _, p := range parts {
		t := h[catalog.Name{Schema: p.Table.Schema, Name: p.Table.Name}]
		if t != nil && (t.Complete() || t.Snapshot == snapshot && t.Of == p.Of && t.Done[p.Index]) {
			continue
		}
		list = append(list, p)
	}
	return list
}

// oneSnapshot refuses to read parts without a slot if the target has tables from another snapshot:
// no changes would make up for what was written in between.
func (s *stream) oneSnapshot(left []*copyout.Part) error {
	if s.Slot != "" || len(left) == 0 {
		return nil
	}
	var names []string
	older := func(name, schema, table string) {
		if t := s.have[catalog.Name{Schema: schema, Name: table}]; t != nil && t.Complete() && t.Snapshot != s.token.id() {
			names = append(names, name)
		}
	}
	for _, t := range s.tables {
		older(t.Schema+"."+t.Name, t.Schema, t.Name)
	}
	if s.Select.all() && s.Part <= 1 {
		older("large objects", "pg_catalog", "pg_largeobject")
	}
	if len(names) == 0 {
		return nil
	}
	only, last := "pgextract", uint32(0)
	for _, p := range left {
		if p.Table.ID != last {
			only += " --table " + text.Shell(pattern.Exact(p.Table.Schema, p.Table.Name))
		}
		last = p.Table.ID
	}
	const most = 500
	if len(only) > most {
		only = "pgextract --table … --table …"
	}
	return fault.New(fault.Config, "cannot read the rest from another snapshot than what the target has already: %s", count.Some(names)).
		WithDetail("Without a slot, all tables must be read from one snapshot.").
		WithHint("Start again, into an empty database. If nothing was written to the source in between, or the rest may be newer: %s | pgapply", only)
}

// say logs what is skipped.
func (l *Load) sayMissing(all, left []*copyout.Part) {
	if n := len(all) - len(left); n > 0 {
		l.Log.Info(fmt.Sprintf("%d of %s of tables are on the target already and are not read again", n, count.Of(len(all), "part")))
	}
}
