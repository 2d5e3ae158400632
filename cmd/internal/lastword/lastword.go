// Package lastword carries why a program fails to whoever reads the stream that it writes: as an
// ignorable record, behind what was written before. The program at the end of the pipe may be on
// another host, and only that one can write it down where the status finds it.
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

// A Failure is what a program has ended with.
type Failure struct {
	Program string      `msgpack:"program"`
	Time    format.Time `msgpack:"time"`
	Status  int         `msgpack:"exit_status"`
	Message string      `msgpack:"message"`
	Hint    string      `msgpack:"hint,omitempty"`
}

// Of returns the failure that an error is.
func Of(program string, err error) Failure {
	f := Failure{Program: program, Time: format.TimeOf(time.Now()), Status: int(fault.StatusOf(err)), Message: err.Error()}
	var x *fault.Error
	if errors.As(err, &x) {
		f.Hint = x.Hint
	}
	return f
}

// Write writes why the program fails. It is worth no error: a stream that cannot be written to any
// more has no place for it, and a signal is no failure. One that has not begun gets a header for
// that, which says of which kind and slot it would have been (see Only): but only where slot is
// given, by a caller who knows that pgapply reads it.
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

// nowhere is no server's system identifier.
const nowhere = "0"

// Only reports whether a stream is of a program that failed before it knew its source: there is
// nothing in it but why.
func Only(h *format.Header) bool { return h.SystemID == nowhere }

// most is how long a text of a failure may be: what follows is not for a line of a status.
const most = 4000

// Read returns the failure that a record tells of, and false if it is another one.
func Read(r *format.Unknown) (f Failure, ok bool) {
	if r.K != number || len(r.Body) > 4*most || msgpack.Unmarshal(r.Body, &f) != nil || f.Program == "" {
		return Failure{}, false
	}
	return f, true
}
