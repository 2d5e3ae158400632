package steps

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
)

// Others may hold what we want a lock of, for as long as they like. Our sessions do not queue for
// long: what comes after them in a queue would wait, too, and nobody would know for what. What only
// looks says who stands in the way, and goes on; what changes something tries again.

// Retry runs a step whose statements may find locks of others in their way, until it is done or a
// limit has passed (0: none). It is begun anew each time.
func (m *Migration) Retry(ctx context.Context, limit time.Duration, do func() error) error {
	return m.patiently(ctx, m.Source, limit, do)
}

// patiently is Retry for statements of one side.
func (m *Migration) patiently(ctx context.Context, s pgdial.Server, limit time.Duration, do func() error) error {
	return m.Locked(m.Waits[s.Side].Retry(ctx, limit, do))
}

// Locked names who stood in the way of a statement that was given up for a lock; other errors it
// returns as they are.
func (m *Migration) Locked(err error) error {
	if !waiting.IsLockTimeout(err) {
		return err
	}
	for _, side := range []string{m.Source.Side, m.Target.Side} {
		if w := m.Waits[side]; w.Knows() {
			return w.Explain(err)
		}
	}
	return m.Waits[m.Source.Side].Explain(err)
}

// answers makes sure that commits on the target do not wait for a standby that is not there: the
// application's would, as soon as it uses the target.
func (m *Migration) answers(ctx context.Context, t *pgx.Conn) error {
	var names string
	if err := t.QueryRow(ctx, "SELECT pg_catalog.current_setting('synchronous_standby_names')").Scan(&names); err != nil {
		return m.Target.Explain(err)
	}
	if names == "" {
		return nil
	}
	names, stuck, err := waiting.Commits(ctx, m.Target)
	if err != nil || !stuck {
		return err
	}
	return fault.New(fault.Config, "commits on the target wait for a standby, and none answers (synchronous_standby_names is %q)", names).
		WithDetail("The application would wait as well.").WithHint("%s", waiting.StandbyHint(m.Target.Side))
}
