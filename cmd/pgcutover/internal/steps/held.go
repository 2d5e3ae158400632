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

// release enables the triggers, rules and row-level security that were disabled until a cutover,
// when no cutover will follow.
func release(ctx context.Context, s *session.Session) error {
	if s.Stream.Ended {
		return nil
	}
	list, err := progress.Pending(ctx, s.OnTarget, s.Stream.ID, progress.PhaseCutover, "", "")
	if err != nil {
		return s.Target.Explain(err)
	}
	for _, o := range list {
		if !hold.Is(o.Type) && s.Stream.BackOf == "" { // else it was taken from an old primary
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
			return fault.New(fault.Config, "could not re-enable what was disabled until the cutover: %w", err).
				WithHint("Correct the cause, or execute on the target: %s Then run the same command again; it skips what is done.", o.SQL)
		}
		if err != nil && pg == nil {
			return s.Target.Explain(err)
		}
	}
	return nil
}

// holdAgain disables what an incomplete open has enabled: sync continues.
func holdAgain(ctx context.Context, s *session.Session) error {
	replica := false
	if _, err := s.OnTarget.Exec(ctx, "SET session_replication_role = replica"); err == nil {
		replica = true
		if _, err := s.OnTarget.Exec(ctx, "RESET session_replication_role"); err != nil {
			return s.Target.Explain(err)
		}
	}
	if replica = replica && s.Stream.Replica; !replica {
		if _, err := hold.ReleaseKeys(ctx, s.OnTarget, s.Stream.ID, ""); err != nil {
			return s.Target.Explain(err)
		}
	}
	n, err := hold.Tables(ctx, s.OnTarget, s.Stream.ID, replica, hold.StreamTables(s.Stream.ID))
	if err == nil && n > 0 {
		s.Log.Info(fmt.Sprintf("disabled triggers, rules and row-level security of the target again until the cutover: %d", n))
	}
	return s.Target.Explain(err)
}
