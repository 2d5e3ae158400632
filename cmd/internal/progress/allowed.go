package progress

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Allow records what may stay missing on the target. lines maps the id of each entry to its
// description.
func Allow(ctx context.Context, c *pgx.Conn, stream int32, lines map[string]string) error {
	ids, texts := make([]string, 0, len(lines)), make([]string, 0, len(lines))
	for id, line := range lines {
		ids, texts = append(ids, id), append(texts, line)
	}
	_, err := c.Exec(ctx, `INSERT INTO pgsluice.allowed (stream_id, id, line) SELECT $1, v.id, v.line FROM unnest($2::pg_catalog.text[], $3::pg_catalog.text[]) v(id, line)
		ON CONFLICT (stream_id, id) DO NOTHING`, stream, ids, texts)
	return err
}

// Allowed returns the ids of what may stay missing on the target.
func Allowed(ctx context.Context, c *pgx.Conn, stream int32) (map[string]bool, error) {
	rows, err := c.Query(ctx, "SELECT id FROM pgsluice.allowed WHERE stream_id = $1", stream)
	if err != nil {
		return nil, err
	}
	m := make(map[string]bool)
	var id string
	_, err = pgx.ForEachRow(rows, []any{&id}, func() error { m[id] = true; return nil })
	return m, err
}
