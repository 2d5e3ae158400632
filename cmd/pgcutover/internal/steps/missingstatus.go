package steps

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/ledger"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// A MissingStatus is the ledger in a status.
type MissingStatus struct {
	// how much the target lacks, or has otherwise, that is not allowed
	Count   int           `json:"count"`
	Allowed int           `json:"allowed"` // how much of it is
	At      time.Time     `json:"at"`      // when that was found out: it is not asked every time
	Lines   []ledger.Line `json:"lines"`

	took time.Duration
}

// missingStatus compares both sides, or returns what it found the last time if that cost too much
// to be repeated so soon: looking must not be a load.
func (m *Migration) missingStatus(ctx context.Context, c, t *pgx.Conn, stream *progress.Stream) (*MissingStatus, error) {
	const share = 30 // of the time may go into it
	if s := m.lastMissing; s != nil && time.Since(s.At) < share*s.took {
		return s, nil
	}
	began := time.Now()
	lines, compared, err := m.ledger(ctx, c, t, stream)
	if err != nil || !compared {
		return nil, err
	}
	left := len(ledger.Blocking(lines))
	if lines == nil {
		lines = []ledger.Line{}
	}
	m.lastMissing = &MissingStatus{Count: left, Allowed: len(lines) - left, At: began.UTC(), Lines: lines, took: time.Since(began)}
	return m.lastMissing, nil
}
