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

// Format returns the COPY format for a table: binary if all its types are safe. Text is not faster
// for any type; scripts/bench formats compares them.
func Format(t *catalog.Table) string {
	for _, c := range t.Columns {
		if c.Generated {
			continue
		}
		// A user's type may have the name of a built-in one, but has a higher OID.
		if c.OID >= 16384 || !binarySafe[strings.TrimSuffix(c.Type, "[]")] {
			return format.CopyText
		}
	}
	return format.CopyBinary
}
