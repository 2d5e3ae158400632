package verify

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
)

// showDifferences limits the differing rows shown for a table.
const showDifferences = 10

// differences shows the first rows that differ: by key, or as whole rows if there is no key. It
// reads both sides in the same order.
func (v *verification) differences(ctx context.Context, p *pair) error {
	// The sessions are closed in the middle of a result, without reading the rest.
	a, err := openSnapshot(ctx, v.Source, v.source.Name, v.settings(v.Source))
	if err != nil {
		return err
	}
	defer a.Close(context.WithoutCancel(ctx))
	b, err := openSnapshot(ctx, v.Target, v.target.Name, v.settings(v.Target))
	if err != nil {
		return err
	}
	defer b.Close(context.WithoutCancel(ctx))
	// A row without a key may be huge. Show its beginning and a hash of the row.
	id := "CASE WHEN pg_catalog.octet_length(r) > 1000 THEN pg_catalog.left(r, 200) || '… ' || pg_catalog.md5(r) ELSE r END"
	if len(p.key) > 0 {
		parts := make([]string, len(p.key))
		for i, k := range p.key {
			parts[i] = pgx.Identifier{k}.Sanitize()
		}
		id = "ROW(" + strings.Join(parts, ", ") + ")::pg_catalog.text"
	}
	query := func(target bool) string {
		if len(p.key) > 0 {
			return `SELECT id COLLATE "C", pg_catalog.md5(` + v.how.text + `) FROM (SELECT ` + p.rowText() + ` AS r, ` + id + ` AS id FROM ` + p.from(target) + `) x ORDER BY 1, 2`
		}
		return `SELECT (` + id + `) COLLATE "C", pg_catalog.md5(` + v.how.text + `) FROM (SELECT ` + p.rowText() + ` AS r FROM ` + p.from(target) + `) x ORDER BY 1, 2`
	}
	x, err := a.Query(ctx, query(false))
	if err != nil {
		return v.Source.Explain(err)
	}
	y, err := b.Query(ctx, query(true))
	if err != nil {
		return v.Target.Explain(err)
	}
	left, right := cursorOf(x), cursorOf(y)
	for shown := 0; (left.ok || right.ok) && shown < showDifferences; {
		id, how := left.id, ""
		switch {
		case !right.ok || left.ok && left.id < right.id:
			how = "missing on the target"
			left.next()
		case !left.ok || right.id < left.id:
			id, how = right.id, "only on the target"
			right.next()
		default:
			if left.sum != right.sum {
				how = "different"
			}
			left.next()
			right.next()
		}
		if how != "" {
			v.Printf("row\t%s.%s\t%s\t%s\n", p.schema, p.name, id, how)
			shown++
		}
	}
	if left.err != nil {
		return v.Source.Explain(left.err)
	}
	return v.Target.Explain(right.err)
}

// A rowCursor steps through the rows of one side.
type rowCursor struct {
	rows    pgx.Rows
	id, sum string
	ok      bool
	err     error
}

func cursorOf(rows pgx.Rows) *rowCursor {
	c := &rowCursor{rows: rows}
	c.next()
	return c
}

func (c *rowCursor) next() {
	if c.ok = c.rows.Next(); c.ok {
		c.err = c.rows.Scan(&c.id, &c.sum)
		c.ok = c.err == nil
	} else {
		c.err = c.rows.Err()
	}
}
