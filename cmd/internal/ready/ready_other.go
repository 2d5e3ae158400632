//go:build !linux

// Package ready waits for files that are not registered with Go's network poller, on systems that
// support it.
package ready

import "errors"

// The events that a Waiter can wait for.
const (
	In uint32 = iota
	Out
)

// A Waiter waits until a file is ready.
type Waiter struct{}

// New fails, so callers block in their reads and writes instead.
func New(int, uint32) (*Waiter, error) { return nil, errors.ErrUnsupported }

// Wait returns when the file is ready.
func (*Waiter) Wait() error { return nil }
