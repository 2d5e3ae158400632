package receive

import (
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/format"
)

// A Keeper keeps the stream on a disk. What it has made durable is acknowledged to the slot.
type Keeper interface {
	// Begin is called before a header is written. After Close it begins a new file.
	Begin(*format.Header) error
	// Sync makes durable what was written.
	Sync() error
	// Full reports whether a new file is to be begun.
	Full() bool
	Close() error
}

// syncEvery bounds how often a disk is waited for. What is not durable yet is not lost when we die:
// it is read from the slot again.
const syncEvery = 100 * time.Millisecond

// keep makes durable what has been written, and begins a new file when the old one is full: at
// boundaries of transactions only, and while no transaction in progress has blocks in the old file,
// because a header makes readers forget those.
func (s *session) keep() error {
	if s.Keeper == nil || s.within() {
		return nil
	}
	if s.blocks.open == 0 && s.Keeper.Full() {
		return s.rotate()
	}
	if s.position == s.durable() || time.Since(s.synced) < syncEvery {
		return nil
	}
	return s.sync()
}

func (s *session) sync() error {
	if err := s.w.Flush(); err != nil {
		return writeError(err)
	}
	if err := s.Keeper.Sync(); err != nil {
		return fault.New(fault.Failed, "could not make the stream durable: %w", err)
	}
	s.synced = time.Now()
	s.reached.kept.Store(uint64(s.position))
	return nil
}

// rotate ends the stream and begins another one in a new file. The server has described the
// relations and will not do so again.
func (s *session) rotate() error {
	if _, err := s.w.End(format.Complete, s.position); err != nil {
		return writeError(err)
	}
	if err := s.sync(); err != nil {
		return err
	}
	if err := s.Keeper.Close(); err != nil {
		return err
	}
	if err := s.begin(s.w, s.position); err != nil {
		return err
	}
	for _, rel := range s.decoder.Relations() {
		if err := write(s.w, rel); err != nil {
			return err
		}
	}
	return nil
}
