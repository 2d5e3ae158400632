package verify

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
)

// merge combines the partitions of a tree into one pair if the target partitions the table
// differently from the source.
func (v *verification) merge(ctx context.Context, pairs []*pair) ([]*pair, error) {
	leaves, err := catalog.Leaves(ctx, v.target.Keep)
	if err != nil || len(leaves) == 0 {
		return pairs, v.Target.Explain(err)
	}
	roots := make(map[[2]string]*catalog.Root)
	for _, l := range leaves {
		roots[[2]string{l.Schema, l.Name}] = l.Root
	}
	var list []*pair
	merged := make(map[*catalog.Root]*pair)
	for _, p := range pairs {
		root := roots[[2]string{p.targetSchema, p.targetName}]
		if root == nil || p.problem != "" {
			list = append(list, p)
			continue
		}
		leaf, bytes := catalog.Name{Schema: p.schema, Name: p.name}, p.bytes
		to := merged[root]
		if to == nil {
			to, merged[root] = p, p
			p.schema, p.name, p.targetSchema, p.targetName, p.whole, p.bytes = root.Schema, root.Name, root.Schema, root.Name, true, 0
			list = append(list, p)
		}
		to.leaves = append(to.leaves, leaf)
		to.bytes += bytes
	}
	return list, nil
}

// fromLeaves returns an expression that reads the source's partitions as one table.
func (p *pair) fromLeaves() string {
	columns := make([]string, len(p.names))
	for i, name := range p.names {
		columns[i] = pgx.Identifier{name}.Sanitize()
	}
	parts := make([]string, len(p.leaves))
	for i, l := range p.leaves {
		parts[i] = "SELECT " + strings.Join(columns, ", ") + " FROM ONLY " + pgx.Identifier{l.Schema, l.Name}.Sanitize()
	}
	return "(" + strings.Join(parts, " UNION ALL ") + ") AS leaves"
}
