package watch

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
)

// LargeObjects returns facts about the large objects of a database that change when one is created,
// removed, or given another owner. No slot carries them, and up to PostgreSQL 15 they can be
// created and removed in read-only transactions. The facts are their number, the sum of the
// transactions that wrote them, and the next transaction.
func LargeObjects(ctx context.Context, c *pgx.Conn) (facts string, err error) {
	// age() is relative to the next transaction; so is that of transaction 3, the first one.
	err = c.QueryRow(ctx, `SELECT pg_catalog.format('%s %s %s', pg_catalog.count(*),
		coalesce(pg_catalog.sum(CASE WHEN l.xmin = '1'::pg_catalog.xid OR l.xmin = '2'::pg_catalog.xid THEN 0 ELSE pg_catalog.age('3'::pg_catalog.xid)::bigint - pg_catalog.age(l.xmin) END), 0),
		pg_catalog.txid_snapshot_xmin(pg_catalog.txid_current_snapshot())) FROM pg_catalog.pg_largeobject_metadata l`).Scan(&facts)
	return facts, err
}

// ChangedLargeObjects compares large objects with facts from before. It returns what has changed,
// in words, or "". It does not see data that is written into an existing one.
func ChangedLargeObjects(ctx context.Context, c *pgx.Conn, before string) (string, error) {
	var n, sum, next int64
	if _, err := fmt.Sscan(before, &n, &sum, &next); err != nil {
		return "", nil // nothing is known from before
	}
	now, err := LargeObjects(ctx, c)
	if err != nil {
		return "", err
	}
	var n2, sum2, next2 int64
	if _, err := fmt.Sscan(now, &n2, &sum2, &next2); err != nil || n == n2 && sum == sum2 {
		return "", err
	}
	rows, err := c.Query(ctx, `SELECT l.oid::pg_catalog.text FROM pg_catalog.pg_largeobject_metadata l
		WHERE l.xmin <> '1'::pg_catalog.xid AND l.xmin <> '2'::pg_catalog.xid AND pg_catalog.age(l.xmin) <= pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot()) - $1 ORDER BY 1`, next)
	if err != nil {
		return "", err
	}
	oids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return "", err
	}
	var says []string
	if len(oids) > 0 {
		says = append(says, fmt.Sprintf("%s created or changed: %s", count.Of(len(oids), "large object"), count.Some(oids)))
	}
	if n2 < n {
		says = append(says, fmt.Sprintf("there were %d, and now there are %d", n, n2))
	}
	if len(says) == 0 {
		return "large objects were changed", nil
	}
	return strings.Join(says, "; "), nil
}
