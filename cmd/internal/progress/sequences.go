package progress

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// A SequencePair is a sequence of the source and the one of the target that takes its value.
type SequencePair struct {
	Source               uint32
	SourceSchema, Schema string
	SourceName, Name     string
	Target               uint32
}

// SequencePairs returns what SetSequencePairs has recorded.
func SequencePairs(ctx context.Context, c *pgx.Conn, stream int32) ([]SequencePair, error) {
	rows, err := c.Query(ctx, `SELECT source_oid, source_schema, schema_name, source_name, name, target_oid
		FROM pgsluice.sequences WHERE stream_id = $1 ORDER BY source_schema, source_name`, stream)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[SequencePair])
}

// SetSequencePairs records the pairs, in place of others.
func SetSequencePairs(ctx context.Context, c *pgx.Conn, stream int32, list []SequencePair) error {
	oids := make([][]uint32, 2)
	names := make([][]string, 4)
	for _, p := range list {
		oids[0], oids[1] = append(oids[0], p.Source), append(oids[1], p.Target)
		for i, s := range []string{p.SourceSchema, p.Schema, p.SourceName, p.Name} {
			names[i] = append(names[i], s)
		}
	}
	return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM pgsluice.sequences WHERE stream_id = $1", stream); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO pgsluice.sequences (stream_id, source_oid, target_oid, source_schema, schema_name, source_name, name)
			SELECT $1, v.so, v.o, v.ss, v.s, v.sn, v.n FROM unnest($2::pg_catalog.oid[], $3::pg_catalog.oid[], $4::pg_catalog.text[], $5::pg_catalog.text[],
				$6::pg_catalog.text[], $7::pg_catalog.text[]) AS v(so, o, ss, s, sn, n)`, stream, oids[0], oids[1], names[0], names[1], names[2], names[3])
		return err
	})
}
