package progress

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/format"
)

// A Watch is what is known of writes to the source after the last change that the target has: the
// row of pgsluice.cutover for the step watch.
type Watch struct {
	At           time.Time
	Result       string     // clean, written, unknown; empty: nobody has looked
	Detail       string     // for people
	LSN          format.LSN // it has looked up to here
	Accepted     format.LSN // before it, nobody has written, or it was accepted
	Written      string     // JSON, in ASCII
	LargeObjects string     // when writes were accepted
	Counted      string     // when writes were accepted
}

// GetWatch returns what the last look has found.
func GetWatch(ctx context.Context, c *pgx.Conn, stream int32) (w Watch, err error) {
	var lsn, accepted string
	err = c.QueryRow(ctx, `SELECT coalesce(finished_at, started_at), coalesce(result, ''), coalesce(detail, ''), coalesce(lsn, '0/0')::pg_catalog.text, coalesce(accepted_lsn, '0/0')::pg_catalog.text,
		coalesce(written, ''), coalesce(large_objects, ''), coalesce(counted, '') FROM pgsluice.cutover WHERE stream_id = $1 AND step = 'watch'`, stream).
		Scan(&w.At, &w.Result, &w.Detail, &lsn, &accepted, &w.Written, &w.LargeObjects, &w.Counted)
	if errors.Is(err, pgx.ErrNoRows) {
		return Watch{}, nil
	}
	if err != nil {
		return w, err
	}
	if w.LSN, err = format.ParseLSN(lsn); err != nil {
		return w, err
	}
	w.Accepted, err = format.ParseLSN(accepted)
	return w, err
}

// SetWatch records what a look has found. It is durable: the slot moves on the strength of it.
func SetWatch(ctx context.Context, c *pgx.Conn, stream int32, w Watch) error {
	if _, err := c.Exec(ctx, durable); err != nil {
		return err
	}
	_, err := c.Exec(ctx, `INSERT INTO pgsluice.cutover AS x (stream_id, step, finished_at, result, detail, lsn, accepted_lsn, written, large_objects, counted)
		VALUES ($1, 'watch', pg_catalog.clock_timestamp(), nullif($2, ''), $3, $4::pg_catalog.text::pg_catalog.pg_lsn, $5::pg_catalog.text::pg_catalog.pg_lsn, nullif($6, ''), nullif($7, ''), nullif($8, ''))
		ON CONFLICT (stream_id, step) DO UPDATE SET finished_at = excluded.finished_at, result = excluded.result, detail = excluded.detail, lsn = excluded.lsn,
		accepted_lsn = excluded.accepted_lsn, written = excluded.written, large_objects = excluded.large_objects, counted = excluded.counted`,
		stream, w.Result, storable(w.Detail), w.LSN.String(), w.Accepted.String(), w.Written, w.LargeObjects, w.Counted)
	return err
}
