package steps

import (
	"context"
	"fmt"

	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// The cutover back is a cutover of the stream that leads back: its source is the new primary, and
// its target the old one, which is fenced. The target becomes the primary, and its fence is lifted,
// in one transaction: so there is no moment at which both are true, or neither.

// handOver ends the stream for good. An old primary is open for the application from then on.
func handOver(ctx context.Context, s *session.Session, drain *progress.Step) error {
	if s.Stream.BackOf == "" {
		return endStream(ctx, s, drain)
	}
	record, _, err := slot.GetFence(ctx, s.OnTarget)
	if err != nil {
		return s.Target.Explain(err)
	}
	err = reopen(ctx, turned(s, nil), record, func() error { return endStream(ctx, s, drain) })
	if err == nil && record != nil && record.WasClosed() {
		db := s.OnTarget.Config().Database
		s.Log.Warn(fmt.Sprintf("database %q of the target is read-only, as it was before it was left", db), "hint", thaw(db))
	}
	return err
}

// openBefore does what an open that was killed has left to do.
func openBefore(ctx context.Context, s *session.Session) error {
	s.Log.Info("open: the target is already open")
	if s.Stream.BackOf == "" {
		return nil
	}
	if err := handedOver(ctx, s); err != nil {
		return err
	}
	var err error
	if s.OnSource == nil {
		err = s.OpenSource(ctx)
	}
	var b *back
	if err == nil {
		b, err = lookBack(ctx, s)
	}
	if err == nil && b.stream != nil {
		err = s.Source.Explain(progress.ResumeBack(ctx, s.OnSource, b.stream.ID))
	}
	if err != nil {
		s.Log.Warn(fmt.Sprintf("could not see to it that the primary that was left can follow: %v", err))
	}
	return nil
}

// handedOver does what is left to do once an old primary is the primary again. It may be repeated.
func handedOver(ctx context.Context, s *session.Session) error {
	if s.Stream.BackOf == "" {
		return nil
	}
	// Sessions that began under the fence are read-only, and would stay so. Ours are not. A
	// superuser's session may not be ended by others.
	if _, err := s.OnTarget.Exec(ctx, `SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a JOIN pgsluice.streams s ON s.stream_id = $1
		JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid WHERE NOT r.rolsuper AND a.datname = pg_catalog.current_database() AND a.backend_type = 'client backend' AND a.backend_start < s.ended_at + '0.1s'::pg_catalog.interval
		AND NOT (a.usename = SESSION_USER AND a.application_name IN ('pgcutover', 'pgapply', 'pgdecode', 'pgextract'))`, s.Stream.ID); err != nil {
		s.Log.Warn(fmt.Sprintf("sessions on the target that began before are still read-only until they connect again: %v", err))
	}
	return nil
}
