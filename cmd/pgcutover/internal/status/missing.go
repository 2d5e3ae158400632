package status

import (
	"context"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/ledger"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/missing"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
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

// findMissing compares both sides, or returns what it found the last time if that cost too much to
// be repeated so soon: looking must not be a load.
func findMissing(ctx context.Context, s *session.Session, last *MissingStatus) (*MissingStatus, error) {
	const share = 30 // of the time may go into it
	if last != nil && time.Since(last.At) < share*last.took {
		return last, nil
	}
	began := time.Now()
	r, err := missing.Compare(ctx, s)
	if err != nil || !r.Compared {
		return nil, err
	}
	left := len(ledger.Blocking(r.Lines))
	if r.Lines == nil {
		r.Lines = []ledger.Line{}
	}
	return &MissingStatus{Count: left, Allowed: len(r.Lines) - left, At: began.UTC(), Lines: r.Lines, took: time.Since(began)}, nil
}
