package write

import (
	"slices"
	"sync"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/format"
)

// tableWork is what the Loader knows about tables.
type tableWork struct {
	tables  map[uint32]*loadTable // by relation ID
	fresh   []*loadTable          // not yet looked up
	targets map[[2]string]uint32  // target table → the relation that goes there
	states  map[[2]string]*progress.TableState
	queued  []progress.LoadTable
	trees   map[[2]string]*tree // by the name of each partition
	kept    []*loadTable        // complete on the target, from another snapshot
}

// A loadTable is a table that the stream describes.
type loadTable struct {
	rel          *format.Relation
	schema, name string // on the target
	state        *progress.TableState
	once         sync.Once
	err          error // from prepare
	tree         *tree // the table's tree, if rows go through the root
	refused      error // why the load continues without the table
	freeze       bool
	target       *catalog.Relation // nil if the table does not exist
}

func (t *loadTable) String() string { return t.schema + "." + t.name }

func (t *loadTable) names() progress.LoadTable {
	return progress.LoadTable{Schema: t.schema, Name: t.name, SourceSchema: t.rel.Schema, SourceName: t.rel.Name}
}

func (t *loadTable) qualified() string {
	return plan.QuoteIdent(t.schema) + "." + plan.QuoteIdent(t.name)
}

// Relation takes the description of a table whose rows follow.
func (l *Loader) Relation(rel *format.Relation) error {
	t := &loadTable{rel: rel}
	t.schema, t.name = l.Mapper.Target(rel.Schema, rel.Name)
	if err := l.place(t); err != nil {
		return err
	}
	l.tables[rel.ID] = t
	l.fresh = append(l.fresh, t)
	if t.state = l.states[[2]string{t.schema, t.name}]; t.state == nil {
		t.state = &progress.TableState{Status: "queued", Done: make(map[int]bool)}
		l.states[[2]string{t.schema, t.name}] = t.state
		l.queued = append(l.queued, progress.LoadTable{Schema: t.schema, Name: t.name, SourceSchema: rel.Schema, SourceName: rel.Name})
	}
	l.keeps(t)
	return nil
}

// place checks that a table may go to its target table, and that no other table goes there.
func (l *Loader) place(t *loadTable) error {
	if err := Writable(t.rel.Kind(), t.rel.Schema, t.rel.Name); err != nil {
		return err
	}
	if reserved(t.schema) {
		return fault.New(fault.Config, "cannot rename table %s.%s of the source into schema %s of the target",
			t.rel.Schema, t.rel.Name, t.schema).WithHint("Correct --rename.")
	}
	key := [2]string{t.schema, t.name}
	if other, ok := l.targets[key]; ok && other != t.rel.ID {
		if len(l.Mapper.Rename) > 0 {
			return fault.New(fault.Config, "two tables of the source would both become %q on the target", t.String()).WithHint("Correct --rename.")
		}
		return fault.New(fault.Data, "the stream describes table %q twice, as relations %d and %d", t.String(), other, t.rel.ID)
	}
	l.targets[key] = t.rel.ID
	return nil
}

// inspect looks up all tables that were described since the last call, in one query.
func (l *Loader) inspect() error {
	if len(l.fresh) == 0 {
		return nil
	}
	names := make([][2]string, len(l.fresh))
	for i, t := range l.fresh {
		names[i] = [2]string{t.schema, t.name}
	}
	found, err := catalog.LookupAll(l.ctx, l.Control, names)
	if err != nil {
		return l.Server.Explain(err)
	}
	if err := l.findTrees(); err != nil {
		return err
	}
	for _, t := range l.fresh {
		t.target, t.tree = found[[2]string{t.schema, t.name}], l.trees[[2]string{t.schema, t.name}]
		if s := t.state; s.Complete() && s.Status != "loaded" && !l.Reload && t.tree == nil {
			// An earlier run copied all rows, and ended before it built the indexes.
			l.builder.table(t.names(), false)
		}
	}
	fresh := l.fresh
	l.fresh = nil
	if !l.ByHand {
		var there []uint32
		for _, t := range fresh {
			if t.target == nil { // the statement that creates it may come later
				l.fresh = append(l.fresh, t)
			} else {
				there = append(there, t.target.OID)
			}
		}
		if err := l.hold(there, true); err != nil {
			return err
		}
		return l.takeOffChecks(fresh)
	}
	if !l.schemaLocked {
		if err := l.lockSchema(); err != nil {
			return err
		}
	}
	if err := l.takeOff(fresh); err != nil {
		return err
	}
	return l.takeOffChecks(fresh)
}

// fits checks that a part can be copied into the existing table.
func (t *loadTable) fits(p *part, byHand bool) error {
	switch {
	case t.target != nil:
	case byHand:
		return fault.New(fault.Config, "table %q does not exist on the target", t.String()).
			WithHint("Create the schema on the target first: pg_dump -s of the source, piped into psql; or load without --data-only.")
	default:
		return fault.New(fault.Config, "table %q, which a load created, no longer exists on the target", t.String()).
			WithHint("Create it again: pg_dump -s -t %s of the source, piped into psql on the target.",
				shellPattern(t.rel))
	}
	for _, name := range p.Columns {
		i := slices.IndexFunc(t.target.Columns, func(c catalog.Column) bool { return c.Name == name })
		j := slices.IndexFunc(t.rel.Columns, func(c format.Column) bool { return c.Name == name })
		switch {
		case i < 0:
			return fault.New(fault.Config, "column %q of table %q does not exist on the target", name, t.String()).
				WithHint("On the target: ALTER TABLE %s ADD COLUMN %s ….", text.Ident(t.schema, t.name), text.Ident(name))
		case t.target.Columns[i].Generated:
			return fault.New(fault.Config, "column %q of table %q is generated on the target, but not on the source", name, t.String())
		case p.Format == format.CopyBinary && j >= 0 && otherType(t.rel.Columns[j].OID, t.target.Columns[i].OID):
			return fault.New(fault.Config,
				"column %q of table %q is of type %s on the target and %s on the source: binary data does not fit",
				name, t.String(),
				t.target.Columns[i].Type, t.rel.Columns[j].Type).WithHint("Extract with --format text.")
		}
	}
	return nil
}

// mustMatch reports whether a table must have the columns of the source: it was created by the
// load, but is read from a later snapshot. A recorded statement from before that snapshot will not
// be repeated, because the rows include it. So whatever the statement did to the columns must be on
// the target before the rows are copied.
func (l *Loader) mustMatch(p *part) bool {
	return p.table.target != nil && !l.ByHand && !l.Stream.ByHand && l.Stream.Start != 0 && p.SnapshotLSN > l.Stream.Start
}

// same checks that the existing table has the columns of the source.
func (t *loadTable) same(renamed bool) *fault.Error {
	table := text.Ident(t.schema, t.name)
	for _, c := range t.rel.Columns {
		i := slices.IndexFunc(t.target.Columns, func(x catalog.Column) bool { return x.Name == c.Name })
		if i < 0 {
			return fault.New(fault.Config, "column %q of table %q does not exist on the target", c.Name, t.String()).
				WithHint("%s.", newColumn(table, t.rel, t.target, &c))
		}
		x := t.target.Columns[i]
		if c.Generated && !x.Generated {
			return fault.New(fault.Config, "column %q of table %q is generated on the source, but not on the target", c.Name, t.String()).
				WithHint("On the target: ALTER TABLE %s DROP COLUMN %s, ADD COLUMN %[2]s %s GENERATED ALWAYS AS (…) STORED, as on the source.",
					table, text.Ident(c.Name), text.Escape(c.Type))
		}
		if c.Type == "" || renamed || x.Type == c.Type && x.TypeMod == c.TypeMod {
			continue
		}
		return fault.New(fault.Config, "column %q of table %q has another type on the target than on the source", c.Name, t.String()).
			WithHint("Give it the source's type %s, with the same length or precision. On the target: ALTER TABLE %s ALTER COLUMN %s TYPE ….",
				text.Escape(c.Type), table, text.Ident(c.Name))
	}
	for _, x := range t.target.Columns {
		if slices.ContainsFunc(t.rel.Columns, func(c format.Column) bool { return c.Name == x.Name }) {
			continue
		}
		return fault.New(fault.Config, "column %q of table %q exists only on the target", x.Name, t.String()).
			WithHint("On the target: ALTER TABLE %s DROP COLUMN %s.", table, text.Ident(x.Name))
	}
	return nil
}

// otherType reports whether binary data of a source type cannot be data of the target's type. A
// user-defined type has another OID on the target; the server finds out whether the data fits.
func otherType(source, target uint32) bool {
	const firstUser = 16384
	return source != 0 && source != target && (source < firstUser || target < firstUser)
}
