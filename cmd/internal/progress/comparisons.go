package progress

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// RecordStamp returns a value that changes whenever a stream's fingerprints or deferred objects do.
func RecordStamp(ctx context.Context, c *pgx.Conn, stream int32) (stamp string, err error) {
	const part = "(SELECT pg_catalog.concat(pg_catalog.count(*), ' ', pg_catalog.sum(pg_catalog.hashtext(pg_catalog.concat(t.xmin, t.ctid)))) FROM pgsluice."
	err = c.QueryRow(ctx, "SELECT pg_catalog.concat("+
		part+"fingerprints t WHERE t.stream_id = $1), ', ', "+
		part+"deferred t WHERE t.stream_id = $1))", stream).Scan(&stamp)
	return stamp, err
}

// A Comparison is the kept result of a comparison.
type Comparison struct {
	Inputs string // hash of what it was made from
	Result []byte
	Age    time.Duration
}

// LastComparison returns the kept result of the last comparison, or nil if none was kept.
func LastComparison(ctx context.Context, c *pgx.Conn, stream int32) (*Comparison, error) {
	var k Comparison
	var seconds float64
	err := c.QueryRow(ctx, "SELECT inputs, result, pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - compared_at) FROM pgsluice.comparisons WHERE stream_id = $1", stream).
		Scan(&k.Inputs, &k.Result, &seconds)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	k.Age = time.Duration(seconds * float64(time.Second))
	return &k, err
}

// KeepComparison keeps the result of a comparison, in place of the last one.
func KeepComparison(ctx context.Context, c *pgx.Conn, stream int32, inputs string, result []byte) error {
	_, err := c.Exec(ctx, `INSERT INTO pgsluice.comparisons (stream_id, inputs, result) VALUES ($1, $2, $3)
		ON CONFLICT (stream_id) DO UPDATE SET inputs = excluded.inputs, result = excluded.result, compared_at = excluded.compared_at`, stream, inputs, result)
	return err
}
