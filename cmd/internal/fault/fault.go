// Package fault defines the errors that users see: what failed, why, what to do next, and the exit
// status for scripts.
package fault

import (
	"errors"
	"fmt"
)

// A Status is a process's exit status. The numbers are those of sysexits.h, so that a supervising
// loop needs no other table.
type Status int

// The statuses of the programs. They never use 2, which Go uses for a panic.
const (
	OK          Status = 0
	Failed      Status = 1  // no other status fits
	Usage       Status = 64 // wrong flags or arguments
	Data        Status = 65 // the input is not a stream, damaged, or cut
	Unavailable Status = 69 // permanent: no such host, database, slot
	// connection lost, server restarting, slot in use: the same command may succeed later
	TryAgain   Status = 75
	Permission Status = 77 // authentication or privileges
	// a server's configuration or a checked condition must change first
	Config      Status = 78
	Interrupted Status = 130
	Terminated  Status = 143
)

// An Error is an error with an exit status, and with a detail and a hint for the user. Detail and
// Hint are complete sentences.
type Error struct {
	Status Status
	Detail string
	Hint   string
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// New returns an Error without detail and hint.
func New(s Status, format string, args ...any) *Error {
	return &Error{Status: s, Err: fmt.Errorf(format, args...)}
}

// WithHint sets the hint, one next step, and returns e.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// WithDetail sets the detail, and returns e.
func (e *Error) WithDetail(format string, args ...any) *Error {
	e.Detail = fmt.Sprintf(format, args...)
	return e
}

// StatusOf returns the status of the outermost Error in err's chain: OK for nil, Failed if there is
// none.
func StatusOf(err error) Status {
	if err == nil {
		return OK
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Status
	}
	return Failed
}
