package catalog

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
)

// A Relation is a table as a server's catalog has it.
type Relation struct {
	OID           uint32
	Kind          string // pg_class.relkind: r ordinary, p partitioned, f foreign, v view
	Columns       []Column
	Unique        []Unique
	RowSecurity   bool // active for the session's role
	InsteadOrRule bool
	Condition     string // for a configuration table of an extension: which rows are the user's
	Referenced    bool   // by a foreign key of another table
}

// A Column of a Relation. Dropped columns are left out.
type Column struct {
	Number    int16
	Name      string
	OID       uint32 // of the type
	Type      string // format_type without modifiers
	TypeMod   int32
	NotNull   bool
	Generated bool
	Identity  string // a, d, or empty
	Default   bool
	Equal     bool // the type has an equality operator
}

// Unique is a valid unique index, not partial and without expressions.
type Unique struct {
	Name       string
	Columns    []string
	Primary    bool
	Deferrable bool
	NotNull    bool // all its columns are
}

// Lookup reads a table. It returns nil if there is none of that name.
func Lookup(ctx context.Context, c *pgx.Conn, schema, name string) (*Relation, error) {
	v := pgdial.Version(c.PgConn())
	var r Relation
	err := c.QueryRow(ctx, `SELECT c.oid, c.relkind::text, pg_catalog.row_security_active(c.oid), c.relhasrules
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2
		AND c.relkind IN ('r', 'p', 'f', 'v', 'm')`, schema, name).Scan(&r.OID, &r.Kind, &r.RowSecurity, &r.InsteadOrRule)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	generated, identity := "''", "''"
	if v >= 120000 {
		generated = "a.attgenerated::text"
	}
	if v >= 100000 {
		identity = "a.attidentity::text"
	}
	rows, err := c.Query(ctx, `SELECT a.attnum, a.attname, a.atttypid, pg_catalog.format_type(a.atttypid, -1), a.atttypmod, a.attnotnull, `+generated+` <> '',
		`+identity+`, a.atthasdef, `+hasEquality("a.atttypid")+`
		FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`, r.OID)
	if err != nil {
		return nil, err
	}
	r.Columns, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (Column, error) {
		var col Column
		err := row.Scan(&col.Number, &col.Name, &col.OID, &col.Type, &col.TypeMod, &col.NotNull, &col.Generated, &col.Identity, &col.Default, &col.Equal)
		return col, err
	})
	if err != nil {
		return nil, err
	}
	attnames := `(SELECT pg_catalog.array_agg(a.attname::text ORDER BY k.n) FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n)
		JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum WHERE k.n <= i.` + keyColumns(v) + `)`
	notNull := `(SELECT pg_catalog.bool_and(a.attnotnull) FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n)
		JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum WHERE k.n <= i.` + keyColumns(v) + `)`
	rows, err = c.Query(ctx, `SELECT x.relname, `+attnames+`, i.indisprimary, NOT i.indimmediate, `+notNull+`
		FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
		WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL ORDER BY i.indisprimary DESC, x.relname`, r.OID)
	if err != nil {
		return nil, err
	}
	r.Unique, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (Unique, error) {
		var u Unique
		err := row.Scan(&u.Name, &u.Columns, &u.Primary, &u.Deferrable, &u.NotNull)
		return u, err
	})
	return &r, err
}

// LookupAll reads kind, columns (number, name, type, generated, identity), Condition and Referenced of many tables at once, without their keys.
func LookupAll(ctx context.Context, c *pgx.Conn, names [][2]string) (map[[2]string]*Relation, error) {
	v := pgdial.Version(c.PgConn())
	generated, identity := "false", "''"
	if v >= 120000 {
		generated = "a.attgenerated <> ''"
	}
	if v >= 100000 {
		identity = "a.attidentity::text"
	}
	schemas, tables := make([]string, len(names)), make([]string, len(names))
	for i, n := range names {
		schemas[i], tables[i] = n[0], n[1]
	}
	rows, err := c.Query(ctx, `SELECT n.nspname, c.relname, c.oid, c.relkind::text, coalesce(a.attnum, 0), coalesce(a.attname, ''), coalesce(a.atttypid, 0),
		coalesce(pg_catalog.format_type(a.atttypid, -1), ''), coalesce(`+generated+`, false), coalesce(`+identity+`, ''),
		coalesce((SELECT x.extcondition[k.n] FROM pg_catalog.pg_extension x, pg_catalog.generate_subscripts(x.extconfig, 1) AS k(n) WHERE x.extconfig[k.n] = c.oid), ''),
		EXISTS (SELECT FROM pg_catalog.pg_constraint f WHERE f.contype = 'f' AND f.confrelid = c.oid AND f.conrelid <> c.oid)
		FROM unnest($1::text[], $2::text[]) AS v(s, t) JOIN pg_catalog.pg_namespace n ON n.nspname = v.s JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = v.t
		LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE c.relkind IN ('r', 'p', 'f', 'v') ORDER BY c.oid, a.attnum`, schemas, tables)
	if err != nil {
		return nil, err
	}
	found := make(map[[2]string]*Relation)
	var key [2]string
	var oid uint32
	var kind, condition string
	var referenced bool
	var col Column
	_, err = pgx.ForEachRow(rows, []any{&key[0], &key[1], &oid, &kind, &col.Number, &col.Name, &col.OID, &col.Type, &col.Generated, &col.Identity, &condition, &referenced}, func() error {
		r := found[key]
		if r == nil {
			r = &Relation{OID: oid, Kind: kind, Condition: condition, Referenced: referenced}
			found[key] = r
		}
		if col.Number > 0 {
			r.Columns = append(r.Columns, col)
		}
		return nil
	})
	return found, err
}

// keyColumns is the column of pg_index that counts an index's key columns, without those that INCLUDE adds.
func keyColumns(version int) string {
	if version >= 110000 {
		return "indnkeyatts"
	}
	return "indnatts"
}

// hasEquality is an expression that tells whether "=" on a type means equality: whether the type, the base type of a domain, or the elements
// of an array, have a default operator class for btree or hash, directly or as another type with the same bytes. (box has a "=" that compares areas.)
func hasEquality(typ string) string {
	hasClass := func(t string) string {
		return `EXISTS (SELECT FROM pg_catalog.pg_opclass k JOIN pg_catalog.pg_am m ON m.oid = k.opcmethod
			WHERE m.amname IN ('btree', 'hash') AND k.opcdefault AND (k.opcintype = ` + t + ` OR EXISTS (SELECT FROM pg_catalog.pg_cast s
			WHERE s.castsource = ` + t + ` AND s.casttarget = k.opcintype AND s.castmethod = 'b' AND s.castcontext = 'i')))`
	}
	return `(SELECT b.typtype IN ('e', 'r', 'm') OR ` + hasClass("b.oid") + ` OR b.typlen = -1 AND b.typelem <> 0 AND (e.typtype IN ('e', 'r', 'm') OR ` + hasClass("b.typelem") + `)
		FROM pg_catalog.pg_type b LEFT JOIN pg_catalog.pg_type e ON e.oid = b.typelem
		WHERE b.oid = (WITH RECURSIVE d(oid, base) AS (SELECT y.oid, y.typbasetype FROM pg_catalog.pg_type y WHERE y.oid = ` + typ + `
			UNION ALL SELECT y.oid, y.typbasetype FROM d JOIN pg_catalog.pg_type y ON y.oid = d.base) SELECT d.oid FROM d WHERE d.base = 0))`
}
