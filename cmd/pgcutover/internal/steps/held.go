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
)

// release switches on again what waits for a cutover that will not come.
func (m *Migration) release(ctx context.Context, t *pgx.Conn, stream *progress.Stream) error {
	if stream.Ended {
		return nil
	}
	list, err := progress.Pending(ctx, t, stream.ID, progress.PhaseCutover, "", "")
	if err != nil {
		return m.Target.Explain(err)
	}
	for _, o := range list {
		if !hold.Is(o.Type) {
			continue
		}
		err := pgx.BeginFunc(ctx, t, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, o.SQL, pgx.QueryExecModeSimpleProtocol); err != nil {
				return err
			}
			return progress.SetObject(ctx, t, o.ID, "done")
		})
		var pg *pgconn.PgError
		if errors.As(err, &pg) && !isGone(pg) {
			return fault.New(fault.Config, "could not switch on again what was to wait for the cutover: %w", err).
				WithHint("Mend the cause, or do it by hand on the target: %s Then start again; what is done is not done twice.", o.SQL)
		}
		if err != nil && pg == nil {
			return m.Target.Explain(err)
		}
	}
	return nil
}

// holdAgain takes back what an open that was not completed has switched on: sync goes on.
func (m *Migration) holdAgain(ctx context.Context, t *pgx.Conn, stream *progress.Stream) error {
	replica := false
	if _, err := t.Exec(ctx, "SET session_replication_role = replica"); err == nil {
		replica = true
		if _, err := t.Exec(ctx, "RESET session_replication_role"); err != nil {
			return m.Target.Explain(err)
		}
	}
	n, err := hold.Tables(ctx, t, stream.ID, replica, hold.StreamTables(stream.ID))
	if err == nil && n > 0 {
		m.Log.Info(fmt.Sprintf("triggers, rules and row level security of the target wait for the cutover again: %d", n))
	}
	return m.Target.Explain(err)
}
