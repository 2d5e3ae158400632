package write

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/format"
)

// The target may distribute the rows of a partitioned table in another way. A partition then has
// rows on the target that are in other partitions on the source. A recorded statement that removes
// a partition would remove those rows as well. It would also leave rows that the source no longer
// has.

// takesPartitions lists the tags of statements that may remove a partition from its tree.
var takesPartitions = []string{"ALTER TABLE", "DROP TABLE", "DROP SCHEMA", "DROP OWNED", "DROP TYPE",
	"DROP EXTENSION", "DROP FUNCTION", "DROP ACCESS METHOD", "DROP DOMAIN"}

// A scattered partition belongs to a tree whose rows the target distributes in another way.
type scattered struct {
	Leaf, Root         uint32
	Schema, Name       string
	RootSchema, Parent string
}

// scattered returns the scattered partitions if the statement may remove one.
func (l *lane) scattered(ctx context.Context, d *format.DDL) (list []scattered, err error) {
	if l.s.version < 100000 || !slices.Contains(takesPartitions, d.Type) {
		return nil, nil
	}
	row, err := l.s.ask(ctx, catalog.LeavesStatement(l.s.version))
	if err != nil {
		return nil, err
	}
	return list, json.Unmarshal([]byte(row[0]), &list)
}

// together refuses a statement that has removed a scattered partition from a tree that still
// exists.
func (l *lane) together(ctx context.Context, d *format.DDL, before []scattered) (refused, err error) {
	if len(before) == 0 {
		return nil, nil
	}
	now, err := l.scattered(ctx, d)
	if err != nil {
		return nil, err
	}
	for _, x := range before {
		if slices.ContainsFunc(now, func(y scattered) bool { return y.Leaf == x.Leaf && y.Root == x.Root }) {
			continue
		}
		row, err := l.s.ask(ctx, fmt.Sprintf("SELECT pg_catalog.count(*) FROM pg_catalog.pg_class WHERE oid = %d", x.Root))
		if err != nil {
			return nil, err
		}
		if row[0] == "0" {
			continue
		}
		root := text.Ident(x.RootSchema, x.Parent)
		return fault.New(fault.Failed,
			"it removes partition %s from %s, and that partition has other rows on the target than on the source",
			text.Ident(x.Schema, x.Name), root).
			WithDetail("The target distributes the rows of %s among its partitions differently, so that removing the partition there would not remove the same rows.", root).
			WithHint("On the target, in one transaction: delete from %s the rows that the source has removed, copy the other rows of the partition to a table, remove the partition, and insert the copy into %[1]s. "+
				"Then start again with --on-conflict skip. Or load the whole table again afterwards: pgextract --slot … --table '%[1]s' --reload | pgapply", root), nil
	}
	return nil, nil
}
