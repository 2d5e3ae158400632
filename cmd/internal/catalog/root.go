package catalog

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
)

// A Root is a partitioned table whose rows another server may distribute differently among the
// partitions. Reasons: enums are hashed by their OID, texts are hashed by their bytes in the
// database's encoding and ordered by the collation's library, and a function may differ there. Root
// is the topmost such table of its tree. The tables above it distribute rows alike on every server.
type Root struct {
	OID          uint32
	Schema, Name string
	// Leaves is the number of partitions with rows of their own. Only Lookup counts them.
	Leaves int
}

// A Leaf is a partition with rows of its own.
type Leaf struct {
	OID          uint32
	Schema, Name string
	Root         *Root // shared by all partitions of a tree
}

// roots is a query for the Root of each partition that condition selects, if the partition has one.
// In condition, leaf is the pg_class row of the partition.
func roots(version int, condition string) string {
	// A nondeterministic collation treats different texts as equal.
	loose := "false"
	if version >= 120000 {
		loose = "EXISTS (SELECT FROM pg_catalog.pg_collation z WHERE z.oid = p.partcollation[k.n] AND NOT z.collisdeterministic)"
	}
	// Types whose hash depends only on the value, in all versions: bool, bytea, "char", int8, int2,
	// int4, oid, cidr, money, macaddr, inet, date, time, timestamp, timestamptz, interval, timetz,
	// numeric, uuid, pg_lsn.
	const hashed = "16, 17, 18, 20, 21, 23, 26, 650, 790, 829, 869, 1082, 1083, 1114, 1184, 1186, 1266, 1700, 2950, 3220"
	// The collations C and POSIX, or none. jsonb is excluded: it implicitly uses the database's
	// collation.
	const bytes = "p.partcollation[k.n] IN (0, 950, 951) AND b.oid <> 3802"
	return `WITH RECURSIVE up(leaf, oid, depth) AS (SELECT leaf.oid, i.inhparent, 1 FROM pg_catalog.pg_class leaf JOIN pg_catalog.pg_inherits i ON i.inhrelid = leaf.oid
			WHERE leaf.relispartition AND leaf.relkind IN ('r', 'f') AND ` + condition + `
			UNION ALL SELECT up.leaf, i.inhparent, up.depth + 1 FROM up JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid)
		SELECT up.leaf, (pg_catalog.array_agg(up.oid ORDER BY up.depth DESC))[1] AS root
		FROM up CROSS JOIN LATERAL (SELECT pg_catalog.bool_or(a.attnum IS NULL OR p.partclass[k.n] >= 16384 OR ` + loose + ` OR CASE p.partstrat
				WHEN 'h' THEN b.oid NOT IN (` + hashed + `)
				WHEN 'l' THEN b.oid >= 16384 AND b.typtype <> 'e'
				ELSE b.oid >= 16384 AND b.typtype <> 'e' OR NOT (` + bytes + `) END) AS scattered
			FROM pg_catalog.pg_partitioned_table p CROSS JOIN LATERAL pg_catalog.generate_series(0, p.partnatts - 1) AS k(n)
			LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[k.n] AND a.attnum > 0
			LEFT JOIN pg_catalog.pg_type b ON b.oid = ` + baseType("a.atttypid") + ` WHERE p.partrelid = up.oid) t
		WHERE t.scattered GROUP BY up.leaf`
}

// rootOf is an expression for the Root of a relation c, or NULL.
func rootOf(version int) string {
	if version < 100000 {
		return "NULL"
	}
	return `CASE WHEN c.relispartition THEN (SELECT pg_catalog.json_build_object('OID', x.root::pg_catalog.int8, 'Schema', s.nspname, 'Name', r.relname,
			'Leaves', (WITH RECURSIVE down(oid, relkind) AS (SELECT r.oid, r.relkind UNION ALL SELECT d.oid, d.relkind FROM down JOIN pg_catalog.pg_inherits i ON i.inhparent = down.oid
				JOIN pg_catalog.pg_class d ON d.oid = i.inhrelid) SELECT pg_catalog.count(*) FROM down WHERE down.relkind IN ('r', 'f')))
		FROM (` + roots(version, "leaf.oid = c.oid") + `) x JOIN pg_catalog.pg_class r ON r.oid = x.root JOIN pg_catalog.pg_namespace s ON s.oid = r.relnamespace) END`
}

// LeavesStatement returns the query of Leaves, for sessions that do not use the driver. Its result
// is one JSON array of objects with Leaf and Root (OIDs), Schema, Name, RootSchema and Parent.
func LeavesStatement(version int) string {
	return `SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object('Leaf', x.leaf::pg_catalog.int8, 'Root', x.root::pg_catalog.int8,
		'Schema', n.nspname, 'Name', l.relname, 'RootSchema', s.nspname, 'Parent', r.relname))::pg_catalog.text, '[]') FROM (` + roots(version, "true") + `) x
		JOIN pg_catalog.pg_class l ON l.oid = x.leaf JOIN pg_catalog.pg_namespace n ON n.oid = l.relnamespace
		JOIN pg_catalog.pg_class r ON r.oid = x.root JOIN pg_catalog.pg_namespace s ON s.oid = r.relnamespace`
}

// Leaves returns the partitions that have a Root.
func Leaves(ctx context.Context, c *pgx.Conn) ([]Leaf, error) {
	rows, err := c.Query(ctx, `SELECT x.leaf, n.nspname, l.relname, x.root, s.nspname, r.relname FROM (`+roots(pgdial.Version(c.PgConn()), "true")+`) x
		JOIN pg_catalog.pg_class l ON l.oid = x.leaf JOIN pg_catalog.pg_namespace n ON n.oid = l.relnamespace
		JOIN pg_catalog.pg_class r ON r.oid = x.root JOIN pg_catalog.pg_namespace s ON s.oid = r.relnamespace ORDER BY 5, 6, 2, 3`)
	if err != nil {
		return nil, err
	}
	var list []Leaf
	shared := make(map[uint32]*Root)
	var l Leaf
	var r Root
	_, err = pgx.ForEachRow(rows, []any{&l.OID, &l.Schema, &l.Name, &r.OID, &r.Schema, &r.Name}, func() error {
		if shared[r.OID] == nil {
			x := r
			shared[r.OID] = &x
		}
		list = append(list, Leaf{l.OID, l.Schema, l.Name, shared[r.OID]})
		return nil
	})
	return list, err
}
