package steps

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/ledger"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// orphansBudget bounds how long rows that violate foreign keys are looked for.
const orphansBudget = 10 * time.Second

// orphans looks for rows of the source that violate a foreign key: the target, where it is made
// anew, cannot have it as valid.
func (c *checker) orphans() error {
	found, examined, left, err := catalog.CountOrphans(c.ctx, c.s, orphansBudget)
	if err != nil {
		return err
	}
	for _, o := range found {
		remedy := "The foreign key cannot be validated on the target. Delete or mend the rows; to see them:"
		if !o.Valid {
			remedy = "It is NOT VALID, and will be so on the target. To see the rows:"
		}
		c.warn(remedy, "%s of %s on the source violate foreign key %s", count.Of(o.Rows, "row"), o.Of(),
			o.Name).do("source", c.sourceUser, o.Select)
	}
	if len(found) == 0 && examined > 0 {
		c.ok("no row violates any of %s", count.Of(examined, "foreign key"))
	}
	if len(left) > 0 {
		c.ok("%s not examined within %v, or with the role's rights: %s", count.Of(len(left), "foreign key"), orphansBudget, some(left))
	}
	return nil
}

// orphaned returns the foreign keys of a migration that rows of the source violate although the
// server takes them to hold, for as far as they can be examined in the time that is given to it.
func (m *Migration) orphaned(ctx context.Context, c, t *pgx.Conn, stream *progress.Stream) (list []catalog.Orphans, err error) {
	found, _, _, err := catalog.CountOrphans(ctx, c, orphansBudget)
	if err != nil || len(found) == 0 {
		return nil, m.Source.Explain(err)
	}
	loaded := make(map[inventory.Key]bool)
	if err := progress.Fingerprints(ctx, t, stream.ID, func(side string, p *progress.Fingerprint) {
		if side == "source" && p.Class == inventory.Relation {
			loaded[inventory.Key{Schema: p.Schema, Name: p.Name}] = true
		}
	}); err != nil {
		return nil, m.Target.Explain(err)
	}
	for _, o := range found {
		if o.Valid && (stream.Whole || len(loaded) == 0 || loaded[inventory.Key{Schema: o.Schema, Name: o.Table}]) {
			list = append(list, o)
		}
	}
	return list, nil
}

// orphanKey returns the key of a foreign key in the ledger.
func orphanKey(o *catalog.Orphans) inventory.Key {
	return inventory.Key{Class: inventory.Constraint, Schema: o.Schema, Table: o.Table, Name: o.Name}
}

// withOrphans adds the lines of foreign keys that the target cannot have as valid.
func (m *Migration) withOrphans(ctx context.Context, c, t *pgx.Conn, stream *progress.Stream, lines []ledger.Line) ([]ledger.Line, error) {
	if m.AllowOrphans || stream.Ended {
		return lines, nil
	}
	found, err := m.orphaned(ctx, c, t, stream)
	if err != nil || len(found) == 0 {
		return lines, err
	}
	allowed, err := progress.Allowed(ctx, t, stream.ID)
	if err != nil {
		return nil, m.Target.Explain(err)
	}
	for i := range found {
		o := &found[i]
		l := ledger.Orphans(orphanKey(o),
			fmt.Sprintf("%s of the source %s it: the target cannot have it as valid", count.Of(o.Rows, "row"),
				count.Word(int(min(o.Rows, 2)), "violates", "violate")),
			"delete or mend them on the source, where they are seen by: "+o.Select)
		l.Allowed = allowed[l.ID]
		lines = append(lines, l)
	}
	return lines, nil
}

// requireParents refuses to close a source whose rows violate foreign keys: they would be found
// when the target is open already.
func (m *Migration) requireParents(ctx context.Context, c, t *pgx.Conn, stream *progress.Stream, allow []string) error {
	found, err := m.orphaned(ctx, c, t, stream)
	if err != nil {
		return err
	}
	allowed, err := progress.Allowed(ctx, t, stream.ID)
	if err != nil {
		return m.Target.Explain(err)
	}
	var lines, selects []string
	for i := range found {
		o := &found[i]
		line := fmt.Sprintf("%s: %s of %s", o.Name, count.Of(o.Rows, "row"), o.Of())
		if id := ledger.Orphans(orphanKey(o), "", "").ID; m.AllowOrphans || allowed[id] || slices.Contains(allow, id) {
			m.Log.Warn("rows of the source violate a foreign key, which cannot be validated on the target: " + line)
			continue
		}
		lines, selects = append(lines, line), append(selects, o.Select)
	}
	if len(lines) == 0 {
		return nil
	}
	return fault.New(fault.Config, "rows of the source violate %s: the target cannot have %s as valid",
		count.Of(len(lines), "foreign key"), count.Word(len(lines), "it", "them")).
		WithDetail("%s", strings.Join(lines, "\n")).
		WithHint("Delete or mend the rows on the source, where they are seen by: %s Or go on with --allow-orphans: finish will name them, and enforce the foreign key for new rows only.",
			strings.Join(selects, " "))
}
