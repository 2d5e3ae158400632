package write

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/rename"
	"github.com/pgsluice/pgsluice/format"
)

// A Mapper finds the table on the target that a relation of the stream goes to.
type Mapper struct {
	// Lookup reads a table of the target. It returns nil if there is none.
	Lookup func(ctx context.Context, schema, table string) (*catalog.Relation, error)
	// Rename maps schemas and tables of the source to other names: "old" or "old.table" to "new" or
	// "new.table".
	Rename map[string]string
	// Snapshot returns the LSN of the snapshot that a table of the target was loaded from, or 0 if
	// the table was not loaded.
	Snapshot func(schema, table string) format.LSN

	// Citus is a session for looking at tables that a Citus cluster has, or nil if the target is
	// none. Log takes what is decided about them.
	Citus *pgx.Conn
	Log   *slog.Logger

	seen map[string]uint32 // target table → the relation that goes there
}

// Reset forgets the mapped relations, because a new stream describes its own.
func (m *Mapper) Reset() { m.seen = nil }

// Target returns where a source table goes.
func (m *Mapper) Target(schema, table string) (string, string) {
	return rename.Rules(m.Rename).Table(schema, table)
}

// Map returns the table for a relation. A relation that cannot go to the target gets a Problem,
// which matters only if a change of the relation comes.
func (m *Mapper) Map(ctx context.Context, rel *format.Relation) (*plan.Table, error) {
	t := &plan.Table{Relation: rel, Full: rel.ReplicaIdentity == "f"}
	t.Schema, t.Name = m.Target(rel.Schema, rel.Name)
	if reserved(t.Schema) {
		t.Problem = fault.New(fault.Config, "cannot rename table %s.%s of the source into schema %s of the target",
			rel.Schema, rel.Name, t.Schema).WithHint("Correct --rename.")
		return t, nil
	}
	if m.Snapshot != nil {
		t.Snapshot = m.Snapshot(t.Schema, t.Name)
	}
	if m.seen == nil {
		m.seen = make(map[string]uint32)
	}
	if other, ok := m.seen[t.String()]; ok && other != rel.ID && len(m.Rename) > 0 {
		t.Problem = fault.New(fault.Config, "two tables of the source would both become %q on the target", t.String()).WithHint("Correct --rename.")
		return t, nil
	}
	m.seen[t.String()] = rel.ID
	c, err := m.Lookup(ctx, t.Schema, t.Name)
	if err != nil {
		return nil, err
	}
	if c == nil {
		t.Problem = fault.New(fault.Config, "table %q does not exist on the target", t.String()).
			WithHint("Create it on the target (pg_dump -s -t %s of the source, piped into psql) and, while sync is stopped, load its rows: pgextract --slot … --table %[1]s --reload | pgapply. Then start again.",
				shellPattern(rel))
		return t, nil
	}
	if c.Root != nil {
		t.Root = &plan.Root{Schema: c.Root.Schema, Name: c.Root.Name, Leaves: c.Root.Leaves}
		if c, err = m.Lookup(ctx, t.Root.Schema, t.Root.Name); err != nil {
			return nil, err
		}
		if c == nil {
			t.Problem = fault.New(fault.TryAgain, "table %s.%s has just been dropped on the target", t.Root.Schema, t.Root.Name)
			return t, nil
		}
	}
	t.OID = c.OID
	t.Only = c.Kind == "r"
	t.Spread = c.Kind == "p"
	t.NoCopy = c.Kind == "v" || c.RowSecurity
	if err := m.columns(t, c); err != nil {
		t.Problem = err
		return t, nil
	}
	m.key(t, c)
	return t, m.shards(ctx, t)
}

// columns matches the target's columns to the relation's.
func (m *Mapper) columns(t *plan.Table, c *catalog.Relation) error {
	t.Columns = make([]plan.Column, len(t.Relation.Columns))
	inserted := 0
	for i, col := range t.Relation.Columns {
		n := slices.IndexFunc(c.Columns, func(x catalog.Column) bool { return x.Name == col.Name })
		if n < 0 {
			return fault.New(fault.Config, "column %q of table %q does not exist on the target", col.Name,
				t.String()).WithHint("%s; then start again.", newColumn(text.Ident(t.Schema, t.Name), t.Relation, c, &col))
		}
		x := c.Columns[n]
		t.Columns[i] = plan.Column{Name: x.Name, Type: x.Type, OID: x.OID, Ignore: x.Generated,
			Fixed: x.Identity == "a", Equal: operator(x.Equal), Exact: x.Exact}
		if !x.Generated {
			inserted++
		}
		if x.Carrier != nil {
			t.Columns[i].Carrier, t.Columns[i].Delimiter = x.Carrier.Type, x.Carrier.Delimiter[0]
			t.NoBulk = t.NoBulk || x.Carrier.Type == ""
		}
	}
	t.NoBulk = t.NoBulk || inserted == 0
	return nil
}

// shellPattern returns the pattern that matches only this table of the source, quoted for a shell.
// It works for pg_dump and for pgsluice.
func shellPattern(rel *format.Relation) string {
	return text.Shell(plan.QuoteIdent(rel.Schema) + "." + plan.QuoteIdent(rel.Name))
}

// newColumn says what to do about a column that the target lacks. What the source did is not known,
// but it determines the values of the existing rows.
func newColumn(table string, rel *format.Relation, c *catalog.Relation, col *format.Column) string {
	typ := text.Escape(col.Type)
	if typ == "" {
		typ = "…"
	}
	name := text.Ident(col.Name)
	add := fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s %s", table, name, typ)
	what := "with the DEFAULT and NOT NULL that it has on the source, which give the existing rows their values"
	for _, x := range c.Columns {
		known := slices.ContainsFunc(rel.Columns, func(r format.Column) bool { return r.Name == x.Name })
		if !known && !x.Generated && x.Type == col.Type {
			return fmt.Sprintf("If it was renamed on the source, on the target: ALTER TABLE %s RENAME COLUMN %s TO %s; if it is new: %s, %s",
				table, text.Ident(x.Name), name, add, what)
		}
	}
	return fmt.Sprintf("On the target: %s, %s", add, what)
}

// key chooses the columns that find a row: those of a unique index of the target that the old
// tuples include.
func (m *Mapper) key(t *plan.Table, c *catalog.Relation) {
	column := func(name string) int {
		return slices.IndexFunc(t.Columns, func(x plan.Column) bool { return x.Name == name })
	}
	var best *catalog.Unique
	for n := range c.Unique {
		u := &c.Unique[n]
		if u.Deferrable {
			t.Deferrable = append(t.Deferrable, plan.UniqueKey{Name: u.Name, Columns: u.Columns})
		}
		sent := true
		for k, name := range u.Columns {
			i := column(name)
			sent = sent && i >= 0 && (t.Full || t.Relation.Columns[i].Key) && (u.Equal[k] != nil || t.Columns[i].Equal != plan.None)
		}
		// With whole old rows, the source itself may have only a deferrable key. Two of its rows
		// may then have the same key in the middle of a transaction.
		if sent && u.NotNull && !(u.Deferrable && t.Full) && (best == nil || best.Deferrable && !u.Deferrable) {
			best = u
		}
	}
	t.Deferrable = slices.DeleteFunc(t.Deferrable, func(k plan.UniqueKey) bool { return len(t.ColumnsOf(k)) != len(k.Columns) })
	if best != nil {
		equal := make(map[int]plan.Operator)
		for k, name := range best.Columns {
			i := column(name)
			t.Key = append(t.Key, i)
			if equal[i] = t.Columns[i].Equal; best.Equal[k] != nil {
				equal[i] = operator(best.Equal[k])
			}
		}
		slices.Sort(t.Key)
		for _, i := range t.Key {
			t.Equal = append(t.Equal, equal[i])
		}
		t.Foldable = !t.NoBulk
		return
	}
	if t.Full {
		return // all columns find the row
	}
	for i := range t.Relation.Columns {
		if t.Relation.Columns[i].Key {
			t.Key = append(t.Key, i)
			t.Equal = append(t.Equal, t.Columns[i].Equal)
		}
	}
}

// operator returns the operator that the catalog has found, or plan.None for nil.
func operator(o *catalog.Operator) plan.Operator {
	if o == nil {
		return plan.None
	}
	op := plan.NewOperator(o.Schema, o.Name, o.Left, o.Collation)
	op.Read = o.Read
	if o.Base != "" {
		op.Type = o.Base
	}
	return op
}

// Describe returns the error for a change of a table that has a Problem.
func Describe(t *plan.Table, lsn format.LSN) error {
	return fmt.Errorf("cannot apply the transaction with commit LSN %v: %w", lsn, t.Problem)
}
