package copyout

import (
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/format"
)

// binarySafe has the types whose binary format is the same on every server. Types that are sent as
// OIDs (regclass and the like) are left out, and so are types whose format names other types by OID
// (composites and arrays of them).
var binarySafe = set("boolean", "smallint", "integer", "bigint", "oid", "text", "character varying", "bpchar", `"char"`, "name",
	"json", "xml", "jsonb", "real", "double precision", "numeric", "money", "uuid", "bytea",
	"date", "time without time zone", "time with time zone", "timestamp without time zone", "timestamp with time zone", "interval",
	"inet", "cidr", "macaddr", "macaddr8", `"bit"`, "bit varying",
	"point", "lseg", "path", "box", "polygon", "line", "circle",
	"int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange",
	"int4multirange", "int8multirange", "nummultirange", "tsmultirange", "tstzmultirange", "datemultirange")

func set(names ...string) map[string]bool {
	m := make(map[string]bool)
	for _, name := range names {
		m[name] = true
	}
	return m
}

// ofTime reports whether values of a type are times. Before version 10, a server may have been
// built to store and send them as floating-point numbers.
func ofTime(typ string) bool {
	return typ == "interval" || strings.HasPrefix(typ, "time") || strings.HasPrefix(typ, "ts")
}

// Format returns the COPY format for a table: binary if all its types are safe. Text is not faster
// for any type; scripts/bench formats compares them. floats says that the server sends times as
// floating-point numbers.
func Format(t *catalog.Table, floats bool) string {
	for _, c := range t.Columns {
		if c.Generated {
			continue
		}
		typ := strings.TrimSuffix(c.Type, "[]")
		// A user's type may have the name of a built-in one, but has a higher OID.
		if c.OID >= 16384 || !binarySafe[typ] || floats && ofTime(typ) {
			return format.CopyText
		}
	}
	return format.CopyBinary
}
