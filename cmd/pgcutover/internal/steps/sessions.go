package steps

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// others selects the sessions that might write: all that are connected to this database, except our
// own, that of the slot's reader, and the server's helpers. Sessions are told apart by process
// number, since a client may give itself any name. What is hidden from us counts as a writer.
const others = `FROM pg_catalog.pg_stat_activity WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid() AND pid <> $2
	AND (backend_type IS NULL OR backend_type NOT IN ('walsender', 'autovacuum worker'))
	AND (backend_start IS NULL OR backend_start < $1)`

// endSessions ends the sessions that began before the database became read-only, and waits until
// they are gone. A session that was just being authenticated is seen, and ended, later.
func endSessions(ctx context.Context, s *session.Session) (ended int, err error) {
	var since time.Time
	// Sessions that begin now are read-only. The setting applies once its transaction is visible,
	// and we already see it.
	if err := s.OnSource.QueryRow(ctx, "SELECT pg_catalog.clock_timestamp()").Scan(&since); err != nil {
		return 0, s.Source.Explain(err)
	}
	starting, err := startingSessions(ctx, s)
	if err != nil {
		return 0, s.Source.Explain(err)
	}
	seen := make(map[int32]bool)
	var left []string
	done, err := poll(ctx, 10*time.Second, func() (bool, error) {
		// The order matters: who is no longer starting is seen by the next query.
		still, err := startingSessions(ctx, s)
		if err != nil {
			return false, s.Source.Explain(err)
		}
		starting = slices.DeleteFunc(starting, func(pid int32) bool { return !slices.Contains(still, pid) })
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
		return len(left)+len(starting) == 0, nil
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

// startingSessions returns the processes that are connecting to the database. They are not in
// pg_stat_activity yet, and may have read the database's settings already; but they hold a lock on
// the database until they are there.
func startingSessions(ctx context.Context, s *session.Session) ([]int32, error) {
	rows, err := s.OnSource.Query(ctx, `SELECT l.pid FROM pg_catalog.pg_locks l WHERE l.locktype = 'object' AND l.granted AND l.mode = 'RowExclusiveLock' AND l.pid <> pg_catalog.pg_backend_pid()
		AND l.classid = 'pg_catalog.pg_database'::pg_catalog.regclass AND l.objid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int32])
}

// sessionsBefore returns the sessions that began before a time, with a description of each.
func sessionsBefore(ctx context.Context, s *session.Session, since time.Time) (pids []int32, says []string, err error) {
	reader := 0
	if info, err := slot.Get(ctx, s.OnSource, s.Slot); err != nil {
		return nil, nil, err
	} else if info != nil {
		reader = info.ActivePID
	}
	rows, err := s.OnSource.Query(ctx,
		"SELECT pid, pg_catalog.format('process %s, user %s, %s', pid, usename, coalesce(nullif(application_name, ''), 'no application name')) "+
			others, since, reader)
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
