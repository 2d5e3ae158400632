package steps

import (
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/slot"
)

func (c *checker) transactions() error {
	blockers, err := slot.Blockers(c.ctx, c.s)
	if err != nil {
		return err
	}
	var long []string
	for _, b := range blockers {
		if !strings.Contains(b, "open for 00:00:") {
			long = append(long, b)
		}
	}
	if len(long) > 0 {
		c.warn("End them, or wait: the creation of the slot waits for all transactions that have written.", "long transactions on the source: %s", some(long))
	}
	rows, err := c.s.Query(c.ctx, "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database()")
	if err != nil {
		return err
	}
	gids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	if len(gids) > 0 {
		c.need("COMMIT PREPARED or ROLLBACK PREPARED each: the creation of the slot waits for them.", "prepared transactions on the source: %s", some(gids))
	}
	return nil
}
