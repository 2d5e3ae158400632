package progress

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Copying is a table that is being copied, with the number of its uncommitted rows.
type Copying struct {
	Schema, Name string
	Rows, Bytes  uint64
}

// Beat records that a load is running, and the progress of its tables. It never waits for a lock:
// it skips a table that another session has locked, until the next call.
func Beat(ctx context.Context, c *pgx.Conn, stream int32, list []Copying) error {
	if _, err := c.Exec(ctx, `UPDATE pgsluice.streams SET loading_at = pg_catalog.clock_timestamp()
		WHERE stream_id = (SELECT s.stream_id FROM pgsluice.streams s WHERE s.stream_id = $1 FOR UPDATE SKIP LOCKED)`, stream); err != nil || len(list) == 0 {
		return err
	}
	schemas, names := make([]string, len(list)), make([]string, len(list))
	rows, bytes := make([]int64, len(list)), make([]int64, len(list))
	for i, t := range list {
		schemas[i], names[i], rows[i], bytes[i] = t.Schema, t.Name, int64(t.Rows), int64(t.Bytes)
	}
	_, err := c.Exec(ctx, `WITH v AS (SELECT v.s, v.n, v.r, v.b FROM unnest($2::pg_catalog.text[], $3::pg_catalog.text[], $4::pg_catalog.int8[], $5::pg_catalog.int8[]) AS v(s, n, r, b)),
		free AS (SELECT t.schema_name, t.table_name FROM pgsluice.tables t JOIN v ON v.s = t.schema_name AND v.n = t.table_name WHERE t.stream_id = $1 FOR UPDATE OF t SKIP LOCKED)
		UPDATE pgsluice.tables t SET copying_rows = v.r, copying_bytes = v.b FROM v JOIN free ON free.schema_name = v.s AND free.table_name = v.n
		WHERE t.stream_id = $1 AND t.schema_name = v.s AND t.table_name = v.n`, stream, schemas, names, rows, bytes)
	return err
}

// A Failure is a row of pgsluice.failures: the last error that ended a program.
type Failure struct {
	Program string    `json:"program"`
	At      time.Time `json:"at"`
	Status  int       `json:"exit_status"`
	Message string    `json:"message"`
	Hint    string    `json:"hint,omitempty"`
}

// RecordFailure records the error that ended a program. It keeps a failure that happened later.
func RecordFailure(ctx context.Context, c *pgx.Conn, stream int32, f Failure) error {
	_, err := c.Exec(ctx, `INSERT INTO pgsluice.failures AS x (stream_id, program, at, exit_status, message, hint) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (stream_id, program) DO UPDATE SET at = excluded.at, exit_status = excluded.exit_status, message = excluded.message, hint = excluded.hint WHERE x.at <= excluded.at`,
		stream, storable(f.Program), f.At, f.Status, storable(f.Message), storable(f.Hint))
	return err
}

// storable returns a text that a server can store.
func storable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// Failures returns the last error of each program, latest first.
func Failures(ctx context.Context, c *pgx.Conn, stream int32) ([]Failure, error) {
	rows, err := c.Query(ctx,
		"SELECT program, at, exit_status, message, hint FROM pgsluice.failures WHERE stream_id = $1 ORDER BY at DESC, program", stream)
	if err != nil {
		return nil, err
	}
	return pgx.AppendRows([]Failure{}, rows, pgx.RowToStructByPos[Failure])
}
