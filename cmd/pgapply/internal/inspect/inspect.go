// Package inspect reads the streams on standard input without a database: it checks them, or prints
// their records. It knows nothing of targets.
package inspect

import (
	"errors"
	"fmt"
	"io"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/huge"
	"github.com/pgsluice/pgsluice/format"
)

func newReader(in io.Reader) *format.Reader {
	r := format.NewReader(in)
	r.LongRecords(huge.Reserve, huge.Free)
	return r
}

// bad is the error for a record that Reader has accepted.
func bad(frame uint64, at int64, err error) error {
	return fault.New(fault.Data, "%w", &format.Error{Frame: frame, Offset: at, Err: fmt.Errorf("%w: %w", format.ErrCorrupt, err)})
}

// explain turns an error of Reader into one for users.
func explain(err error) error {
	var version *format.VersionError
	var unknown *format.UnknownKindError
	switch {
	case errors.Is(err, format.ErrEmpty):
		return fault.New(fault.Data, "the input is empty")
	case errors.Is(err, format.ErrNotStream):
		return fault.New(fault.Data, "the input is %w", err).WithHint("Is it compressed or encrypted?")
	case errors.As(err, &version), errors.As(err, &unknown):
		return fault.New(fault.Data, "%w", err).WithHint("Use a newer pgapply.")
	case errors.Is(err, format.ErrTruncated), errors.Is(err, format.ErrCorrupt):
		return fault.New(fault.Data, "%w", err)
	}
	return fault.New(fault.Failed, "could not read the input: %w", err)
}
