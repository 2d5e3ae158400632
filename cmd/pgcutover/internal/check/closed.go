package check

import "github.com/pgsluice/pgsluice/cmd/internal/catalog"

// closed lists everything that the source's role may not read, all at once before the migration
// begins.
func (c *checker) closed() error {
	x, err := catalog.LookClosed(c.ctx, c.s, func(uint32, string) bool { return true }, true)
	if err != nil {
		return err
	}
	if !x.Any() {
		c.ok("the source's role may read all tables, sequences and large objects")
		return nil
	}
	c.fail("Or leave them out of the load.", "the source's role may not read %s", x.Text(false)).do("source", superuser, x.Statements()...)
	return nil
}
