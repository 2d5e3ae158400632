package session

import (
	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// Printf prints a line of a report. Unwritten says afterwards whether all of it could be.
func (m *Migration) Printf(format string, args ...any) { m.Wrote(text.Fprintf(m.Out, format, args...)) }

// Wrote notes whether a part of a report that was printed otherwise could be.
func (m *Migration) Wrote(_ int, err error) {
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
