package catalog

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
)

// A Relation is a table as described by a server's catalog.
type Relation struct {
	OID           uint32
	Kind          string // pg_class.relkind: r ordinary, p partitioned, f foreign, v view
	Columns       []Column
	Unique        []Unique
	RowSecurity   bool // active for the session's role
	InsteadOrRule bool
	Condition     string // of an extension's configuration table: selects the user's rows
	Referenced    bool   // by a foreign key of another table
	Root          *Root  // of a partition
}

// A Column is a column of a Relation. Dropped columns are left out.
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
	Equal     *Operator // of the type's default operator class; nil if there is none
	Exact     bool      // equal values have the same text
	Carrier   *Carrier  // nil if a cast from text reads the type's values as its input function does
}

// A Carrier is the array type that carries values of a type whose cast from text must not be used.
type Carrier struct {
	Type      string // empty if there is no such type
	Delimiter string
}

// Unique is a valid unique index that is not partial and has no expressions.
type Unique struct {
	Name       string
	Columns    []string
	Primary    bool
	Deferrable bool
	NotNull    bool // all of its columns are NOT NULL
	// for each of Columns, from the index's operator class; nil: the type's own
	Equal []*Operator
}

// Lookup reads a table. It returns nil if there is no such table.
func Lookup(ctx context.Context, c *pgx.Conn, schema, name string) (*Relation, error) {
	var text string
	err := c.QueryRow(ctx, LookupStatement(pgdial.Version(c.PgConn())), schema, name).Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return ParseRelation(text)
}

// LookupStatement returns the query of Lookup, for sessions that do not use the driver. Its
// parameters are the names of the schema and the table. Its result is at most one row with one
// column, which ParseRelation reads.
func LookupStatement(version int) string {
	generated, identity := "false", "''"
	if version >= 120000 {
		generated = "a.attgenerated <> ''"
	}
	if version >= 100000 {
		identity = "a.attidentity::pg_catalog.text"
	}
	attributes := func(what string) string {
		return `(SELECT ` + what + ` FROM pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY AS k(attnum, n)
			JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum WHERE k.n <= i.` + keyColumns(version) + `)`
	}
	return `SELECT pg_catalog.json_build_object('OID', c.oid::bigint, 'Kind', c.relkind::pg_catalog.text, 'RowSecurity', pg_catalog.row_security_active(c.oid), 'InsteadOrRule', c.relhasrules,
		'Columns', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object('Number', a.attnum, 'Name', a.attname, 'OID', a.atttypid::bigint,
			'Type', pg_catalog.format_type(a.atttypid, -1), 'TypeMod', a.atttypmod, 'NotNull', a.attnotnull, 'Generated', ` + generated + `,
			'Identity', ` + identity + `, 'Default', a.atthasdef, 'Equal', ` + equality("a.atttypid") + `,
			'Exact', ` + exact("a.atttypid", "a.attcollation", version) + `, 'Carrier', ` + carrier("a.atttypid") + `) ORDER BY a.attnum)
			FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
		'Unique', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object('Name', x.relname, 'Primary', i.indisprimary, 'Deferrable', NOT i.indimmediate,
			'Columns', ` + attributes("pg_catalog.json_agg(a.attname ORDER BY k.n)") + `, 'NotNull', ` + attributes("pg_catalog.bool_and(a.attnotnull)") + `,
			'Equal', ` + attributes("pg_catalog.json_agg("+indexEquality+" ORDER BY k.n)") + `) ORDER BY i.indisprimary DESC, x.relname)
			FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
			WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL),
		'Root', ` + rootOf(version) + `)::pg_catalog.text
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1::pg_catalog.text AND c.relname = $2::pg_catalog.text AND c.relkind IN ('r', 'p', 'f', 'v', 'm')`
}

// ParseRelation parses the result of LookupStatement.
func ParseRelation(text string) (*Relation, error) {
	var r Relation
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return nil, err
	}
	return &r, nil
}

// LookupAll reads the kind, columns (number, name, type, modifier, generated, identity), Condition
// and Referenced of many tables at once. It does not read their keys.
func LookupAll(ctx context.Context, c *pgx.Conn, names [][2]string) (map[[2]string]*Relation, error) {
	v := pgdial.Version(c.PgConn())
	generated, identity := "false", "''"
	if v >= 120000 {
		generated = "a.attgenerated <> ''"
	}
	if v >= 100000 {
		identity = "a.attidentity::pg_catalog.text"
	}
	schemas, tables := make([]string, len(names)), make([]string, len(names))
	for i, n := range names {
		schemas[i], tables[i] = n[0], n[1]
	}
	rows, err := c.Query(ctx, `SELECT n.nspname, c.relname, c.oid, c.relkind::pg_catalog.text, coalesce(a.attnum, 0), coalesce(a.attname, ''), coalesce(a.atttypid, 0),
		coalesce(pg_catalog.format_type(a.atttypid, -1), ''), coalesce(a.atttypmod, -1), coalesce(`+generated+`, false), coalesce(`+identity+`, ''),
		coalesce((SELECT x.extcondition[k.n] FROM pg_catalog.pg_extension x, pg_catalog.generate_subscripts(x.extconfig, 1) AS k(n) WHERE x.extconfig[k.n] = c.oid), ''),
		EXISTS (SELECT FROM pg_catalog.pg_constraint f WHERE f.contype = 'f' AND f.confrelid = c.oid AND f.conrelid <> c.oid)
		FROM unnest($1::pg_catalog.text[], $2::pg_catalog.text[]) AS v(s, t) JOIN pg_catalog.pg_namespace n ON n.nspname = v.s JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = v.t
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
	_, err = pgx.ForEachRow(rows, []any{&key[0], &key[1], &oid, &kind, &col.Number, &col.Name, &col.OID,
		&col.Type, &col.TypeMod, &col.Generated, &col.Identity, &condition, &referenced}, func() error {
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

// keyColumns is the column of pg_index with the number of an index's key columns, which excludes
// INCLUDE columns.
func keyColumns(version int) string {
	if version >= 110000 {
		return "indnkeyatts"
	}
	return "indnatts"
}
