package steps

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/fencing"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// endSessions ends the sessions that began before the database was closed, and waits until they are
// gone. A session that was just being authenticated is seen, and ended, later. Idle sessions of
// trusted roles that it may not end are left alone. It calls seen when a session that begins from
// then on is none of these.
func endSessions(ctx context.Context, s *session.Session, trust []string, seen func()) (ended int, left []fencing.Client, err error) {
	// Sessions that begin now find the database closed. The setting applies once its transaction is
	// visible, and we already see it.
	var since time.Time
	var starting []int32
	var open []fencing.Client
	e := ending{Session: s, trust: trust}
	done, err := poll(ctx, 10*time.Second, func() (bool, error) {
		l, err := e.look(ctx)
		if err != nil {
			return false, err
		}
		if since.IsZero() {
			since, starting = l.Now, l.Starting
			seen()
		}
		starting = slices.DeleteFunc(starting, func(pid int32) bool { return !slices.Contains(l.Starting, pid) })
		open, left = e.plan(l.Before(since))
		return len(open)+len(starting) == 0, nil
	})
	if err != nil {
		return 0, nil, err
	}
	if !done {
		return 0, nil, fault.New(fault.TryAgain, "could not end sessions on the source: %s", fencing.Describe(open)).
			WithHint("The database is closed for new sessions. Run fence again, or undo it: pgcutover unfence --slot %s", s.Slot)
	}
	return len(e.seen), left, nil
}

// ending ends sessions of the source.
type ending struct {
	*session.Session
	trust []string
	seen  map[int32]bool // those that it has ended
	pids  []int32        // those that the next look ends
}

// look ends the sessions that were planned, and looks who is there.
func (e *ending) look(ctx context.Context) (*fencing.Look, error) {
	l, err := fencing.LookAt(ctx, e.OnSource, e.pids)
	e.pids = nil
	return l, session.Denied(e.Source.Explain(err), "The role needs membership in pg_signal_backend; sessions of superusers only a superuser may end.")
}

// plan plans to end the sessions of a list that it may end and has not seen before. It returns
// those that have to go, and those that it leaves alone.
func (e *ending) plan(list []fencing.Client) (open, left []fencing.Client) {
	if e.seen == nil {
		e.seen = make(map[int32]bool)
	}
	super := e.OnSource.PgConn().ParameterStatus("is_superuser") == "on"
	for i := range list {
		x := &list[i]
		switch {
		case super || !x.Super:
			if !e.seen[x.PID] {
				e.seen[x.PID] = true
				e.pids = append(e.pids, x.PID)
			}
		case x.Trusted(e.trust):
			left = append(left, *x)
			continue
		}
		open = append(open, *x)
	}
	return open, left
}

// requireNone ends sessions that write although the database is closed, and fails if others come in
// their place. Who does not write at this moment is not seen. It also looks again for what could
// write without a session.
func requireNone(ctx context.Context, s *session.Session) error {
	var writers []fencing.Client
	e := ending{Session: s}
	done, err := poll(ctx, 3*time.Second, func() (bool, error) {
		l, err := e.look(ctx)
		if err != nil {
			return false, err
		}
		writers, _ = e.plan(slices.DeleteFunc(l.Clients, func(x fencing.Client) bool { return !x.Writes }))
		return len(writers) == 0, errors.Join(l.NonePrepared(), l.NoneExempt(), l.NoSubscription())
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
	l, err := fencing.LookAt(ctx, s.OnSource, nil)
	if err != nil {
		return nil, s.Source.Explain(err)
	}
	list := slices.DeleteFunc(l.Before(l.Now), func(x fencing.Client) bool { return !x.Began.IsZero() && x.Began.Before(began) })
	e := ending{Session: s}
	e.plan(list)
	super := s.OnSource.PgConn().ParameterStatus("is_superuser") == "on"
	left = slices.DeleteFunc(list, func(x fencing.Client) bool { return super || !x.Super })
	e.pids = slices.DeleteFunc(e.pids, func(pid int32) bool {
		return slices.ContainsFunc(left, func(x fencing.Client) bool { return x.PID == pid })
	})
	_, err = e.look(ctx)
	return left, err
}
