package check

import (
	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/missing"
)

// orphans looks for rows of the source that violate a foreign key: a target that creates the key
// anew cannot have it as valid.
func (c *checker) orphans() error {
	found, examined, left, err := catalog.CountOrphans(c.ctx, c.s, missing.OrphansBudget)
	if err != nil {
		return err
	}
	for _, o := range found {
		remedy := "The foreign key cannot be validated on the target. Delete or mend the rows; to see them:"
		if !o.Valid {
			remedy = "It is NOT VALID, and will be so on the target. To see the rows:"
		}
		c.warn("foreign-key-orphans", remedy, "%s of %s on the source violate foreign key %s", count.Of(o.Rows, "row"), o.Of(),
			o.Name).do("source", c.sourceUser, o.Select)
	}
	if len(found) == 0 && examined > 0 {
		c.ok("foreign-key-orphans", "no row violates any of %s", count.Of(examined, "foreign key"))
	}
	if len(left) > 0 {
		c.note("foreign-keys-unexamined", "%s not examined within %v, or with the role's rights: %s", count.Of(len(left), "foreign key"),
			missing.OrphansBudget, count.Some(left))
	}
	return nil
}
