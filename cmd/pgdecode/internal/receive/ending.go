package receive

import (
	"errors"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/format"
)

// An ending tracks the request to stop.
type ending struct {
	stop  <-chan struct{}
	since time.Time // when it was first seen
}

// wished reports whether a stop has been requested.
func (e *ending) wished() bool {
	select {
	case <-e.stop:
		if e.since.IsZero() {
			e.since = time.Now()
		}
		return true
	default:
		return false
	}
}

// overdue reports whether the wait for the end of an open transaction is over.
func (e *ending) overdue() bool { return e.wished() && time.Since(e.since) > boundaryTimeout }

// boundary ends the stream if requested and no transaction is open. It does not wait for an open
// transaction if the target has ended the stream or the wait is overdue: the transaction is then
// discarded.
func (s *session) boundary() (done bool, err error) {
	if foreign := s.bound.foreign.Load(); foreign != nil {
		return true, foreign
	}
	if s.bound.ended.Load() {
		return true, nil
	}
	stopped := s.ending.wished()
	if s.within() {
		if s.ending.overdue() {
			return true, s.end(s.w, format.Stopped)
		}
		return false, nil
	}
	if stopped {
		return true, s.finish(format.Stopped)
	}
	if s.Until != 0 && s.position >= s.Until {
		return true, s.finish(format.Complete)
	}
	return false, nil
}

// within reports whether a transaction is open, whether it is being written or not.
func (s *session) within() bool { return s.w.InTransaction() || s.without == theTransaction }

// finish writes the end record, and gives the target time to confirm the last changes, so that the
// slot is acknowledged.
func (s *session) finish(reason string) error {
	err := s.end(s.w, reason)
	if err != nil && !errors.Is(err, cli.ErrStopped) || !s.Confirms && s.Keeper == nil {
		return err
	}
	if s.Keeper != nil {
		if e := s.sync(); e != nil {
			return e
		}
	}
	for deadline := time.Now().Add(confirmTimeout); time.Now().
		Before(deadline) && s.durable() < s.position && s.bound.foreign.Load() == nil; {
		time.Sleep(tick / 10)
	}
	return err
}

// boundaryTimeout is how long after a request to stop we wait for the end of an open transaction:
// it may be large, or the server may be silent. pgapply, stopped at the same time, waits longer.
const boundaryTimeout = 3 * time.Second

// confirmTimeout bounds the wait for the last confirmation. Without that confirmation nothing is
// lost: the slot only lags a little.
const confirmTimeout = 5 * time.Second
