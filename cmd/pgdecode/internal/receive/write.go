package receive

import (
	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/format"
)

func write(w *format.Writer, rec format.Record) error {
	if err := w.Write(rec); err != nil {
		return writeError(err)
	}
	return nil
}

func writeError(err error) error {
	if cli.IsBrokenPipe(err) {
		return fault.New(fault.TryAgain, "could not write the stream: %w", err).
			WithDetail("The program that reads the stream has exited. Its own message says why.")
	}
	return fault.New(fault.Failed, "could not write the stream: %w", err)
}
