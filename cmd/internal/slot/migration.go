package slot

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// Migrations returns the slots of the connected database that have a publication of the same name,
// sorted: the slots of migrations from it.
func Migrations(ctx context.Context, c *pgx.Conn) ([]string, error) {
	rows, err := c.Query(ctx, `SELECT slot_name::pg_catalog.text FROM pg_catalog.pg_replication_slots WHERE plugin IN ('pgoutput', 'test_decoding') AND database = pg_catalog.current_database()
		AND slot_name IN (SELECT pubname FROM pg_catalog.pg_publication)`)
	if err != nil {
		return nil, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	slices.Sort(names)
	return names, err
}

// Anew returns the hint for starting a migration over.
func Anew(slot string) string {
	return fmt.Sprintf("To start over: pgcutover cleanup --slot %[1]s --force. Execute the statements that it prints; they empty the target. Then: pgextract --slot %[1]s | pgapply", slot)
}
