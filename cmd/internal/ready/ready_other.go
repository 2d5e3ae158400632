//go:build !linux

// Package ready waits for files that Go's network poller does not know, where the system lets it.
package ready

import "errors"

// The events that can be waited for.
const (
	In uint32 = iota
	Out
)

// A Waiter waits until a file is ready.
type Waiter struct{}

// New fails: whoever reads or writes the file waits by that.
func New(int, uint32) (*Waiter, error) { return nil, errors.ErrUnsupported }

// Wait returns when the file is ready.
func (*Waiter) Wait() error { return nil }
