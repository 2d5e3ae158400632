package receive

import (
	"errors"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/format"
)

// An ending is the wish that we stop.
type ending struct {
	stop  <-chan struct{}
	since time.Time // when it was first seen
}

// wished reports whether we are to stop.
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

// overdue reports whether the end of an open transaction has been waited for long enough.
func (e *ending) overdue() bool { return e.wished() && time.Since(e.since) > boundaryTimeout }

// boundary ends the stream if that is wanted and no transaction is open. If there is nobody any
// more for whom to wait, or it has been waited for long enough, an open one is taken back.
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

// within reports whether a transaction is open, be it written or not.
func (s *session) within() bool { return s.w.InTransaction() || s.without == theTransaction }

// finish writes the end record and gives the target a moment to make durable what it has, so that
// the slot learns of it.
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

// boundaryTimeout is how long after the wish to stop the end of an open transaction is waited for:
// it may be large, or its server silent. pgapply, told to stop at the same time, waits longer.
const boundaryTimeout = 3 * time.Second

// confirmTimeout bounds the wait for the last confirmation. Nothing is lost without it: the slot
// stays a little behind.
const confirmTimeout = 5 * time.Second
