package copyout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
)

// prepare prepares what lock asks.
func (r *Reader) prepare(ctx context.Context, conn *pgwire.Conn) error {
	b := conn.Batch(ctx)
	b.Parse("columns", `SELECT (SELECT pg_catalog.string_agg(a.attnum::pg_catalog.text, ' ' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
		FROM pg_catalog.pg_class c WHERE c.oid = $1::pg_catalog.oid AND c.relfilenode = pg_catalog.pg_relation_filenode(c.oid) AND c.oid = pg_catalog.to_regclass($2::pg_catalog.text)`)
	x, err := b.Run()
	if err == nil {
		err = x.Err
	}
	return r.Server.Explain(err)
}

// lock locks a part's table against changes of its schema, and releases the table that was read
// before: nobody has to wait for the whole load. It reports whether the table can be read as of the
// snapshot, and returns the names that the part's columns have now.
//
// The server resolves the names in a statement as of now, and shows the catalogs in a transaction
// as of its snapshot. Three things may have happened in between. If the table was truncated or
// rewritten, it looks empty to the snapshot: pg_relation_filenode returns the file that the table
// has now, and pg_class the one that it had. Another table may have taken the name. And columns may
// have been renamed, or dropped: the description of a statement has the names, numbers and types of
// now, and pg_attribute the numbers that there were. A number is never used again.
func (c *copier) lock(ctx context.Context, p *Part) (columns []string, there bool, err error) {
	t := p.Table
	name := quote(t.Schema) + "." + quote(t.Name)
	b := c.conn.Batch(ctx)
	imports := c.locked != 0 && c.locked != t.ID
	if imports {
		b.Do("COMMIT")
		for _, sql := range c.transaction() {
			b.Do(sql)
		}
	}
	c.locked = t.ID
	b.Do("LOCK TABLE ONLY " + name + " IN ACCESS SHARE MODE")
	b.Parse("", "SELECT * FROM ONLY "+name)
	b.Describe("")
	b.Bind("columns", 2, nil)
	b.String(strconv.FormatUint(uint64(t.ID), 10))
	b.String(name)
	b.Execute()
	r, err := b.Run()
	if err == nil {
		err = r.Err
	}
	var pg *pgconn.PgError
	switch {
	case imports && slot.Gone(err):
		return nil, false, slot.Ended(c.Server.Explain(err))
	case errors.As(err, &pg) && slices.Contains([]string{"42P01", "3F000", "42809"}, pg.Code):
		return nil, false, c.again(ctx) // there is no table of that name
	case err != nil:
		return nil, false, fmt.Errorf("copy %s.%s: %w", t.Schema, t.Name, mayRead(t, c.Server.Explain(err)))
	case len(r.Row) != 1:
		return nil, false, nil
	}
	return c.names(ctx, p, strings.Fields(r.Row[0]), slices.Clone(r.Columns))
}

// names returns the names that a part's columns have now. numbers are those of the table's columns
// as of the snapshot. If a column is gone, is of another type, or has another name in a condition,
// names reports false.
func (c *copier) names(ctx context.Context, p *Part, numbers []string, now []pgwire.Column) (columns []string, same bool, err error) {
	if len(numbers) != len(p.Table.Columns) {
		return nil, false, nil
	}
	byNumber := make(map[string]pgwire.Column, len(now))
	for _, col := range now {
		byNumber[strconv.Itoa(int(col.Number))] = col
	}
	for i, col := range p.Table.Columns {
		x, ok := byNumber[numbers[i]]
		switch {
		case col.Generated:
			continue
		case !ok, x.Name != col.Name && (p.ByKey || p.Table.Condition != ""):
			return nil, false, nil
		case x.Type != col.OID:
			base, err := c.base(ctx, col.OID)
			if err != nil || x.Type != base {
				return nil, false, err
			}
		}
		columns = append(columns, x.Name)
	}
	return columns, true, nil
}

// base returns the type below a domain of the snapshot, or the type itself if it is none.
func (c *copier) base(ctx context.Context, oid uint32) (uint32, error) {
	if base, ok := c.bases[oid]; ok {
		return base, nil
	}
	b := c.conn.Batch(ctx)
	b.Do(fmt.Sprintf(`WITH RECURSIVE b(oid, depth) AS (SELECT %d::pg_catalog.oid, 0 UNION ALL SELECT t.typbasetype, depth + 1 FROM b JOIN pg_catalog.pg_type t ON t.oid = b.oid WHERE t.typtype = 'd')
		SELECT oid FROM b ORDER BY depth DESC LIMIT 1`, oid))
	r, err := b.Run()
	if err == nil {
		err = r.Err
	}
	if err != nil || len(r.Row) != 1 {
		return 0, c.Server.Explain(err)
	}
	base, err := strconv.ParseUint(r.Row[0], 10, 32)
	if err != nil {
		return 0, err
	}
	if c.bases == nil {
		c.bases = make(map[uint32]uint32)
	}
	c.bases[oid] = uint32(base)
	return uint32(base), nil
}
