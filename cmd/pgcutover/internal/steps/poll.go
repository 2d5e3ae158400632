package steps

import (
	"context"
	"time"
)

// pollEvery is the interval at which a wait checks a server's state. pollSoon is that of a wait
// whose end the application waits for.
const (
	pollEvery = 20 * time.Millisecond
	pollSoon  = 5 * time.Millisecond
)

// poll calls done until it returns true or the timeout has passed.
func poll(ctx context.Context, timeout time.Duration, done func() (bool, error)) (bool, error) {
	return pollAt(ctx, pollEvery, timeout, done)
}

// pollAt is poll with an interval.
func pollAt(ctx context.Context, every, timeout time.Duration, done func() (bool, error)) (bool, error) {
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
		case <-time.After(every):
		}
	}
}
