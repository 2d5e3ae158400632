package extract

import (
	"cmp"
	"context"
	"slices"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgextract/internal/copyout"
	"github.com/pgsluice/pgsluice/format"
)

// plan splits the tables into parts, and returns those that this process reads.
func (l *Load) plan(ctx context.Context, snapshot *slot.Snapshot, tables []*catalog.Table, version int) ([]*copyout.Part, error) {
	jobs := l.Jobs
	if l.Parts > 0 {
		// All processes must come to the same plan, whatever has grown meanwhile: what is not in
		// the token is small.
		jobs = l.Parts
		for _, t := range tables {
			t.Pages = l.token.pages[t.ID]
			t.Bytes = t.Pages * copyout.PageSize
		}
		slices.SortFunc(tables, func(a, b *catalog.Table) int {
			return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.ID, b.ID))
		})
	}
	copyFormat := l.Format
	if copyFormat == "" && l.DataOnly {
		// The schema was made by hand: a column may be a bigint there and an integer here.
		copyFormat = format.CopyText
	}
	parts, err := copyout.Plan(ctx, snapshot.Keep, tables, jobs, version, copyFormat)
	if err != nil {
		return nil, l.Server.Explain(err)
	}
	if l.Parts > 0 {
		var mine []*copyout.Part
		for i, p := range parts {
			if i%l.Parts == l.Part-1 {
				mine = append(mine, p)
			}
		}
		parts = mine
	}
	return parts, nil
}

func ordinary(tables []*catalog.Table) []*catalog.Table {
	var list []*catalog.Table
	for _, t := range tables {
		if t.Kind == "r" {
			list = append(list, t)
		}
	}
	return list
}
