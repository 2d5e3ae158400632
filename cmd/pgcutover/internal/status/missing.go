package status

import (
	"context"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/ledger"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/missing"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// A MissingStatus is the ledger as part of a status.
type MissingStatus struct {
	// objects that the target lacks or defines differently, without the allowed ones
	Count   int           `json:"count"`
	Allowed int           `json:"allowed"` // the number of allowed objects
	At      time.Time     `json:"at"`      // time of the comparison, which is not always repeated
	Lines   []ledger.Line `json:"lines"`

	took time.Duration
}

// findMissing compares both sides. It returns the last result instead if the comparison took too
// long to repeat so soon: the status must not put load on the servers.
func findMissing(ctx context.Context, s *session.Session, known *missing.Known, last *MissingStatus) (*MissingStatus, error) {
	const share = 30 // comparing may take 1/share of the time
	if last != nil && time.Since(last.At) < share*last.took {
		return last, nil
	}
	began := time.Now()
	r, err := missing.Kept(ctx, s, known)
	if err != nil || !r.Compared {
		return nil, err
	}
	left := len(ledger.Blocking(r.Lines))
	if r.Lines == nil {
		r.Lines = []ledger.Line{}
	}
	return &MissingStatus{Count: left, Allowed: len(r.Lines) - left, At: began.UTC(), Lines: r.Lines, took: time.Since(began)}, nil
}
