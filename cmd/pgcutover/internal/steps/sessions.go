package steps

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// others selects the sessions that might write: clients of this database, except our own session
// and those that only read the slot.
const others = `FROM pg_catalog.pg_stat_activity WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid() AND backend_type IN ('client backend', 'parallel worker')
	AND backend_start < $1 AND application_name NOT IN ('pgcutover', 'pgdecode')`

// endSessions ends the sessions that began before the database became read-only, and waits until
// they are gone.
func endSessions(ctx context.Context, s *session.Session) (ended int, err error) {
	var since time.Time
	// Sessions that begin now are read-only. The setting applies once its transaction is visible,
	// and we already see it.
	if err := s.OnSource.QueryRow(ctx, "SELECT pg_catalog.clock_timestamp()").Scan(&since); err != nil {
		return 0, s.Source.Explain(err)
	}
	seen := make(map[int32]bool)
	var left []string
	done, err := poll(ctx, 10*time.Second, func() (bool, error) {
		pids, says, err := sessionsBefore(ctx, s, since)
		if err != nil {
			return false, s.Source.Explain(err)
		}
		left = says
		for _, pid := range pids {
			if seen[pid] {
				continue
			}
			seen[pid] = true
			if _, err := s.OnSource.Exec(ctx, "SELECT pg_catalog.pg_terminate_backend($1)", pid); err != nil {
				return false, session.Denied(s.Source.Explain(err),
					"The role needs membership in pg_signal_backend; sessions of superusers only a superuser may end.")
			}
		}
		return len(left) == 0, nil
	})
	if err != nil {
		return 0, err
	}
	if !done {
		return 0, fault.New(fault.TryAgain, "could not end sessions on the source: %s", strings.Join(left, "; ")).
			WithHint("The database is read-only for new sessions. Run fence again, or undo it: pgcutover unfence --slot %s", s.Slot)
	}
	return len(seen), nil
}

// sessionsBefore returns the sessions that began before a time, with a description of each.
func sessionsBefore(ctx context.Context, s *session.Session, since time.Time) (pids []int32, says []string, err error) {
	rows, err := s.OnSource.Query(ctx,
		"SELECT pid, pg_catalog.format('process %s, user %s, %s', pid, usename, coalesce(nullif(application_name, ''), 'no application name')) "+
			others, since)
	if err != nil {
		return nil, nil, err
	}
	var pid int32
	var text string
	_, err = pgx.ForEachRow(rows, []any{&pid, &text}, func() error {
		pids, says = append(pids, pid), append(says, text)
		return nil
	})
	return pids, says, err
}
