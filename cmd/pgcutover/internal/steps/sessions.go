package steps

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/fencing"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// endSessions ends the sessions that began before the database was closed, and waits until they are
// gone. A session that was just being authenticated is seen, and ended, later. Idle sessions of
// trusted roles that it may not end are left alone.
func endSessions(ctx context.Context, s *session.Session, trust []string) (ended int, left []fencing.Client, err error) {
	since, err := clock(ctx, s)
	if err != nil {
		return 0, nil, err
	}
	// Sessions that begin now find the database closed. The setting applies once its transaction is
	// visible, and we already see it.
	starting, err := startingSessions(ctx, s)
	if err != nil {
		return 0, nil, s.Source.Explain(err)
	}
	seen := make(map[int32]bool)
	var open []fencing.Client
	done, err := poll(ctx, 10*time.Second, func() (bool, error) {
		// The order matters: who is no longer starting is seen by the next query.
		still, err := startingSessions(ctx, s)
		if err != nil {
			return false, s.Source.Explain(err)
		}
		starting = slices.DeleteFunc(starting, func(pid int32) bool { return !slices.Contains(still, pid) })
		list, err := fencing.Clients(ctx, s.OnSource, time.Time{}, since)
		if err != nil {
			return false, s.Source.Explain(err)
		}
		open, left, err = end(ctx, s, list, trust, seen)
		return len(open)+len(starting) == 0, err
	})
	if err != nil {
		return 0, nil, err
	}
	if !done {
		return 0, nil, fault.New(fault.TryAgain, "could not end sessions on the source: %s", fencing.Describe(open)).
			WithHint("The database is closed for new sessions. Run fence again, or undo it: pgcutover unfence --slot %s", s.Slot)
	}
	return len(seen), left, nil
}

// end ends the sessions of a list that it may end and has not seen before. It returns those that
// are still there, and those that it leaves alone.
func end(ctx context.Context, s *session.Session, list []fencing.Client, trust []string, seen map[int32]bool) (open, left []fencing.Client, err error) {
	super := s.OnSource.PgConn().ParameterStatus("is_superuser") == "on"
	var pids []int32
	for i := range list {
		x := &list[i]
		switch {
		case super || !x.Super:
			if !seen[x.PID] {
				seen[x.PID] = true
				pids = append(pids, x.PID)
			}
		case x.Trusted(trust):
			left = append(left, *x)
			continue
		}
		open = append(open, *x)
	}
	if len(pids) > 0 { // in one round trip, however many there are
		if _, err := s.OnSource.Exec(ctx, "SELECT pg_catalog.pg_terminate_backend(x) FROM pg_catalog.unnest($1::pg_catalog.int4[]) x", pids); err != nil {
			return nil, nil, session.Denied(s.Source.Explain(err), "The role needs membership in pg_signal_backend; sessions of superusers only a superuser may end.")
		}
	}
	return open, left, nil
}

// clock returns the source's time.
func clock(ctx context.Context, s *session.Session) (now time.Time, err error) {
	err = s.OnSource.QueryRow(ctx, "SELECT pg_catalog.clock_timestamp()").Scan(&now)
	return now, s.Source.Explain(err)
}

// requireNoWriters ends sessions that write although the database is closed, and fails if others
// come in their place. Who does not write at this moment is not seen.
func requireNoWriters(ctx context.Context, s *session.Session) error {
	seen := make(map[int32]bool)
	var writers []fencing.Client
	done, err := poll(ctx, 3*time.Second, func() (bool, error) {
		list, err := fencing.Clients(ctx, s.OnSource, time.Time{}, time.Time{})
		if err != nil {
			return false, s.Source.Explain(err)
		}
		list = slices.DeleteFunc(list, func(x fencing.Client) bool { return !x.Writes })
		writers, _, err = end(ctx, s, list, nil, seen)
		return len(writers) == 0, err
	})
	if err != nil || done {
		return err
	}
	return fault.New(fault.Config, "the fence does not hold: sessions on the source write in spite of it: %s", fencing.Describe(writers)).
		WithHint("Stop these clients. Then run fence again, or undo it: pgcutover unfence --slot %s", s.Slot)
}

// endReadOnly ends the sessions that began under a fence: they are read-only and would stay so. It
// returns those that it may not end.
func endReadOnly(ctx context.Context, s *session.Session, began time.Time) (left []fencing.Client, err error) {
	now, err := clock(ctx, s)
	if err != nil {
		return nil, err
	}
	list, err := fencing.Clients(ctx, s.OnSource, began, now)
	if err != nil {
		return nil, s.Source.Explain(err)
	}
	super := s.OnSource.PgConn().ParameterStatus("is_superuser") == "on"
	left = slices.DeleteFunc(slices.Clone(list), func(x fencing.Client) bool { return super || !x.Super })
	list = slices.DeleteFunc(list, func(x fencing.Client) bool { return !super && x.Super })
	_, _, err = end(ctx, s, list, nil, make(map[int32]bool))
	return left, err
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
