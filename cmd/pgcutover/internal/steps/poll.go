package steps

import (
	"context"
	"time"
)

// pollEvery is the interval at which a wait checks a server's state. It adds to the downtime.
const pollEvery = 20 * time.Millisecond

// poll calls done until it returns true or the timeout has passed.
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
