package catalog

// An Operator is the equality operator of an operator class. It needs its schema: a lookup by name
// alone may find another operator, or none.
type Operator struct {
	Schema, Name string
	Left         string // type to cast both sides to; empty if no cast is needed
	// type to read a value as, where the operator does not determine it (a record)
	Read      string
	Base      string // of a domain, where the operator does not accept the domain
	Collation string // of the index, quoted; empty for the column's own
}

// equality is an expression for the Operator that decides whether two values of a type are equal.
// It comes from the default btree or hash operator class of the type (the base type of a domain),
// of a type with the same binary representation, or of the elements of an array. It is NULL for a
// type without equality. (The "=" of box is not one: it compares areas.) It is also NULL if the
// server could take another operator for it: see chosen.
func equality(typ string) string {
	// The type itself comes before the types that it can be coerced to.
	class := func(what, t string) string {
		return `(SELECT ` + what + ` FROM (SELECT 1, ` + t + ` UNION ALL SELECT 2, c.casttarget FROM pg_catalog.pg_cast c
				WHERE c.castsource = ` + t + ` AND c.castmethod = 'b' AND c.castcontext = 'i') v(n, typ) JOIN pg_catalog.pg_opclass k ON k.opcintype = v.typ
			JOIN pg_catalog.pg_am m ON m.oid = k.opcmethod
			JOIN pg_catalog.pg_amop p ON p.amopfamily = k.opcfamily AND p.amoplefttype = k.opcintype AND p.amoprighttype = k.opcintype
				AND p.amopstrategy = CASE m.amname WHEN 'btree' THEN 3 ELSE 1 END AND p.amoppurpose = 's'
			JOIN pg_catalog.pg_operator o ON o.oid = p.amopopr JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace
			WHERE m.amname IN ('btree', 'hash') AND k.opcdefault ORDER BY v.n, m.amname LIMIT 1)`
	}
	// PostgreSQL provides the equality of enums, ranges and arrays.
	inPgCatalog := `pg_catalog.json_build_object('Schema', 'pg_catalog', 'Name', '=', 'Base', CASE WHEN b.typtype = 'e' AND b.oid <> ` + typ + ` THEN pg_catalog.format_type(b.oid, -1) END)`
	operator := `pg_catalog.json_build_object('Schema', s.nspname, 'Name', o.oprname, 'Left', CASE WHEN o.oprleft <> b.oid THEN pg_catalog.format_type(o.oprleft, -1) END)`
	return `(SELECT coalesce(` + class(operator, "b.oid") + `, CASE WHEN (b.typtype IN ('e', 'r', 'm')
			OR b.typlen = -1 AND b.typelem <> 0 AND (e.typtype IN ('e', 'r', 'm') OR ` + class("true", "b.typelem") + `))
			AND ` + chosen("b.oid") + ` THEN ` + inPgCatalog + ` END)
		FROM pg_catalog.pg_type b LEFT JOIN pg_catalog.pg_type e ON e.oid = b.typelem WHERE b.oid = ` + baseType(typ) + `)`
}

// indexEquality is an expression for the Operator by which the unique index i compares values of
// its k.n-th column, a. It is NULL if the index has no such operator.
var indexEquality = `(SELECT pg_catalog.json_build_object('Schema', s.nspname, 'Name', o.oprname,
			'Left', CASE WHEN t.typtype <> 'p' AND t.oid <> a.atttypid THEN pg_catalog.format_type(t.oid, -1) END, 'Read', CASE WHEN t.oid = 2249 THEN pg_catalog.format_type(a.atttypid, -1) END,
			'Base', CASE WHEN t.oid = 3500 AND a.atttypid <> ` + baseType("a.atttypid") + ` THEN pg_catalog.format_type(` + baseType("a.atttypid") + `, -1) END,
			'Collation', (SELECT pg_catalog.quote_ident(cs.nspname) || '.' || pg_catalog.quote_ident(co.collname) FROM pg_catalog.pg_collation co
				JOIN pg_catalog.pg_namespace cs ON cs.oid = co.collnamespace WHERE co.oid = i.indcollation[k.n - 1] AND co.oid <> a.attcollation))
		FROM pg_catalog.pg_opclass oc JOIN pg_catalog.pg_am m ON m.oid = oc.opcmethod AND m.amname = 'btree' JOIN pg_catalog.pg_type t ON t.oid = oc.opcintype
		JOIN pg_catalog.pg_amop p ON p.amopfamily = oc.opcfamily AND p.amoplefttype = oc.opcintype AND p.amoprighttype = oc.opcintype AND p.amopstrategy = 3 AND p.amoppurpose = 's'
		JOIN pg_catalog.pg_operator o ON o.oid = p.amopopr JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace WHERE oc.oid = i.indclass[k.n - 1]
			AND (t.typtype <> 'p' OR ` + chosen(baseType("a.atttypid")) + `))`

// chosen is an expression that is false if a type has an implicit cast of a user. The server may
// then cast both values, and compare the results, instead of the values themselves. The operators
// of enums, ranges, arrays and records do not name the type, so nothing in SQL prevents that.
func chosen(typ string) string {
	return `NOT EXISTS (SELECT FROM pg_catalog.pg_cast u WHERE u.castsource = ` + typ + ` AND u.castcontext = 'i' AND u.castmethod <> 'b' AND u.oid >= 16384)`
}

// carrier is an expression for the Carrier of a type. It is NULL unless a user has created a cast
// from text with a function, which may read values in another way than the type's input function.
// The cast to regclass, which rejects numbers, is the only one of the server's own that does.
func carrier(typ string) string {
	return `(SELECT pg_catalog.json_build_object('Type', CASE WHEN b.typarray <> 0 THEN pg_catalog.format_type(b.typarray, -1) END, 'Delimiter', b.typdelim)
		FROM pg_catalog.pg_type b JOIN pg_catalog.pg_cast u ON u.castsource = 25 AND u.casttarget = b.oid
		WHERE b.oid = ` + baseType(typ) + ` AND u.castmethod = 'f' AND (u.oid >= 16384 OR b.oid = 2205))`
}

// exact is an expression that tells whether equal values of a type always have the same text. It is
// true for some of PostgreSQL's own types, if their collation is deterministic, and for enums.
// Equal values of numeric, interval, float, jsonb and types built from other types can have
// different texts.
func exact(typ, collation string, version int) string {
	deterministic := "true"
	if version >= 120000 {
		deterministic = `NOT EXISTS (SELECT FROM pg_catalog.pg_collation x WHERE x.oid = ` + collation + ` AND NOT x.collisdeterministic)`
	}
	// bool, bytea, "char", name, int8, int2, int4, oid, cidr, macaddr, inet, money, date, time,
	// timestamp, timestamptz, timetz, bit, varbit, uuid, pg_lsn; text, varchar.
	return `(SELECT b.typtype = 'e' OR b.oid IN (16, 17, 18, 19, 20, 21, 23, 26, 650, 829, 869, 790, 1082, 1083, 1114, 1184, 1266, 1560, 1562, 2950, 3220)
			OR b.oid IN (25, 1043) AND ` + deterministic + ` FROM pg_catalog.pg_type b WHERE b.oid = ` + baseType(typ) + `)`
}

// baseType is an expression for the base type of a domain. Any other type is its own base type.
func baseType(typ string) string {
	return `CASE WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_type y WHERE y.oid = ` + typ + ` AND y.typtype = 'd') THEN ` + typ + `
			ELSE (WITH RECURSIVE d(oid, base) AS (SELECT y.oid, y.typbasetype FROM pg_catalog.pg_type y WHERE y.oid = ` + typ + `
			UNION ALL SELECT y.oid, y.typbasetype FROM d JOIN pg_catalog.pg_type y ON y.oid = d.base) SELECT d.oid FROM d WHERE d.base = 0) END`
}
