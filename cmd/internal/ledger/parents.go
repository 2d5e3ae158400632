package ledger

import (
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
)

// setParents returns the statements that give a table of the target the source's parents, or the
// source's partition bound. It returns none if it cannot tell several parents apart.
func setParents(o, t *inventory.Object) string {
	is, was := o.Fact("parents"), t.Fact("parents")
	if strings.Contains(is+was, ", ") || !strings.HasSuffix(o.Kind, "table") {
		return ""
	}
	table := qualified(t.Schema, t.Name)
	var sql []string
	switch {
	case was != "" && t.Fact("partition") != "":
		sql = append(sql, "ALTER TABLE "+was+" DETACH PARTITION "+table)
	case was != "":
		sql = append(sql, "ALTER TABLE "+table+" NO INHERIT "+was)
	}
	switch {
	case is != "" && o.Fact("partition") != "":
		bound := o.Definition
		if o.Kind == "partitioned table" {
			bound = bound[:max(0, strings.LastIndex(bound, " PARTITION BY "))]
		}
		sql = append(sql, "ALTER TABLE "+is+" ATTACH PARTITION "+table+" "+bound)
	case is != "":
		sql = append(sql, "ALTER TABLE "+table+" INHERIT "+is)
	}
	return strings.Join(sql, ";\n")
}
