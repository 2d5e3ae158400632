package ddl

import (
	"strings"

	"github.com/pgsluice/pgsluice/format"
)

// named sets the record's schema, name and table from the first object that the statement changed,
// for filters that select by name. Some kinds of addresses contain the table. That of an index does
// not.
func named(d *format.DDL) {
	if len(d.Objects) == 0 {
		return
	}
	o := d.Objects[0]
	switch {
	case len(o.Names) == 1:
		d.Name = o.Names[0]
	case len(o.Names) == 2:
		d.Schema, d.Name = o.Names[0], o.Names[1]
		switch o.Type {
		case "table", "view", "materialized view", "foreign table":
			d.Table = d.Name
		}
	case len(o.Names) == 3:
		d.Schema, d.Name = o.Names[0], o.Names[2]
		if strings.HasPrefix(o.Type, "operator ") { // the access method comes first
			d.Schema = o.Names[1]
		}
		switch {
		case strings.HasSuffix(o.Type, " column"), o.Type == "table constraint", o.Type == "trigger",
			o.Type == "rule", o.Type == "policy", o.Type == "default value":
			d.Table = o.Names[1]
		}
	}
}
