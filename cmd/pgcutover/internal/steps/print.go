package steps

import (
	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// printf prints a line of a report. Unwritten says afterwards whether all of it could be.
func (m *Migration) printf(format string, args ...any) { m.wrote(text.Fprintf(m.Out, format, args...)) }

func (m *Migration) wrote(_ int, err error) {
	if m.unwritten == nil {
		m.unwritten = err
	}
}

// Unwritten returns an error if a report could not be printed, so that nobody has read what it
// found. A reader who has gone has seen what he wanted.
func (m *Migration) Unwritten() error {
	if m.unwritten == nil || cli.IsBrokenPipe(m.unwritten) {
		return nil
	}
	return fault.New(fault.Failed, "could not print the report: %w", m.unwritten)
}
