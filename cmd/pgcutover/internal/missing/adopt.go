package missing

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// current is settled. Objects that wait for the cutover, and that the source has changed since the
// load, get the source's statements first: nobody uses them yet.
func current(ctx context.Context, s *session.Session) (*Result, error) {
	r, err := settled(ctx, s)
	if err != nil {
		return nil, err
	}
	n := 0
	err = pgx.BeginFunc(ctx, s.OnTarget, func(tx pgx.Tx) error {
		for _, l := range r.Lines {
			if !l.Waits() || l.Allowed {
				continue
			}
			n++
			for _, sql := range l.SQL {
				if _, err := tx.Exec(ctx, sql); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil || n == 0 {
		return r, s.Target.Explain(err)
	}
	s.Log.Info(count.Of(n, "object") + " that the cutover creates now as on the source")
	return settled(ctx, s)
}
