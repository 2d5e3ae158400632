package receive

import (
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/format"
)

// A Keeper stores the stream on disk. Changes that it has made durable are acknowledged to the
// slot.
type Keeper interface {
	// Begin is called before a header is written. After Close, it starts a new file.
	Begin(*format.Header) error
	// Sync makes everything written durable.
	Sync() error
	// Full reports whether it is time to start a new file.
	Full() bool
	Close() error
}

// syncEvery is the least time between syncs. A crash loses no changes that are not durable yet:
// they are read from the slot again.
const syncEvery = 100 * time.Millisecond

// keep syncs the file, and starts a new one when it is full. It does so only between transactions,
// and rotates only while no transaction in progress has blocks in the old file, because readers
// forget blocks at a header.
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

// rotate ends the stream and starts another one in a new file. It repeats the relations, because
// the server describes each only once per session.
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
	relations := s.decoder.Relations
	if s.lines != nil {
		relations = s.lines.Relations
	}
	for _, rel := range relations() {
		if err := write(s.w, rel); err != nil {
			return err
		}
	}
	return nil
}
