package missing

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/ledger"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// OrphansBudget limits the search for rows that violate foreign keys.
const OrphansBudget = 10 * time.Second

// orphaned returns the migration's foreign keys that the source has as valid although its rows
// violate them. It covers the keys that can be examined within OrphansBudget.
func orphaned(ctx context.Context, s *session.Session) (list []catalog.Orphans, err error) {
	found, _, _, err := catalog.CountOrphans(ctx, s.OnSource, OrphansBudget)
	if err != nil || len(found) == 0 {
		return nil, s.Source.Explain(err)
	}
	loaded := make(map[inventory.Key]bool)
	if err := progress.Fingerprints(ctx, s.OnTarget, s.Stream.ID, func(side string, p *progress.Fingerprint) {
		if side == "source" && p.Class == inventory.Relation {
			loaded[inventory.Key{Schema: p.Schema, Name: p.Name}] = true
		}
	}); err != nil {
		return nil, s.Target.Explain(err)
	}
	for _, o := range found {
		if o.Valid && (s.Stream.Whole || len(loaded) == 0 || loaded[inventory.Key{Schema: o.Schema, Name: o.Table}]) {
			list = append(list, o)
		}
	}
	return list, nil
}

// orphanKey returns the ledger's key for a foreign key.
func orphanKey(o *catalog.Orphans) inventory.Key {
	return inventory.Key{Class: inventory.Constraint, Schema: o.Schema, Table: o.Table, Name: o.Name}
}

// withOrphans adds a line for each foreign key that the target cannot have as valid.
func (r *Result) withOrphans(ctx context.Context, s *session.Session) error {
	if s.Stream.Ended {
		return nil
	}
	found, err := orphaned(ctx, s)
	if err != nil || len(found) == 0 {
		return err
	}
	allowed, err := progress.Allowed(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return s.Target.Explain(err)
	}
	for i := range found {
		o := &found[i]
		l := ledger.Orphans(orphanKey(o),
			fmt.Sprintf("%s of the source %s it: the target cannot have it as valid", count.Of(o.Rows, "row"),
				count.Word(int(min(o.Rows, 2)), "violates", "violate")),
			"delete or mend them on the source, where they are seen by: "+o.Select)
		l.Allowed = allowed[l.ID]
		r.Lines = append(r.Lines, l)
	}
	return nil
}

// RequireParents refuses to close a source whose rows violate foreign keys. Otherwise these rows
// are found only once the target is open. With anyway set, it only reports the keys.
func RequireParents(ctx context.Context, s *session.Session, anyway bool, allow []string) error {
	found, err := orphaned(ctx, s)
	if err != nil {
		return err
	}
	allowed, err := progress.Allowed(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return s.Target.Explain(err)
	}
	var lines, selects []string
	for i := range found {
		o := &found[i]
		line := fmt.Sprintf("%s: %s of %s", o.Name, count.Of(o.Rows, "row"), o.Of())
		if id := ledger.Orphans(orphanKey(o), "", "").ID; anyway || allowed[id] || slices.Contains(allow, id) {
			s.Log.Warn("rows of the source violate a foreign key, which cannot be validated on the target: " + line)
			continue
		}
		lines, selects = append(lines, line), append(selects, o.Select)
	}
	if len(lines) == 0 {
		return nil
	}
	return fault.New(fault.Config, "rows of the source violate %s: the target cannot validate %s",
		count.Of(len(lines), "foreign key"), count.Word(len(lines), "it", "them")).
		WithDetail("%s", strings.Join(lines, "\n")).
		WithHint("Delete or correct the rows on the source. To list them there: %s To continue without that, use --allow-orphans: finish names the rows, and the target enforces the foreign key for new rows only.",
			strings.Join(selects, " "))
}
