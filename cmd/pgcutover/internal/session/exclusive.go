package session

import (
	"context"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// again is the interval at which a step tries to get the lock that another step holds.
const again = 20 * time.Millisecond

// Exclusive makes this step the only one of the migration's cutover that changes anything, until
// the session is closed. It waits a moment for a step whose program has been killed. It fails if
// another step runs, or if a cutover other than the one that started this program (Under) is at
// work. A session without a migration has nothing to lock.
func (s *Session) Exclusive(ctx context.Context) error {
	if s.Stream == nil {
		return nil
	}
	ask, told := progress.AskOf(s.OnTarget), false
	for until := time.Now().Add(progress.LockTimeout); ; {
		_, holder, err := progress.Try(ctx, ask, s.Stream.ID, progress.StepLock, func(text string) { s.Log.Warn(text) })
		if err != nil {
			return s.Target.Explain(err)
		}
		if err := s.Mine(ctx); err != nil {
			return err
		}
		if holder == "" {
			// Another step may have opened the target since the session began.
			return s.Find(ctx)
		}
		if time.Now().After(until) {
			return s.busy("another step of the cutover is at work", holder)
		}
		if !told {
			told = true
			s.Log.Info("waiting for another step of the cutover: " + holder)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(again):
		}
	}
}

// Mine checks that no other cutover is at work, and that the one that started this program still
// has its lock.
func (s *Session) Mine(ctx context.Context) error {
	pid, holder, err := progress.CutoverHolder(ctx, progress.AskOf(s.OnTarget), s.Stream.ID)
	switch {
	case err != nil:
		return s.Target.Explain(err)
	case pid == s.Under:
		return nil
	case pid == "":
		return fault.New(fault.TryAgain, "the cutover that started this step has lost its lock on the target").
			WithDetail("The session that held the lock, process %s of the target's server, has ended. Another cutover may begin at any time.", s.Under).
			WithHint("See what is done: pgcutover status --slot %s. Then start the cutover again.", s.Slot)
	}
	return s.busy("another cutover is at work", holder)
}

func (s *Session) busy(what, holder string) error {
	return fault.New(fault.TryAgain, "%s", what).WithDetail("It is %s.", holder).
		WithHint("Wait until it has ended, or stop it. Its state: pgcutover status --slot %s", s.Slot)
}

// Lock takes the lock of a whole cutover, and returns the server process that holds it. It waits a
// moment for a cutover that has been killed.
func (s *Session) Lock(ctx context.Context) (pid string, err error) {
	ask := progress.AskOf(s.OnTarget)
	for until := time.Now().Add(time.Second); ; {
		_, holder, err := progress.Try(ctx, ask, s.Stream.ID, progress.CutoverLock, func(text string) { s.Log.Warn(text) })
		if err != nil {
			return "", s.Target.Explain(err)
		}
		if holder == "" {
			err := s.OnTarget.QueryRow(ctx, "SELECT pg_catalog.pg_backend_pid()::pg_catalog.text").Scan(&pid)
			return pid, s.Target.Explain(err)
		}
		if time.Now().After(until) {
			return "", s.busy("another cutover is at work", holder)
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(again):
		}
	}
}
