package steps

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
)

// orphansBudget bounds how long rows that violate foreign keys are looked for.
const orphansBudget = 10 * time.Second

// orphans looks for rows of the source that violate a foreign key: the target, where it is made anew, cannot have it as valid.
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
		c.warn(remedy, "%s of %s on the source violate foreign key %s", count.Of(o.Rows, "row"), o.Table, o.Name).do("source", c.sourceUser, o.Select)
	}
	if len(found) == 0 && examined > 0 {
		c.ok("no row violates any of %s", count.Of(examined, "foreign key"))
	}
	if len(left) > 0 {
		c.ok("%s not examined within %v, or with the role's rights: %s", count.Of(len(left), "foreign key"), orphansBudget, some(left))
	}
	return nil
}

// requireParents refuses to close a source whose rows violate foreign keys: they would be found when the target is open already.
func (m *Migration) requireParents(ctx context.Context, c *pgx.Conn) error {
	found, _, _, err := catalog.CountOrphans(ctx, c, orphansBudget)
	if err != nil {
		return m.Source.Explain(err)
	}
	var lines, selects []string
	for _, o := range found {
		if o.Valid {
			lines = append(lines, fmt.Sprintf("%s: %s of %s", o.Name, count.Of(o.Rows, "row"), o.Table))
			selects = append(selects, o.Select)
		}
	}
	if m.AllowOrphans || len(lines) == 0 {
		for _, l := range lines {
			m.Log.Warn("rows of the source violate a foreign key, which cannot be validated on the target: " + l)
		}
		return nil
	}
	return fault.New(fault.Config, "rows of the source violate %s: the target cannot have %s as valid", count.Of(len(lines), "foreign key"), count.Word(len(lines), "it", "them")).
		WithDetail("%s", strings.Join(lines, "\n")).
		WithHint("Delete or mend the rows on the source, where they are seen by: %s Or go on with --allow-orphans: finish will name them, and enforce the foreign key for new rows only.", strings.Join(selects, " "))
}
