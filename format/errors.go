package format

import (
	"errors"
	"fmt"
)

// Errors of Reader, for errors.Is. Reader wraps each one in an *Error, which names the place.
var (
	// ErrNotStream: the input does not begin like a pgsluice stream.
	ErrNotStream = errors.New("not a pgsluice stream")
	// ErrEmpty: the input is empty. It is also an ErrTruncated.
	ErrEmpty = fmt.Errorf("%w: the input is empty", ErrTruncated)
	// ErrTruncated: the input ended before an end record. Every complete part is usable.
	ErrTruncated = errors.New("stream is truncated")
	// ErrCorrupt: a checksum, a length, a value or the order of records is wrong.
	ErrCorrupt = errors.New("stream is damaged")
	// ErrTooLarge: a frame or record exceeds its limit. It is also an ErrCorrupt.
	ErrTooLarge = fmt.Errorf("%w: too large", ErrCorrupt)
)

// A VersionError reports a stream of a version that this package cannot read.
type VersionError struct {
	Version uint64 // of the stream
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("stream has format version %d, this program reads version %d", e.Version, Version)
}

// An UnknownKindError reports a critical record of a kind that this package does not know.
type UnknownKindError struct {
	Kind  Kind
	Minor uint64 // the stream's minor version, which a reader must support to know the kind
}

func (e *UnknownKindError) Error() string {
	return fmt.Sprintf("record of unknown kind %d cannot be skipped: a program that reads format version %d.%d is needed, this one reads %d.%d",
		e.Kind, Version, e.Minor, Version, Minor)
}

// An Error reports where a stream is wrong. It wraps one of the errors above, or an error of the
// underlying reader.
type Error struct {
	Frame  uint64 // number of the frame within its stream; the header is 0
	Offset int64  // offset of that frame from the beginning of the input, in bytes
	// The end LSN of the last complete transaction (or progress record) before the error. Without
	// one, the LSN where the stream starts; 0 if that is unknown.
	LSN LSN
	Err error
}

func (e *Error) Error() string {
	if e.LSN == 0 {
		return fmt.Sprintf("%v (frame %d, byte %d)", e.Err, e.Frame, e.Offset)
	}
	return fmt.Sprintf("%v (frame %d, byte %d, after LSN %v)", e.Err, e.Frame, e.Offset, e.LSN)
}

func (e *Error) Unwrap() error { return e.Err }

// An OrderError is Writer's error for a record that is not allowed at its place in the stream.
// Reader wraps it in ErrCorrupt.
type OrderError struct {
	Kind   Kind
	Reason string
}

func (e *OrderError) Error() string { return fmt.Sprintf("%v record: %s", e.Kind, e.Reason) }
