// Package format reads and writes the pgsluice stream, which connects pgextract, pgdecode and
// pgapply.
//
// The stream is a sequence of msgpack frames, specified in SPEC.md beside this file. It begins with
// a header that names its source, and ends with an end record. A stream without an end record is
// truncated: Reader reports that instead of returning io.EOF.
//
// A filter reads records with Reader, inspects or changes some of them, and passes all of them to a
// Writer; see the examples. Reader returns pointers to memory that it reuses: a record is valid
// until the next call to Next. Neither Reader nor Writer allocates per record for the frequent
// kinds.
//
// Every version 1.x of this package reads version 1 of the format. An older reader either ignores
// an addition of a later version, or refuses it with an error that names the minor version it
// needs.
package format
