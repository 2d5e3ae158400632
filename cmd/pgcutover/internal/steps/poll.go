package steps

import (
	"context"
	"time"
)

// pollEvery is how often a state on a server is looked at while waiting for it. It is part of the
// downtime.
const pollEvery = 20 * time.Millisecond

// poll waits until done returns true.
func poll(ctx context.Context, timeout time.Duration, done func() (bool, error)) (bool, error) {
	deadline := time.Now().Add(timeout)
	for {
		ok, err := done()
		if ok || err != nil {
			return ok, err
		}
		if timeout > 0 && time.Now().After(deadline) {
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}
