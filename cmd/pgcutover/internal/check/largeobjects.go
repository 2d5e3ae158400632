package check

import "github.com/pgsluice/pgsluice/cmd/internal/count"

// largeObjects looks for large objects, which pgextract loads.
func (c *checker) largeObjects() error {
	var lobs int64
	if err := c.s.QueryRow(c.ctx, "SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata").Scan(&lobs); err != nil {
		return err
	}
	if lobs > 0 {
		c.warn("large-objects", "Do not change them during the migration, or load them again at cutover.",
			"the source has %s; changes of them are not decoded by any PostgreSQL",
			count.Of(lobs, "large object"))
	}
	return nil
}
