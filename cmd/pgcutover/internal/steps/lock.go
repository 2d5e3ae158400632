package steps

import (
	"bufio"
	"context"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Lock checks its session at this interval, and waits this long for the answer.
const (
	alive  = 5 * time.Second
	answer = 30 * time.Second
)

// LockOptions are for the steps that the holder of the lock does.
type LockOptions struct {
	Trust    []string      // superusers whose idle sessions do not write
	Patience time.Duration // how long a step waits: for locks of other sessions, and drain for the target
	Report   func(error)   // called with the error of a step
	Snapshot bool          // take a snapshot of each side after drain, for a verification
}

// Lock holds the lock of a whole cutover until stdin ends, the context is canceled, or its session
// is lost. A calling script keeps the other end of stdin open, so the lock never outlives the
// script. Lock prints the server process that holds the lock; the steps of the cutover check it. It
// does the steps that are written to stdin, a line each, and prints the exit status of each. Behind
// that of drain it prints the names of the snapshots.
func Lock(ctx context.Context, m *session.Migration, stdin io.Reader, o LockOptions) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	steps := make(chan string, 1)
	go func() {
		for lines := bufio.NewScanner(stdin); lines.Scan(); {
			select {
			case steps <- lines.Text():
			case <-ctx.Done():
				return
			}
		}
		cancel(io.EOF)
	}()
	w := &window{Migration: m, LockOptions: o}
	err := keepLock(ctx, m, o.Snapshot, func(ctx context.Context) error { return w.serve(ctx, steps) })
	if context.Cause(ctx) == io.EOF {
		return nil
	}
	return err
}

// keepLock takes the lock and keeps it until the context is canceled. Meanwhile it runs do.
func keepLock(ctx context.Context, m *session.Migration, snapshot bool, do func(context.Context) error) error {
	s, err := m.BeginTarget(ctx)
	if err != nil {
		return err
	}
	defer s.Close(context.WithoutCancel(ctx))
	if err := holdable(s, snapshot); err != nil {
		return err
	}
	if m.Under, err = s.Lock(ctx); err != nil {
		return err
	}
	m.Printf("%s\n", m.Under)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return do(gctx) })
	g.Go(func() error { return watchLock(gctx, s) })
	return g.Wait()
}

// watchLock returns when the context is canceled, or the session that holds the lock is lost.
func watchLock(ctx context.Context, s *session.Session) error {
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
			return fault.New(fault.TryAgain, "the lock of the cutover is lost: %w", s.Target.Explain(err)).
				WithHint("Start the cutover again.")
		}
	}
}
