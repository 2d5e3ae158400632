package catalog

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/format"
)

// A Table is a table of the source with rows of its own: an ordinary table or a partition.
// Partitioned tables, and tables that an extension fills by itself, are not among them.
type Table struct {
	format.Relation
	Kind      string // r ordinary, p partitioned (only in Published)
	Bytes     int64  // of the main fork
	Pages     int64
	Rows      int64 // the planner's estimate, −1 if unknown
	Unlogged  bool
	Root      uint32 // topmost partitioned table above this partition, 0 if there is none
	Condition string // of an extension's configuration table: selects the user's rows
	Owner     string
}

// Migrated is true for relations (c in namespace n) to migrate. It excludes relations of the system
// and of pgsluice, and temporary ones. Callers exclude the relations of extensions, except for
// configuration tables.
const Migrated = `n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'pgsluice') AND n.nspname !~ '^pg_(temp|toast_temp)_'
	AND c.relpersistence <> 't'`

// Tables returns the tables whose rows are to be migrated, largest first, and the partitioned
// tables above them with Kind p. The size of a table comes from its file. If a session has locked
// the table exclusively, it comes from the last VACUUM or ANALYZE instead.
func Tables(ctx context.Context, c *pgx.Conn) ([]*Table, error) {
	v := pgdial.Version(c.PgConn())
	partition := "false"
	if v >= 100000 {
		partition = "c.relispartition"
	}
	rows, err := c.Query(ctx, `SELECT c.oid, n.nspname, c.relname, c.relkind::pg_catalog.text, c.relreplident::pg_catalog.text, CASE WHEN k.relation IS NULL THEN coalesce(pg_catalog.pg_relation_size(c.oid), 0) ELSE c.relpages::pg_catalog.int8 * 8192 END, c.reltuples::bigint,
		c.relpersistence = 'u', coalesce(e.condition, ''), pg_catalog.pg_get_userbyid(c.relowner),
		CASE WHEN `+partition+` THEN (WITH RECURSIVE up(oid, depth) AS (SELECT i.inhparent, 1 FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid
			UNION ALL SELECT i.inhparent, up.depth + 1 FROM up JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid)
			SELECT oid FROM up ORDER BY depth DESC LIMIT 1) ELSE 0 END
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN (SELECT DISTINCT relation FROM pg_catalog.pg_locks WHERE mode = 'AccessExclusiveLock') k ON k.relation = c.oid
		LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.objsubid = 0 AND d.deptype = 'e'
		LEFT JOIN LATERAL (SELECT x.extcondition[k.n] AS condition FROM pg_catalog.pg_extension x,
			pg_catalog.generate_subscripts(x.extconfig, 1) AS k(n) WHERE x.oid = d.refobjid AND x.extconfig[k.n] = c.oid) e ON true
		WHERE c.relkind IN ('r', 'p') AND `+Migrated+` AND (d.objid IS NULL OR e.condition IS NOT NULL)
		ORDER BY 6 DESC, 2, 3`)
	if err != nil {
		return nil, err
	}
	byOID := make(map[uint32]*Table)
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Table, error) {
		t := new(Table)
		err := row.Scan(&t.ID, &t.Schema, &t.Name, &t.Kind, &t.ReplicaIdentity, &t.Bytes, &t.Rows,
			&t.Unlogged, &t.Condition, &t.Owner, &t.Root)
		t.Pages = t.Bytes / 8192
		byOID[t.ID] = t
		return t, err
	})
	if err != nil {
		return nil, err
	}
	return tables, columns(ctx, c, v, byOID)
}

// Absent returns the names that no relation has.
func Absent(ctx context.Context, c *pgx.Conn, names []Name) (map[Name]bool, error) {
	var schemas, tables []string
	for _, n := range names {
		schemas, tables = append(schemas, n.Schema), append(tables, n.Name)
	}
	rows, err := c.Query(ctx, `SELECT v.s, v.t FROM unnest($1::pg_catalog.text[], $2::pg_catalog.text[]) v(s, t) WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = v.s AND c.relname = v.t)`, schemas, tables)
	if err != nil {
		return nil, err
	}
	absent := make(map[Name]bool)
	var n Name
	_, err = pgx.ForEachRow(rows, []any{&n.Schema, &n.Name}, func() error { absent[n] = true; return nil })
	return absent, err
}

// columns reads the columns of all tables.
func columns(ctx context.Context, c *pgx.Conn, version int, tables map[uint32]*Table) error {
	generated, identity := "false", "''"
	if version >= 120000 {
		generated = "a.attgenerated <> ''"
	}
	if version >= 100000 {
		identity = "a.attidentity::pg_catalog.text"
	}
	oids := make([]uint32, 0, len(tables))
	for oid := range tables {
		oids = append(oids, oid)
	}
	rows, err := c.Query(ctx, `SELECT a.attrelid, a.attname, pg_catalog.format_type(a.atttypid, -1), a.atttypid, a.atttypmod, `+generated+`, `+identity+`,
		EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = a.attrelid AND a.attnum = ANY (i.indkey::pg_catalog.int2[]) AND i.indisvalid
			AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END) OR c.relreplident = 'f'
		FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
		WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum`, oids)
	if err != nil {
		return err
	}
	var rel uint32
	var col format.Column
	_, err = pgx.ForEachRow(rows, []any{&rel, &col.Name, &col.Type, &col.OID, &col.TypeMod, &col.Generated,
		&col.Identity, &col.Key}, func() error {
		t := tables[rel]
		t.Columns = append(t.Columns, col)
		return nil
	})
	return err
}

// KeyRange returns the smallest and largest value of a table's primary key, if the key is a single
// integer column. Otherwise key is empty.
func KeyRange(ctx context.Context, c *pgx.Conn, t *Table) (from, to int64, key string, err error) {
	err = c.QueryRow(ctx, `SELECT a.attname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
		WHERE i.indrelid = $1 AND i.indisprimary AND i.indisvalid AND i.indnatts = 1 AND a.atttypid IN (20, 21, 23)`, t.ID).Scan(&key)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, 0, "", nil
	}
	if err != nil {
		return 0, 0, "", err
	}
	column := pgx.Identifier{key}.Sanitize()
	var batch pgx.Batch
	batch.Queue("SELECT coalesce(pg_catalog.min(" + column + "), 0), coalesce(pg_catalog.max(" + column + "), 0) FROM ONLY " +
		pgx.Identifier{t.Schema, t.Name}.Sanitize()).QueryRow(func(row pgx.Row) error { return row.Scan(&from, &to) })
	return from, to, key, read(ctx, c, &batch)
}

// A Sequence is a sequence of the source with its current state. Snapshots do not cover sequences.
type Sequence struct {
	format.Sequence
	OID   uint32
	Table uint32 // table that owns it, 0 if there is none
	Known bool   // the role may read the state
}

// SequenceNames returns the sequences to migrate, without their state.
func SequenceNames(ctx context.Context, c *pgx.Conn) ([]Sequence, error) {
	rows, err := c.Query(ctx, `SELECT n.nspname, c.relname, c.oid,
		coalesce((SELECT o.refobjid FROM pg_catalog.pg_depend o WHERE o.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND o.objid = c.oid
			AND o.refclassid = o.classid AND o.deptype IN ('a', 'i') LIMIT 1), 0),
		coalesce(pg_catalog.has_sequence_privilege(c.oid, 'SELECT'), false)
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e'
		LEFT JOIN pg_catalog.pg_extension x ON x.oid = d.refobjid
		WHERE c.relkind = 'S' AND `+Migrated+` AND (d.objid IS NULL OR c.oid = ANY (x.extconfig)) ORDER BY 1, 2`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (s Sequence, err error) {
		err = row.Scan(&s.Schema, &s.Name, &s.OID, &s.Table, &s.Known)
		return s, err
	})
}

// Sequences returns the sequences to migrate, with their state. The session must not be in a
// transaction, whose locks would be of all sequences.
func Sequences(ctx context.Context, c *pgx.Conn) ([]Sequence, error) {
	list, err := SequenceNames(ctx, c)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	var known []Sequence
	for i := range list {
		if list[i].Known {
			known = append(known, list[i])
		}
	}
	if err := SequenceStates(ctx, c, known); err != nil {
		return nil, err
	}
	for i, n := 0, 0; n < len(known); i++ {
		if list[i].Known {
			list[i] = known[n]
			n++
		}
	}
	return list, nil
}

// read sends queries that read objects owned by others on the source.
func read(ctx context.Context, c *pgx.Conn, batch *pgx.Batch) error {
	if _, err := c.Exec(ctx, pgdial.TablesOnly("source")); err != nil {
		return err
	}
	if err := c.SendBatch(ctx, batch).Close(); err != nil {
		// fails in an aborted transaction, whose rollback reverts the setting anyway
		_, _ = c.Exec(ctx, pgdial.TablesOrViews)
		return err
	}
	_, err := c.Exec(ctx, pgdial.TablesOrViews)
	return err
}
