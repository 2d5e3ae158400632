package catalog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// Orphans are the rows that violate a foreign key. They were written while triggers were off, or
// before the constraint was created.
type Orphans struct {
	Name, Schema, Table string
	Valid               bool // the server considers the constraint valid
	Rows                int64
	Select              string // a statement that returns the rows
}

// Of returns the name of the table.
func (o *Orphans) Of() string { return o.Schema + "." + o.Table }

// A foreignKey is a foreign key that CountOrphans may examine.
type foreignKey struct {
	Name                 string
	Schema, Table        string
	Kind                 string
	ToSchema, To, ToKind string
	Valid, Full          bool
	Columns, ToColumns   []string
	Operators            []string // comparison operators, in the constraint's order
	Plain                bool     // the comparison calls no user-defined code
	Open                 bool     // the role may read both tables
	Pages                int64
}

// from returns the part of the query after the select list.
func (k *foreignKey) from() string {
	only := func(kind string) string {
		if kind == "p" {
			return ""
		}
		return "ONLY "
	}
	var some, all, match []string
	for i := range k.Columns {
		column := "c." + text.Ident(k.Columns[i])
		some = append(some, column+" IS NOT NULL")
		all = append(all, column+" IS NULL")
		match = append(match, fmt.Sprintf("p.%s %s %s", text.Ident(k.ToColumns[i]), k.Operators[i], column))
	}
	missing := "(" + strings.Join(some, " AND ") + " AND NOT EXISTS (SELECT FROM " +
		only(k.ToKind) + text.Ident(k.ToSchema, k.To) + " p WHERE " + strings.Join(match, " AND ") + "))"
	if k.Full && len(k.Columns) > 1 {
		missing += " OR (" + strings.Join(some, " OR ") + ") AND (" + strings.Join(all, " OR ") + ")"
	}
	return "FROM " + only(k.Kind) + text.Ident(k.Schema, k.Table) + " c WHERE " + missing
}

func (k *foreignKey) String() string { return k.Name + " of " + k.Schema + "." + k.Table }

// CountOrphans counts the rows that violate the foreign keys of the database, starting with the
// smallest tables, for at most budget. It returns the foreign keys with such rows, and the names of
// the foreign keys that it did not examine. The reason can be a lack of time or rights, or a
// comparison that would call user-defined code.
func CountOrphans(ctx context.Context, c *pgx.Conn, budget time.Duration) (found []Orphans, examined int, left []string, err error) {
	keys, err := foreignKeys(ctx, c)
	if err != nil || len(keys) == 0 {
		return nil, 0, nil, err
	}
	if _, err := c.Exec(ctx, pgdial.TablesOnly("source")); err != nil {
		return nil, 0, nil, err
	}
	defer func() {
		if e := unlimited(ctx, c); err == nil {
			err = e
		}
	}()
	deadline := time.Now().Add(budget)
	// Foreign keys of small tables share a query.
	const batch, pages = 50, 8192
	for len(keys) > 0 {
		n, size := 0, int64(0)
		for n < len(keys) && n < batch && (n == 0 || size+keys[n].Pages <= pages) {
			size += keys[n].Pages
			n++
		}
		part := keys[:n]
		keys = keys[n:]
		counts, err := countOrphans(ctx, c, part, time.Until(deadline))
		var pg *pgconn.PgError
		switch {
		case err == nil:
		case !errors.As(err, &pg) || c.IsClosed():
			return nil, 0, nil, err
		case n > 1 && pg.Code != "57014": // one of them failed: count each alone
			counts = make([]int64, n)
			for i := range part {
				one, err := countOrphans(ctx, c, part[i:i+1], time.Until(deadline))
				switch {
				case err == nil:
					counts[i] = one[0]
				case !errors.As(err, &pg) || c.IsClosed():
					return nil, 0, nil, err
				default:
					counts[i] = -1
				}
			}
		default:
			counts = make([]int64, n)
			for i := range counts {
				counts[i] = -1
			}
		}
		for i := range part {
			k := &part[i]
			if counts[i] < 0 {
				left = append(left, k.String())
				continue
			}
			examined++
			if counts[i] > 0 {
				found = append(found, Orphans{Name: k.Name, Schema: k.Schema, Table: k.Table, Valid: k.Valid,
					Rows: counts[i], Select: "SELECT c.* " + k.from() + ";"})
			}
		}
	}
	return found, examined, left, nil
}

// unlimited takes the time limit off again. On a very busy server, the statement may exceed that
// limit itself.
func unlimited(ctx context.Context, c *pgx.Conn) (err error) {
	for range 5 {
		_, err = c.Exec(ctx, "SET statement_timeout = 0; "+pgdial.TablesOrViews, pgx.QueryExecModeSimpleProtocol)
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "57014" {
			break
		}
	}
	return err
}

// countOrphans counts the orphans of several foreign keys in one statement. −1 stands for a key
// that cannot be examined.
func countOrphans(ctx context.Context, c *pgx.Conn, keys []foreignKey, left time.Duration) ([]int64, error) {
	counts := make([]int64, len(keys))
	var b strings.Builder
	for i := range keys {
		if counts[i] = -1; keys[i].Plain && keys[i].Open && left > 0 {
			if b.Len() > 0 {
				b.WriteString(" UNION ALL ")
			}
			fmt.Fprintf(&b, "SELECT %d, pg_catalog.count(*) %s", i, keys[i].from())
		}
	}
	if b.Len() == 0 {
		return counts, nil
	}
	// The statement that takes the limit off again has to keep it, too.
	const least = 1000
	if _, err := c.Exec(ctx, fmt.Sprintf("SET statement_timeout = %d", max(left.Milliseconds(), least))); err != nil {
		return nil, err
	}
	rows, err := c.Query(ctx, b.String(), pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return nil, err
	}
	var i int
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&i, &n}, func() error { counts[i] = n; return nil })
	return counts, err
}

// foreignKeys returns the enforced foreign keys, starting with the smallest tables.
func foreignKeys(ctx context.Context, c *pgx.Conn) ([]foreignKey, error) {
	v := pgdial.Version(c.PgConn())
	enforced := ""
	if v >= 110000 {
		enforced = " AND k.conparentid = 0"
	}
	period := "false"
	if v >= 180000 {
		enforced += " AND k.conenforced"
		period = "k.conperiod"
	}
	// The server's own types have the server's own equality. The equality of an array or a row
	// calls that of its elements.
	plain := `NOT EXISTS (SELECT FROM pg_catalog.unnest(k.conpfeqop) o(oid) JOIN pg_catalog.pg_operator e ON e.oid = o.oid JOIN pg_catalog.pg_namespace x ON x.oid = e.oprnamespace
			JOIN pg_catalog.pg_type l ON l.oid = e.oprleft JOIN pg_catalog.pg_type g ON g.oid = e.oprright
			WHERE x.nspname <> 'pg_catalog' OR l.typnamespace <> x.oid OR g.typnamespace <> x.oid OR l.typtype <> 'b' AND l.typname <> 'anyenum' OR g.typtype <> 'b' AND g.typname <> 'anyenum')
		AND NOT EXISTS (SELECT FROM unnest(k.conkey, k.confkey) u(a, b) JOIN pg_catalog.pg_attribute ca ON ca.attrelid = k.conrelid AND ca.attnum = u.a
			JOIN pg_catalog.pg_attribute pa ON pa.attrelid = k.confrelid AND pa.attnum = u.b WHERE ca.attcollation <> pa.attcollation)`
	columns := func(of, numbers string) string {
		return `ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.unnest(` + numbers + `) WITH ORDINALITY u(n, i) JOIN pg_catalog.pg_attribute a ON a.attrelid = ` + of + ` AND a.attnum = u.n ORDER BY u.i)`
	}
	readable := func(table string) string {
		return `pg_catalog.has_schema_privilege(` + table + `.relnamespace, 'USAGE') AND pg_catalog.has_table_privilege(` + table + `.oid, 'SELECT') AND NOT pg_catalog.row_security_active(` + table + `.oid)`
	}
	rows, err := c.Query(ctx, `SELECT k.conname, n.nspname, t.relname, t.relkind::pg_catalog.text, m.nspname, p.relname, p.relkind::pg_catalog.text, k.convalidated, k.confmatchtype = 'f',
		`+columns("k.conrelid", "k.conkey")+`, `+columns("k.confrelid", "k.confkey")+`,
		ARRAY(SELECT pg_catalog.format('OPERATOR(%I.%s)', x.nspname, e.oprname) FROM pg_catalog.unnest(k.conpfeqop) WITH ORDINALITY o(oid, i) JOIN pg_catalog.pg_operator e ON e.oid = o.oid
			JOIN pg_catalog.pg_namespace x ON x.oid = e.oprnamespace ORDER BY o.i),
		NOT `+period+` AND `+plain+`, `+readable("t")+` AND `+readable("p")+`, greatest(t.relpages, 0)::pg_catalog.int8 + greatest(p.relpages, 0)
		FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class t ON t.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
		JOIN pg_catalog.pg_class p ON p.oid = k.confrelid JOIN pg_catalog.pg_namespace m ON m.oid = p.relnamespace
		WHERE k.contype = 'f'`+enforced+` AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgsluice') AND n.nspname !~ '^pg_' ORDER BY 15, 2, 3, 1`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[foreignKey])
}
