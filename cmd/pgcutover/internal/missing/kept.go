package missing

import (
	"context"

	"github.com/pgsluice/pgsluice/cmd/internal/ledger"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// last reads the kept result of the last comparison. It sets Current if that was made from the same
// inputs. It sets Compared if there is a result that can be read.
func (r *Result) last(ctx context.Context, s *session.Session, inputs string) error {
	k, err := progress.LastComparison(ctx, s.OnTarget, s.Stream.ID)
	if err != nil || k == nil {
		return s.Target.Explain(err)
	}
	lines, err := ledger.Unpack(k.Result)
	if err != nil {
		return nil
	}
	r.Lines, r.Compared, r.Current = lines, true, k.Inputs == inputs
	if !r.Current {
		r.Age = max(k.Age, 0)
	}
	return nil
}

// keepLines keeps the result of a comparison. If it cannot be kept, the next comparison takes
// longer.
func keepLines(ctx context.Context, s *session.Session, inputs string, lines []ledger.Line) {
	const most = 1 << 20 // bytes: a longer list changes with each remedy
	if result, err := ledger.Pack(lines); err == nil && len(result) <= most {
		_ = progress.KeepComparison(ctx, s.OnTarget, s.Stream.ID, inputs, result)
	}
}
