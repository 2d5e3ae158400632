package missing

import (
	"context"

	"github.com/pgsluice/pgsluice/cmd/internal/ledger"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Renames returns the objects that have another name on the target, and the target's tables that
// were migrated.
func Renames(ctx context.Context, s *session.Session) (r ledger.Renames, there map[[2]string]bool, err error) {
	if r.Schemas, err = progress.RenamedSchemas(ctx, s.OnTarget, s.Stream.ID); err != nil {
		return r, nil, s.Target.Explain(err)
	}
	tables, err := progress.Tables(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return r, nil, s.Target.Explain(err)
	}
	r.Tables, there = make(map[[2]string][2]string), make(map[[2]string]bool)
	for _, x := range tables {
		there[[2]string{x.Schema, x.Table}] = true
		if x.Schema != x.SourceSchema || x.Table != x.SourceTable {
			r.Tables[[2]string{x.SourceSchema, x.SourceTable}] = [2]string{x.Schema, x.Table}
		}
	}
	return r, there, nil
}
