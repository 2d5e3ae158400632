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
		c.ok("unreadable", "the source's role may read all tables, sequences and large objects")
		return nil
	}
	for _, part := range []struct {
		id string
		x  catalog.Closed
	}{
		{"unreadable", catalog.Closed{Role: x.Role, Schemas: x.Schemas, Tables: x.Tables, Sequences: x.Sequences}},
		{"row-security", catalog.Closed{Role: x.Role, Policies: x.Policies}},
		{"unreadable-large-objects", catalog.Closed{Role: x.Role, Objects: x.Objects}},
	} {
		if part.x.Any() {
			c.fail(part.id, "Or leave them out of the load.", "the source's role may not read %s", part.x.Text(false)).
				do("source", superuser, part.x.Statements()...)
		}
	}
	return nil
}
