// Package format reads and writes the pgsluice stream: what flows between pgextract, pgdecode and
// pgapply.
//
// The stream is a sequence of msgpack frames, specified in SPEC.md beside this file. It begins with
// a header that names its source, and ends with an end record; a stream without one is truncated,
// and Reader says so instead of returning io.EOF.
//
// A filter reads records with Reader, looks at or changes those it cares about, and hands them all
// to a Writer; see the examples. Records that Reader returns are pointers to memory that it reuses:
// they are valid until the next call to Next. Neither Reader nor Writer allocates per record on the
// frequent kinds.
//
// Version 1 of the format is read by every version 1.x of this package. What a later version adds
// is either ignorable, or refused by an older reader with an error that names what it needs.
package format
