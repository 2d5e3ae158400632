package steps

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// deferred creates the objects that the load left for a phase of the cutover. It creates foreign
// keys as NOT VALID: they apply to new rows at once, without checking the existing rows. Finish
// checks these.
func deferred(ctx context.Context, s *session.Session, phase progress.Phase,
	patience time.Duration) (created int, failed []progress.Object, err error) {
	list, err := progress.Pending(ctx, s.OnTarget, s.Stream.ID, phase, "", "")
	if err != nil {
		return 0, nil, s.Target.Explain(err)
	}
	c := opener(s, patience)
	err = c.create(ctx, list)
	return c.created, c.failed, err
}

// makeObject creates an object and records that in the same transaction.
func makeObject(ctx context.Context, s *session.Session, o progress.Object) error {
	return pgx.BeginFunc(ctx, s.OnTarget, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, o.SQL, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		return progress.SetObject(ctx, s.OnTarget, o.ID, "done")
	})
}
