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
	tables, err := progress.Tables(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return r, nil, s.Target.Explain(err)
	}
	there = make(map[[2]string]bool)
	for _, x := range tables {
		there[[2]string{x.Schema, x.Table}] = true
	}
	r, err = renames(ctx, s, tables)
	return r, there, err
}

func renames(ctx context.Context, s *session.Session, tables []progress.TableInfo) (r ledger.Renames, err error) {
	if r.Schemas, err = progress.RenamedSchemas(ctx, s.OnTarget, s.Stream.ID); err != nil {
		return r, s.Target.Explain(err)
	}
	r.Tables = make(map[[2]string][2]string)
	for _, x := range tables {
		if x.Schema != x.SourceSchema || x.Table != x.SourceTable {
			r.Tables[[2]string{x.SourceSchema, x.SourceTable}] = [2]string{x.Schema, x.Table}
		}
	}
	return r, nil
}
