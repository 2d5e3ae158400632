package steps

import (
	"context"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// answers checks that commits on the target do not wait for a missing standby. The application's
// commits would wait for it as soon as the application uses the target.
func answers(ctx context.Context, s *session.Session) error {
	var names string
	if err := s.OnTarget.QueryRow(ctx, "SELECT pg_catalog.current_setting('synchronous_standby_names')").Scan(&names); err != nil {
		return s.Target.Explain(err)
	}
	if names == "" {
		return nil
	}
	names, stuck, err := waiting.Commits(ctx, s.Target)
	if err != nil || !stuck {
		return err
	}
	return fault.New(fault.Config, "commits on the target wait for a standby, but no standby answers (synchronous_standby_names is %q)", names).
		WithDetail("The application would also wait.").WithHint("%s", waiting.StandbyHint(s.Target.Side))
}
