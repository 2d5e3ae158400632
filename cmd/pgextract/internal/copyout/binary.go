package copyout

import (
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/format"
)

// binarySafe has the types whose binary format is the same on every server. The value is true where
// the text format costs the servers more than the binary one. Types that are sent as OIDs (regclass
// and the like) are left out, and so are types whose format names other types by OID (composites
// and arrays of them).
var binarySafe = map[string]bool{
	"boolean": false, "smallint": false, "integer": false, "bigint": false, "oid": false, "text": false, "character varying": false,
	"bpchar": false, `"char"`: false, "name": false, "json": false, "xml": false, "jsonb": false,
	"real": true, "double precision": true, "numeric": true, "money": true, "uuid": true, "bytea": true,
	"date": true, "time without time zone": true, "time with time zone": true, "timestamp without time zone": true,
	"timestamp with time zone": true, "interval": true, "inet": true, "cidr": true, "macaddr": true, "macaddr8": true,
	`"bit"`: true, "bit varying": true, "point": true, "lseg": true, "path": true, "box": true,
	"polygon": true, "line": true, "circle": true,
	"int4range": true, "int8range": true, "numrange": true, "tsrange": true, "tstzrange": true, "daterange": true,
	"int4multirange": true, "int8multirange": true, "nummultirange": true, "tsmultirange": true,
	"tstzmultirange": true, "datemultirange": true,
}

// Format returns the COPY format for a table: binary if all its types are safe and at least one
// gains by it.
func Format(t *catalog.Table) string {
	gains := false
	for _, c := range t.Columns {
		if c.Generated {
			continue
		}
		element, isArray := strings.CutSuffix(c.Type, "[]")
		gain, safe := binarySafe[element]
		// A user's type may have the name of a built-in one, but has a higher OID.
		if !safe || c.OID >= 16384 {
			return format.CopyText
		}
		gains = gains || gain || isArray
	}
	if gains {
		return format.CopyBinary
	}
	return format.CopyText
}
