package steps

import (
	"context"
	"strconv"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Between fence and open the application waits. A program that does one step needs longer to start
// and to connect than the step takes. So scripts/cutover has the holder of its lock do these steps,
// in two sessions that are ready before.

// A window does the steps from fence to open in the same sessions.
type window struct {
	*session.Migration
	LockOptions

	s    *session.Session // nil: not connected
	f    *fence           // whose conditions are met; nil: not judged
	held snapshots
}

// serve does steps until the context is canceled, and prints the exit status of each. After a step
// that fails, and after open, it closes the sessions: other programs' steps go on. The snapshots
// stay until a step fails, or until the step verified.
func (w *window) serve(ctx context.Context, steps <-chan string) error {
	defer w.held.release(context.WithoutCancel(ctx))
	defer w.close(context.WithoutCancel(ctx))
	for {
		var step string
		select {
		case <-ctx.Done():
			return ctx.Err()
		case step = <-steps:
		}
		err := w.Locked(w.do(ctx, step))
		if err != nil && ctx.Err() != nil {
			return err
		}
		if err != nil {
			w.Report(err)
		}
		if err != nil || step == "open" {
			w.close(ctx)
		}
		if err != nil {
			w.held.release(ctx)
		}
		answer := strconv.Itoa(int(fault.StatusOf(err)))
		if names := w.held.String(); step == "drain" && names != "" {
			answer += " " + names
		}
		w.Printf("%s\n", answer)
	}
}

// do does a step. close lets another program of the cutover do one, as the undo. ready connects,
// checks the conditions for closing the source, as the fence does, and reads what open will read
// faster the second time; then fence closes the source at once.
func (w *window) do(ctx context.Context, step string) error {
	switch step {
	case "close":
		w.close(ctx)
		fallthrough
	case "verified":
		w.held.release(ctx)
		return nil
	}
	if err := w.begin(ctx); err != nil {
		return err
	}
	switch step {
	case "ready":
		return w.Retry(ctx, w.Patience, func() error {
			if err := w.judge(ctx); err != nil {
				return err
			}
			return warm(ctx, w.s)
		})
	case "fence":
		return w.Retry(ctx, w.Patience, func() error { return w.fence(ctx) })
	case "drain":
		if err := drain(ctx, w.s, w.Patience); err != nil {
			return err
		}
		if !w.Snapshot || w.s.Stream.Ended {
			return nil
		}
		return w.held.take(ctx, w.Migration)
	case "open":
		return open(ctx, w.s, nil, w.Patience)
	}
	return fault.New(fault.Usage, "%q is not a step: ready, fence, drain, open, verified or close", step)
}

// begin connects, if there are no sessions yet, and takes the lock of the steps. Afterwards nobody
// else can do a step, and begin checks only that the cutover still has its own lock.
func (w *window) begin(ctx context.Context) (err error) {
	if w.s != nil {
		return w.s.Mine(ctx)
	}
	if w.s, err = w.Begin(ctx); err != nil {
		return err
	}
	if w.Snapshot {
		if w.held.sessions[1], err = w.Connect(ctx, w.Target); err != nil {
			return err
		}
	}
	return w.s.Exclusive(ctx)
}

func (w *window) close(ctx context.Context) {
	if w.s != nil {
		w.s.Close(ctx)
	}
	w.s, w.f = nil, nil
}

func (w *window) judge(ctx context.Context) (err error) {
	// fence --check has looked for orphans.
	w.f, err = judge(ctx, w.s, FenceOptions{AllowOrphans: true, Trust: w.Trust})
	return err
}

func (w *window) fence(ctx context.Context) error {
	if w.f == nil {
		if err := w.judge(ctx); err != nil {
			return err
		}
	}
	if err := w.f.close(ctx); err != nil {
		return err
	}
	if !w.Snapshot {
		w.f.release(ctx)
	}
	w.held.sessions[0], w.f.proof = w.f.proof, nil
	return nil
}
