package catalog

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
)

// A Definition is what it takes to recreate an object of a table exactly. SQL includes its
// properties and usually its comment. Names are schema-qualified if the session's search path is
// empty.
type Definition struct {
	Schema, Table string
	Name          string
	SQL           string
	// For keys and indexes.
	Constraint bool
	// The statement that creates only the index. It is set for a primary key or unique constraint,
	// and for an index that more statements follow.
	Index   string
	Attach  string // the statements after Index: attach the constraint, complete the index
	Comment string // of a foreign key: the statement that sets its comment
}

// Relation returns the quoted name of the table.
func (d *Definition) Relation() string { return pgx.Identifier{d.Schema, d.Table}.Sanitize() }

// related is a query for the OIDs of the given tables and of the partitioned tables above them.
const related = `(WITH RECURSIVE up(oid) AS (SELECT pg_catalog.unnest($1::pg_catalog.oid[]) UNION SELECT i.inhparent FROM up JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid
	JOIN pg_catalog.pg_class p ON p.oid = i.inhparent AND p.relkind = 'p') SELECT oid FROM up)`

// ForeignKeys returns the foreign keys from and to tables, or from and to the partitioned tables
// above them.
func ForeignKeys(ctx context.Context, c *pgx.Conn, oids []uint32) ([]Definition, error) {
	top := ""
	if pgdial.Version(c.PgConn()) >= 110000 {
		top = "AND k.conparentid = 0"
	}
	return definitions(ctx, c, `SELECT n.nspname, t.relname, k.conname,
		pg_catalog.format(E'ALTER TABLE %s%I.%I\n    ADD CONSTRAINT %I %s;', CASE t.relkind WHEN 'r' THEN 'ONLY ' ELSE '' END, n.nspname, t.relname, k.conname, pg_catalog.pg_get_constraintdef(k.oid)), true, '', '',
		coalesce(pg_catalog.format(E'COMMENT ON CONSTRAINT %I ON %I.%I IS ', k.conname, n.nspname, t.relname) || pg_catalog.quote_literal(pg_catalog.obj_description(k.oid, 'pg_constraint')) || ';', '')
		FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class t ON t.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
		WHERE k.contype = 'f' `+top+` AND (k.conrelid IN `+related+` OR k.confrelid IN `+related+`) AND n.nspname <> 'pgsluice' ORDER BY k.oid`, oids)
}

// Indexes returns the indexes of tables, with the constraints that use them. It omits parts of a
// partitioned table's index, which cannot be dropped alone.
func Indexes(ctx context.Context, c *pgx.Conn, oids []uint32) ([]Definition, error) {
	period := "false"
	if pgdial.Version(c.PgConn()) >= 180000 {
		period = "k.conperiod"
	}
	// What belongs to the index besides its CREATE statement.
	const more = `coalesce((SELECT pg_catalog.string_agg(pg_catalog.format(E'\nALTER INDEX %I.%I ALTER COLUMN %s SET STATISTICS %s;', n.nspname, x.relname, a.attnum, a.attstattarget), '' ORDER BY a.attnum)
			FROM pg_catalog.pg_attribute a WHERE a.attrelid = x.oid AND a.attstattarget >= 0), '')
		|| CASE WHEN i.indisclustered THEN pg_catalog.format(E'\nALTER TABLE %I.%I CLUSTER ON %I;', n.nspname, t.relname, x.relname) ELSE '' END
		|| CASE WHEN i.indisreplident THEN pg_catalog.format(E'\nALTER TABLE ONLY %I.%I REPLICA IDENTITY USING INDEX %I;', n.nspname, t.relname, x.relname) ELSE '' END
		|| coalesce(pg_catalog.format(E'\nCOMMENT ON INDEX %I.%I IS ', n.nspname, x.relname) || pg_catalog.quote_literal(pg_catalog.obj_description(x.oid, 'pg_class')) || ';', '')
		|| CASE WHEN pg_catalog.obj_description(k.oid, 'pg_constraint') IS NULL THEN ''
			ELSE pg_catalog.format(E'\nCOMMENT ON CONSTRAINT %I ON %I.%I IS %L;', k.conname, n.nspname, t.relname, pg_catalog.obj_description(k.oid, 'pg_constraint')) END`
	const space = `coalesce((SELECT pg_catalog.format(E'SET default_tablespace = %I;\n', s.spcname) FROM pg_catalog.pg_tablespace s WHERE s.oid = x.reltablespace), '')`
	const reset = `CASE x.reltablespace WHEN 0 THEN '' ELSE E'\nRESET default_tablespace;' END`
	const definition = `pg_catalog.pg_get_indexdef(x.oid) || ';'`
	return definitions(ctx, c, `SELECT n.nspname, t.relname, coalesce(k.conname, x.relname),
		CASE WHEN k.oid IS NULL THEN `+space+` || `+definition+` || `+reset+` || `+more+`
			ELSE `+space+` || pg_catalog.format(E'ALTER TABLE ONLY %I.%I ADD CONSTRAINT %I %s;', n.nspname, t.relname, k.conname, pg_catalog.pg_get_constraintdef(k.oid)) || `+reset+` || `+more+` END,
		k.oid IS NOT NULL,
		CASE WHEN k.contype IN ('p', 'u') AND NOT `+period+` OR k.oid IS NULL AND `+more+` <> '' THEN `+space+` || `+definition+` || `+reset+` ELSE '' END,
		CASE WHEN k.contype IN ('p', 'u') AND NOT `+period+` THEN pg_catalog.format('ALTER TABLE ONLY %I.%I ADD CONSTRAINT %I %s USING INDEX %I%s;', n.nspname, t.relname, k.conname,
			CASE k.contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END, x.relname,
			CASE WHEN k.condeferrable THEN ' DEFERRABLE' ELSE '' END || CASE WHEN k.condeferred THEN ' INITIALLY DEFERRED' ELSE '' END) || `+more+` WHEN k.oid IS NULL THEN pg_catalog.ltrim(`+more+`, E'\n') ELSE '' END, ''
		FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
		JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = x.oid AND k.conrelid = t.oid AND k.contype IN ('p', 'u', 'x')
		WHERE t.oid = ANY ($1::pg_catalog.oid[]) AND t.relkind = 'r' AND i.indisvalid AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = x.oid) ORDER BY x.oid`, oids)
}

func definitions(ctx context.Context, c *pgx.Conn, sql string, oids []uint32) ([]Definition, error) {
	rows, err := c.Query(ctx, sql, oids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (d Definition, err error) {
		err = row.Scan(&d.Schema, &d.Table, &d.Name, &d.SQL, &d.Constraint, &d.Index, &d.Attach, &d.Comment)
		return d, err
	})
}
