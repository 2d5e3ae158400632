package catalog

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// A Check is a CHECK constraint of a table or domain, with the statement that drops it.
type Check struct {
	Definition
	Drop string
}

// mutable is true of a CHECK constraint k whose result may vary with time or place. Such a
// constraint calls a function that is not immutable, or a user's function that is not written in C.
// The latter may be declared immutable and still read tables.
const mutable = `(k.conbin::pg_catalog.text ~ 'SQLVALUEFUNCTION|NEXTVALUEEXPR' OR EXISTS (SELECT FROM pg_catalog.regexp_matches(k.conbin::pg_catalog.text, ':(?:func|opfunc|hashfunc)id (\d+)', 'g') m
	JOIN pg_catalog.pg_proc p ON p.oid = m[1]::pg_catalog.oid JOIN pg_catalog.pg_language g ON g.oid = p.prolang WHERE p.provolatile <> 'i' OR p.oid >= 16384 AND g.lanname NOT IN ('internal', 'c')))`

// Checks returns the CHECK constraints that the rows of tables must pass: those of the tables, of
// the tables they inherit from, and of the domains that their columns use. From 18 on, it also
// returns NOT NULL constraints that are not valid. Unless all is set, it returns only constraints
// that are not valid, or whose result may change until all rows of all tables are loaded. An
// inherited constraint is covered by the constraint that it is inherited from.
func Checks(ctx context.Context, c *pgx.Conn, oids []uint32, all bool) ([]Check, error) {
	// The server cannot validate later what is inside the arrays and composite values of a table.
	which, domains := mutable, mutable+" AND k.contypid NOT IN (SELECT y.oid FROM y WHERE y.inside)"
	if all {
		which, domains = "true", "true"
	}
	rows, err := c.Query(ctx, `WITH RECURSIVE up(oid) AS (SELECT pg_catalog.unnest($1::pg_catalog.oid[]) UNION SELECT i.inhparent FROM up JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid),
		y(oid, inside) AS (SELECT a.atttypid, false FROM pg_catalog.pg_attribute a WHERE a.attrelid = ANY ($1::pg_catalog.oid[]) AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384
			UNION SELECT x.oid, y.inside OR x.inside FROM y JOIN pg_catalog.pg_type t ON t.oid = y.oid, LATERAL (SELECT t.typbasetype, false UNION ALL SELECT t.typelem, true
				UNION ALL SELECT a.atttypid, true FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped
				UNION ALL SELECT r.rngsubtype, true FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid) x(oid, inside) WHERE x.oid >= 16384)
		SELECT n.nspname, t.relname, k.conname, pg_catalog.format(E'ALTER TABLE %I.%I\n    ADD CONSTRAINT %I %s;', n.nspname, t.relname, k.conname, pg_catalog.pg_get_constraintdef(k.oid)),
			pg_catalog.format('ALTER TABLE %I.%I DROP CONSTRAINT %I', n.nspname, t.relname, k.conname),
			coalesce(pg_catalog.format('COMMENT ON CONSTRAINT %I ON %I.%I IS ', k.conname, n.nspname, t.relname) || pg_catalog.quote_literal(pg_catalog.obj_description(k.oid, 'pg_constraint')) || ';', '')
		FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class t ON t.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
		WHERE k.coninhcount = 0 AND k.conrelid IN (SELECT up.oid FROM up) AND (k.contype IN ('c', 'n') AND NOT k.convalidated OR k.contype = 'c' AND `+which+`)
		UNION ALL SELECT n.nspname, '', t.typname || ' ' || k.conname, pg_catalog.format(E'ALTER DOMAIN %I.%I\n    ADD CONSTRAINT %I %s;', n.nspname, t.typname, k.conname, pg_catalog.pg_get_constraintdef(k.oid)),
			pg_catalog.format('ALTER DOMAIN %I.%I DROP CONSTRAINT %I', n.nspname, t.typname, k.conname),
			coalesce(pg_catalog.format('COMMENT ON CONSTRAINT %I ON DOMAIN %I.%I IS ', k.conname, n.nspname, t.typname) || pg_catalog.quote_literal(pg_catalog.obj_description(k.oid, 'pg_constraint')) || ';', '')
		FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_type t ON t.oid = k.contypid JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
		WHERE k.contype = 'c' AND k.contypid IN (SELECT y.oid FROM y) AND `+domains+` ORDER BY 1, 2, 3`, oids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (k Check, err error) {
		err = row.Scan(&k.Schema, &k.Table, &k.Name, &k.SQL, &k.Drop, &k.Comment)
		return k, err
	})
}
