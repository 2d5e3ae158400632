package progress

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/format"
)

// A Fingerprint describes an object at the time it was loaded.
type Fingerprint format.Fingerprint

// AddFingerprints records fingerprints of one side, source or target. It keeps existing ones.
func AddFingerprints(ctx context.Context, c *pgx.Conn, stream int32, side string, list []Fingerprint) error {
	const most = 5000 // per statement
	for ; len(list) > 0; list = list[min(most, len(list)):] {
		cols := make([][]string, 6)
		for _, f := range list[:min(most, len(list))] {
			for i, s := range []string{f.Class, f.Schema, f.Table, f.Name, f.Definition, f.Facts} {
				cols[i] = append(cols[i], s)
			}
		}
		if _, err := c.Exec(ctx, `INSERT INTO pgsluice.fingerprints (stream_id, side, class, schema_name, table_name, name, definition, facts)
			SELECT $1, $2, v.c, v.s, v.t, v.n, v.d, v.f FROM unnest($3::pg_catalog.text[], $4::pg_catalog.text[], $5::pg_catalog.text[], $6::pg_catalog.text[], $7::pg_catalog.text[], $8::pg_catalog.text[]) AS v(c, s, t, n, d, f)
			ON CONFLICT DO NOTHING`, stream, side, cols[0], cols[1], cols[2], cols[3], cols[4], cols[5]); err != nil {
			return err
		}
	}
	return nil
}

// Fingerprints calls f for each fingerprint of a stream.
func Fingerprints(ctx context.Context, c *pgx.Conn, stream int32, f func(side string, p *Fingerprint)) error {
	rows, err := c.Query(ctx,
		"SELECT side, class, schema_name, table_name, name, definition, facts FROM pgsluice.fingerprints WHERE stream_id = $1", stream)
	if err != nil {
		return err
	}
	var side string
	var p Fingerprint
	_, err = pgx.ForEachRow(rows, []any{&side, &p.Class, &p.Schema, &p.Table, &p.Name, &p.Definition, &p.Facts}, func() error {
		f(side, &p)
		return nil
	})
	return err
}

// SetScope records whether the schema was created by hand, and what the load left out of it.
func SetScope(ctx context.Context, c *pgx.Conn, stream int32, byHand bool, without []string) error {
	if without == nil {
		without = []string{}
	}
	_, err := c.Exec(ctx, "UPDATE pgsluice.streams SET by_hand = $2, without = $3 WHERE stream_id = $1", stream, byHand, without)
	return err
}
