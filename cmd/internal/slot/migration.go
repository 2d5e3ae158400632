package slot

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// Migrations returns the slots of the connected database that have a publication of their name:
// those of migrations from it.
func Migrations(ctx context.Context, c *pgx.Conn) ([]string, error) {
	rows, err := c.Query(ctx, `SELECT slot_name::pg_catalog.text FROM pg_catalog.pg_replication_slots WHERE plugin = 'pgoutput' AND database = pg_catalog.current_database()
		AND slot_name IN (SELECT pubname FROM pg_catalog.pg_publication)`)
	if err != nil {
		return nil, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	slices.Sort(names)
	return names, err
}

// Anew says how to begin a migration again, as a hint.
func Anew(slot string) string {
	return fmt.Sprintf("To begin again: pgcutover cleanup --slot %[1]s --force, which prints the statements that empty the target; execute those; then pgextract --slot %[1]s | pgapply.", slot)
}
