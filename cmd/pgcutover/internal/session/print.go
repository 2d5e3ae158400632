package session

import (
	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// Printf prints a line of a report. Unwritten reports later whether every line could be printed.
func (m *Migration) Printf(format string, args ...any) { m.Wrote(text.Fprintf(m.Out, format, args...)) }

// Wrote records the error, if any, of printing a part of a report by other means than Printf.
func (m *Migration) Wrote(_ int, err error) {
	if m.unwritten == nil {
		m.unwritten = err
	}
}

// Unwritten returns an error if a report could not be printed: its findings have not reached the
// reader. A broken pipe is no error, because the reader closed it on purpose.
func (m *Migration) Unwritten() error {
	if m.unwritten == nil || cli.IsBrokenPipe(m.unwritten) {
		return nil
	}
	return fault.New(fault.Failed, "could not print the report: %w", m.unwritten)
}
