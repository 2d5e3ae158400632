package write

import (
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
)

// truncate returns the statement that empties the tables of a truncate. A partition tree whose rows
// go through the root is emptied as a whole or not at all: which of its rows belong to one
// partition of the source is not known.
func truncate(op *plan.TruncateOp) (string, error) {
	var names []string
	leaves := make(map[plan.Root][]*plan.Table)
	for _, t := range op.Tables {
		switch {
		case t.Root != nil:
			if leaves[*t.Root] = append(leaves[*t.Root], t); len(leaves[*t.Root]) == t.Root.Leaves {
				names = append(names, plan.QuoteIdent(t.Root.Schema)+"."+plan.QuoteIdent(t.Root.Name))
			}
		case t.Only:
			names = append(names, "ONLY "+t.QualifiedName())
		default:
			names = append(names, t.QualifiedName())
		}
	}
	for root, list := range leaves {
		if len(list) != root.Leaves {
			return "", fault.New(fault.Failed,
				"the source has truncated %d of the %d partitions of table %s.%s, whose rows are in other partitions on the target than on the source",
				len(list), root.Leaves, root.Schema, root.Name).
				WithHint("Load the table again while sync is stopped: pgextract --slot … --table %s --reload | pgapply. Then start sync again.",
					shellPattern(list[0].Relation))
		}
	}
	sql := "TRUNCATE " + strings.Join(names, ", ")
	if op.RestartIdentity {
		sql += " RESTART IDENTITY"
	}
	return sql, nil
}
