package steps

import (
	"context"
	"io"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Lock checks its session at this interval, and waits this long for the answer.
const (
	alive  = 5 * time.Second
	answer = 30 * time.Second
)

// Lock holds the lock of a whole cutover until stdin ends, the context is canceled, or its session
// is lost. A calling script keeps the other end of stdin open, so the lock never outlives the
// script. Lock prints the server process that holds the lock; the steps of the cutover check it.
func Lock(ctx context.Context, m *session.Migration, stdin io.Reader) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		cancel(io.EOF)
	}()
	err := keepLock(ctx, m)
	if context.Cause(ctx) == io.EOF {
		return nil
	}
	return err
}

// keepLock takes the lock and keeps it until the context is canceled.
func keepLock(ctx context.Context, m *session.Migration) error {
	s, err := m.BeginTarget(ctx)
	if err != nil {
		return err
	}
	defer s.Close(context.WithoutCancel(ctx))
	if pgdial.Version(s.OnTarget.PgConn()) >= 140000 {
		if _, err := s.OnTarget.Exec(ctx, "SET idle_session_timeout = 0"); err != nil {
			return m.Target.Explain(err)
		}
	}
	pid, err := s.Lock(ctx)
	if err != nil {
		return err
	}
	m.Printf("%s\n", pid)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(alive):
		}
		asked, cancel := context.WithTimeout(ctx, answer)
		err := s.OnTarget.Ping(asked)
		cancel()
		if err != nil && ctx.Err() == nil {
			return fault.New(fault.TryAgain, "the lock of the cutover is lost: %w", m.Target.Explain(err)).
				WithHint("Start the cutover again.")
		}
	}
}
