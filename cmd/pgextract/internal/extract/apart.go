package extract

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/identity"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// apart refuses a source that is also the target, before anything is created on it. pgextract
// connects to the target only for --resume, so apart may miss it. pgapply knows both and checks
// again.
func (l *Load) apart(ctx context.Context, source *pgx.Conn) error {
	same := fault.New(fault.Config, "source and target are the same database").
		WithHint("Check --source and --target, or PGSLUICE_SOURCE and PGSLUICE_TARGET.")
	if l.Target.DSN != "" && l.Target.DSN == l.Server.DSN {
		return same
	}
	if l.Resume {
		target, err := l.Target.Connect(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = target.Close(context.WithoutCancel(ctx)) }()
		l.Log.Info(identity.Line("target", target))
		is, err := identity.Same(ctx, source, target)
		if err != nil {
			return l.Server.Explain(err)
		}
		if is {
			return same
		}
	}
	if l.Slot == "" {
		return nil
	}
	// Whether it has been migrated to. Not every role may ask that of a schema that is another's.
	streams, err := progress.Streams(ctx, source, l.Slot)
	if err != nil {
		return nil
	}
	for _, s := range streams {
		if !s.Ended {
			return fault.New(fault.Config, "the source is the target of a migration with %v", s.Key).
				WithHint("Are source and target swapped? This is %s. If not, use another slot name; pgcutover cleanup removes what a finished migration has left.",
					identity.Name(source))
		}
	}
	return nil
}
