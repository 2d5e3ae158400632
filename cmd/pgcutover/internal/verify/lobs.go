package verify

import (
	"context"
	"crypto/md5"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// lobChunk is the size of the parts in which a server sums a large object.
const lobChunk = 1 << 20

// largeObjects compares the large objects of both sides in the same way as tables, if they were
// loaded. PostgreSQL does not decode changes of large objects, so a change since the load is a
// difference. largeObjects writes a line in total and one for each of the first differences. It
// reports whether both sides are equal.
func (v *verification) largeObjects(ctx context.Context) (equal bool, err error) {
	states, err := progress.TableStates(ctx, v.OnTarget, v.Stream.ID)
	if err != nil {
		return false, v.Target.Explain(err)
	}
	if s := states[[2]string{"pg_catalog", "pg_largeobject"}]; s == nil || s.Status != "loaded" {
		return true, nil
	}
	a, err := openLargeObjects(ctx, v.Source, v.source.Name)
	if err != nil {
		return false, err
	}
	defer a.close(ctx)
	b, err := openLargeObjects(ctx, v.Target, v.target.Name)
	if err != nil {
		return false, err
	}
	defer b.close(ctx)
	lines, onSource, onTarget, err := differentLobs(ctx, a, b)
	if err != nil {
		return false, err
	}
	if len(lines) == 0 {
		if !v.OnlyDifferent {
			v.Printf("equal\tlarge objects\t%d\n", onSource)
		}
		return true, nil
	}
	v.Printf("different\tlarge objects\t%d on the source, %d on the target\n", onSource, onTarget)
	for _, l := range lines {
		v.Wrote(fmt.Fprint(v.Out, l))
	}
	v.Log.Warn(count.Of(onSource, "large object")+
		" of the source and the target's differ; changes of them since the load are not decoded by any PostgreSQL",
		"hint", fmt.Sprintf("Before the target is opened they can be loaded again. Stop sync; on the target: SELECT lo_unlink(oid) FROM pg_largeobject_metadata; DELETE FROM pgsluice.tables WHERE source_table = 'pg_largeobject'; "+
			"DELETE FROM pgsluice.deferred WHERE name LIKE 'LARGE OBJECT%%'; then: pgextract --slot %s --resume | pgapply", v.Slot))
	return false, nil
}

// differentLobs steps through the large objects of both sides. It returns lines for the first
// differences, and the number of large objects on each side.
func differentLobs(ctx context.Context, a, b *lobCursor) (lines []string, onSource, onTarget int, err error) {
	for {
		for _, c := range []*lobCursor{a, b} {
			if err := c.sum(ctx); err != nil {
				return nil, 0, 0, err
			}
		}
		if !a.ok && !b.ok {
			return lines, onSource, onTarget, nil
		}
		oid, text := a.oid, ""
		switch {
		case !b.ok || a.ok && a.oid < b.oid:
			text = "missing on the target"
		case !a.ok || b.oid < a.oid:
			oid, text = b.oid, "only on the target"
		case a.digest != b.digest:
			text = "different"
		}
		if a.ok && a.oid == oid {
			onSource++
			a.next()
		}
		if b.ok && b.oid == oid {
			onTarget++
			b.next()
		}
		if text != "" && len(lines) < showDifferences {
			lines = append(lines, fmt.Sprintf("row\tlarge objects\t%d\t%s\n", oid, text))
		}
	}
}

// A lobCursor steps through the large objects of one side, in the order of their OIDs.
type lobCursor struct {
	server pgdial.Server
	list   *pgx.Conn // reads the first chunks
	more   *pgx.Conn // reads the rest of long objects
	rows   pgx.Rows
	ok     bool
	oid    uint32
	length int
	digest string // of length and content, once sum has been called
	summed bool
	err    error
}

func openLargeObjects(ctx context.Context, server pgdial.Server, snapshot string) (c *lobCursor, err error) {
	c = &lobCursor{server: server}
	defer func() {
		if err != nil {
			c.close(ctx)
		}
	}()
	if c.list, err = openSnapshot(ctx, server, snapshot, ""); err != nil {
		return c, err
	}
	if c.more, err = openSnapshot(ctx, server, snapshot, ""); err != nil {
		return c, err
	}
	c.rows, err = c.list.Query(ctx, `SELECT m.oid, pg_catalog.length(x.d), pg_catalog.md5(x.d) FROM pg_catalog.pg_largeobject_metadata m,
		LATERAL (SELECT pg_catalog.lo_get(m.oid, 0, $1) AS d OFFSET 0) x ORDER BY m.oid`, lobChunk)
	if err != nil {
		return c, server.Explain(err)
	}
	c.next()
	return c, nil
}

func (c *lobCursor) next() {
	c.summed = false
	if c.ok = c.rows.Next(); c.ok {
		c.err = c.rows.Scan(&c.oid, &c.length, &c.digest)
		c.ok = c.err == nil
	} else {
		c.err = c.rows.Err()
	}
}

// sum completes the digest of an object that has more than one chunk.
func (c *lobCursor) sum(ctx context.Context) error {
	if c.err != nil {
		return c.server.Explain(fmt.Errorf("compare large objects: %w", c.err))
	}
	if !c.ok || c.summed {
		return nil
	}
	c.summed = true
	hash := md5.New()
	fmt.Fprintln(hash, c.length, c.digest)
	for at := int64(lobChunk); c.length == lobChunk; at += lobChunk {
		err := c.more.QueryRow(ctx,
			`SELECT pg_catalog.length(x.d), pg_catalog.md5(x.d) FROM (SELECT pg_catalog.lo_get($1, $2, $3) AS d OFFSET 0) x`,
			c.oid, at, lobChunk).Scan(&c.length, &c.digest)
		if err != nil {
			return c.server.Explain(fmt.Errorf("compare large object %d: %w", c.oid, err))
		}
		fmt.Fprintln(hash, c.length, c.digest)
	}
	c.digest = fmt.Sprintf("%x", hash.Sum(nil))
	return nil
}

// close closes the sessions, even in the middle of a result.
func (c *lobCursor) close(ctx context.Context) {
	for _, conn := range []*pgx.Conn{c.list, c.more} {
		if conn != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}
}
