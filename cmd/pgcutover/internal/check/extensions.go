package check

import (
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
)

func (c *checker) extensions() error {
	rows, err := c.s.Query(c.ctx, "SELECT extname FROM pg_catalog.pg_extension ORDER BY 1")
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	if rows, err = c.t.Query(c.ctx,
		"SELECT n FROM pg_catalog.unnest($1::pg_catalog.text[]) n WHERE n NOT IN (SELECT name FROM pg_catalog.pg_available_extensions) ORDER BY 1",
		names); err != nil {
		return err
	}
	missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
	var pg *pgconn.PgError
	if errors.As(err, &pg) { // one broken file of any extension is enough
		c.warn("extensions-unlisted", "Check that the target has the extensions "+count.Some(names)+".", "the target cannot list its extensions: %s", pg.Message)
		return nil
	}
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		c.fail("extensions-missing", "Install them on the target (Azure: server parameter azure.extensions), or drop them on the source.",
			"extensions that the target does not have: %s", count.Some(missing))
	} else {
		c.ok("extensions-missing", "the target has all extensions: %d", len(names))
	}
	return nil
}
