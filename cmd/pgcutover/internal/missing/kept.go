package missing

import (
	"context"

	"github.com/pgsluice/pgsluice/cmd/internal/ledger"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// last returns the kept result of the last comparison. It returns nil if that was made from other
// inputs, or if it cannot be read.
func last(ctx context.Context, s *session.Session, inputs string) ([]ledger.Line, error) {
	result, err := progress.Comparison(ctx, s.OnTarget, s.Stream.ID, inputs)
	if err != nil || result == nil {
		return nil, s.Target.Explain(err)
	}
	lines, err := ledger.Unpack(result)
	if err != nil {
		return nil, nil
	}
	return lines, nil
}

// keepLines keeps the result of a comparison. If it cannot be kept, the next comparison takes
// longer.
func keepLines(ctx context.Context, s *session.Session, inputs string, lines []ledger.Line) {
	const most = 1 << 20 // bytes: a longer list changes with each remedy
	if result, err := ledger.Pack(lines); err == nil && len(result) <= most {
		_ = progress.KeepComparison(ctx, s.OnTarget, s.Stream.ID, inputs, result)
	}
}
