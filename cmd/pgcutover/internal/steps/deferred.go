package steps

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/hold"
	"github.com/pgsluice/pgsluice/cmd/internal/objects"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
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
	if _, err := s.OnTarget.Exec(ctx, "SET check_function_bodies = off; SET synchronous_commit = off"); err != nil {
		return 0, nil, s.Target.Explain(err)
	}
	for _, o := range list {
		create := makeObject
		if o.Type == "FK CONSTRAINT" && !objects.Unchecked(o.SQL) {
			create = notValid
		}
		err := s.Patiently(ctx, s.Target, patience, func() error { return create(ctx, s, o) })
		var pg *pgconn.PgError
		switch {
		case waiting.IsLockTimeout(err):
			return created, failed, err
		case err == nil:
			created++
		case errors.As(err, &pg) && (o.Type == "FK CONSTRAINT" && pg.Code == "42710" || hold.Is(o.Type) && isGone(pg)):
			// Somebody created the key by hand, or dropped the trigger or rule.
			if err := progress.SetObject(ctx, s.OnTarget, o.ID, "done"); err != nil {
				return created, failed, s.Target.Explain(err)
			}
		case !objects.Refused(err):
			return created, failed, s.Target.Explain(err)
		default:
			o.Error = err.Error()
			failed = append(failed, o)
			if err := progress.Fail(ctx, s.OnTarget, o.ID, err); err != nil {
				return created, failed, s.Target.Explain(err)
			}
		}
	}
	return created, failed, nil
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

// isGone reports whether the disabled trigger or rule has been dropped since.
func isGone(pg *pgconn.PgError) bool {
	switch pg.Code {
	case "42704", "42P01", "3F000": // the trigger or rule, its table, or the schema
		return true
	}
	return false
}
