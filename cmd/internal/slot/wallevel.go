package slot

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
)

const walHint = "Set wal_level = logical and restart the source. On RDS and Aurora: rds.logical_replication = 1 in the parameter group, then reboot. On Cloud SQL: cloudsql.logical_decoding = on."

// WALLevel returns the server's wal_level, and whether changes can be decoded. From version 19, a
// server with wal_level = replica raises the effective level itself while logical slots exist.
func WALLevel(ctx context.Context, c *pgx.Conn) (level string, logical bool, err error) {
	var raises bool
	err = c.QueryRow(ctx, "SELECT pg_catalog.current_setting('wal_level'), pg_catalog.current_setting('effective_wal_level', true) IS NOT NULL").
		Scan(&level, &raises)
	return level, level == "logical" || level == "replica" && raises, err
}

// RequireLogical returns an error if the source's WAL cannot be decoded.
func RequireLogical(ctx context.Context, c *pgx.Conn) error {
	level, logical, err := WALLevel(ctx, c)
	if err != nil {
		return err
	}
	if !logical {
		return fault.New(fault.Config, "wal_level is %s on the source, but must be logical", level).WithHint("%s", walHint)
	}
	return nil
}
