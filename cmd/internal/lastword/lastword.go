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

// kind is the record's number. The body is a map.
const kind format.Kind = 65

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

// Write writes why the program fails. It is worth no error: a stream that has not begun, or cannot be
// written to any more, has no place for it, and a signal is no failure.
func Write(w *format.Writer, program string, err error) {
	if err == nil || errors.Is(err, cli.ErrStopped) || cli.IsBrokenPipe(err) {
		return
	}
	body, e := msgpack.Marshal(Of(program, err))
	if e != nil || w.Write(&format.Unknown{K: kind, Body: body}) != nil {
		return
	}
	_ = w.Flush()
}

// most is how long a text of a failure may be: what follows is not for a line of a status.
const most = 4000

// Read returns the failure that a record tells of, and false if it is another one.
func Read(r *format.Unknown) (f Failure, ok bool) {
	if r.K != kind || len(r.Body) > 4*most || msgpack.Unmarshal(r.Body, &f) != nil || f.Program == "" {
		return Failure{}, false
	}
	return f, true
}
