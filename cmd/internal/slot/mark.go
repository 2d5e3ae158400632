package slot

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/format"
)

// MessagePrefix is the prefix of the logical messages that pgsluice itself writes into the source's
// WAL.
const MessagePrefix = "pgsluice"

// Mark writes a logical message into the source's WAL, in a transaction of its own, and returns a
// position after it. Every transaction committed before, even asynchronously, is then durable and
// has a smaller end LSN. Mark also works in a fenced database.
func Mark(ctx context.Context, c *pgx.Conn, content string) (format.LSN, error) {
	tx, err := c.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadWrite})
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	// The commit flushes the WAL, so it must not be asynchronous. It need not wait for a standby.
	if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = local"); err != nil {
		return 0, err
	}
	if _, err := tx.Exec(ctx, "SELECT pg_catalog.pg_logical_emit_message(true, $1, $2::pg_catalog.text)",
		MessagePrefix, content); err != nil {
		return 0, err
	}
	if err := tx.Commit(ctx); err != nil {
		return 0, err
	}
	return FlushLSN(ctx, c)
}

// FlushLSN returns the position up to which the server's WAL is durable (replayed, on a standby).
func FlushLSN(ctx context.Context, c *pgx.Conn) (format.LSN, error) {
	var s string
	err := c.QueryRow(ctx, "SELECT (CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_flush_lsn() END)::pg_catalog.text").Scan(&s)
	if err != nil {
		return 0, err
	}
	return format.ParseLSN(s)
}

// Now returns a position after every transaction committed on the server.
func Now(ctx context.Context, c *pgx.Conn) (format.LSN, error) {
	var standby bool
	if err := c.QueryRow(ctx, "SELECT pg_catalog.pg_is_in_recovery()").Scan(&standby); err != nil {
		return 0, err
	}
	if standby {
		return FlushLSN(ctx, c)
	}
	return Mark(ctx, c, "now")
}
