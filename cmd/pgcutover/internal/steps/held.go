package steps

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/hold"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// release switches on again what waits for a cutover that will not come.
func release(ctx context.Context, s *session.Session) error {
	if s.Stream.Ended {
		return nil
	}
	list, err := progress.Pending(ctx, s.OnTarget, s.Stream.ID, progress.PhaseCutover, "", "")
	if err != nil {
		return s.Target.Explain(err)
	}
	for _, o := range list {
		if !hold.Is(o.Type) {
			continue
		}
		err := pgx.BeginFunc(ctx, s.OnTarget, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, o.SQL, pgx.QueryExecModeSimpleProtocol); err != nil {
				return err
			}
			return progress.SetObject(ctx, s.OnTarget, o.ID, "done")
		})
		var pg *pgconn.PgError
		if errors.As(err, &pg) && !isGone(pg) {
			return fault.New(fault.Config, "could not switch on again what was to wait for the cutover: %w", err).
				WithHint("Mend the cause, or do it by hand on the target: %s Then start again; what is done is not done twice.", o.SQL)
		}
		if err != nil && pg == nil {
			return s.Target.Explain(err)
		}
	}
	return nil
}

// holdAgain takes back what an open that was not completed has switched on: sync goes on.
func holdAgain(ctx context.Context, s *session.Session) error {
	replica := false
	if _, err := s.OnTarget.Exec(ctx, "SET session_replication_role = replica"); err == nil {
		replica = true
		if _, err := s.OnTarget.Exec(ctx, "RESET session_replication_role"); err != nil {
			return s.Target.Explain(err)
		}
	}
	n, err := hold.Tables(ctx, s.OnTarget, s.Stream.ID, replica, hold.StreamTables(s.Stream.ID))
	if err == nil && n > 0 {
		s.Log.Info(fmt.Sprintf("triggers, rules and row level security of the target wait for the cutover again: %d", n))
	}
	return s.Target.Explain(err)
}
