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
// has a smaller end LSN. Mark also works in a fenced database. It takes one round trip.
func Mark(ctx context.Context, c *pgx.Conn, content string) (format.LSN, error) {
	// The commit flushes the WAL, so it must not be asynchronous. It need not wait for a standby.
	results, err := c.PgConn().Exec(ctx, "BEGIN READ WRITE; SET LOCAL synchronous_commit = local; SELECT pg_catalog.pg_logical_emit_message(true, "+
		escapeLiteral(MessagePrefix)+", "+escapeLiteral(content)+"); COMMIT; SELECT pg_catalog.pg_current_wal_flush_lsn()").ReadAll()
	if err == nil {
		return format.ParseLSN(string(results[len(results)-1].Rows[0][0]))
	}
	if c.PgConn().TxStatus() != 'I' {
		_, _ = c.Exec(ctx, "ROLLBACK")
	}
	return 0, err
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
