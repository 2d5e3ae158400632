// Package lastword puts a program's error into the stream that it writes, as an ignorable record at
// the end. The program at the end of the pipe may run on another host, and only that program can
// record the error where pgcutover status finds it.
package lastword

import (
	"errors"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/format"
)

// number is the record's kind. The body is a map.
const number format.Kind = 65

// A Failure is the error with which a program ended.
type Failure struct {
	Program string      `msgpack:"program"`
	Time    format.Time `msgpack:"time"`
	Status  int         `msgpack:"exit_status"`
	Message string      `msgpack:"message"`
	Hint    string      `msgpack:"hint,omitempty"`
}

// Of returns err as a Failure of program.
func Of(program string, err error) Failure {
	f := Failure{Program: program, Time: format.TimeOf(time.Now()), Status: int(fault.StatusOf(err)), Message: err.Error()}
	var x *fault.Error
	if errors.As(err, &x) {
		f.Hint = x.Hint
	}
	return f
}

// Write writes the program's error to its stream. It returns no error, since a stream that cannot
// be written to cannot carry the record. It writes nothing for a signal, which is not a failure. If
// the stream has not begun, Write begins it with a header of the given kind and slot (see Only),
// but only if slot is not empty: the caller then knows that pgapply reads the stream.
func Write(w *format.Writer, kind, slot, program string, err error) {
	if err == nil || errors.Is(err, cli.ErrStopped) || cli.IsBrokenPipe(err) {
		return
	}
	if w.Totals().Frames == 0 && slot != "" {
		h := &format.Header{StreamKind: kind, Producer: program + " " + cli.Version(), SystemID: nowhere, Database: "?", Slot: slot}
		if w.Write(h) != nil {
			return
		}
	}
	body, e := msgpack.Marshal(Of(program, err))
	if e != nil || w.Write(&format.Unknown{K: number, Body: body}) != nil {
		return
	}
	_ = w.Flush()
}

// nowhere is a system identifier that no server has.
const nowhere = "0"

// Only reports whether a stream comes from a program that failed before it knew its source. It
// contains only the error.
func Only(h *format.Header) bool { return h.SystemID == nowhere }

// most bounds the length of a failure's text in bytes, since status prints it on a line.
const most = 4000

// Read returns the failure in a record, or false if the record has none.
func Read(r *format.Unknown) (f Failure, ok bool) {
	if r.K != number || len(r.Body) > 4*most || msgpack.Unmarshal(r.Body, &f) != nil || f.Program == "" {
		return Failure{}, false
	}
	return f, true
}
