package steps

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/objects"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// retry tries again to create what the load could not create: only what takes no time if quick is set, because the application waits. It returns what is left.
func (m *Migration) retry(ctx context.Context, t *pgx.Conn, stream int32, quick bool) ([]progress.Object, error) {
	failed, err := progress.Failed(ctx, t, stream)
	if err != nil || len(failed) == 0 {
		return nil, m.Target.Explain(err)
	}
	want := objects.Any
	if quick {
		want = objects.Quick
	}
	n, err := objects.Retry(ctx, m.Target, stream, want)
	if err != nil {
		return nil, err
	}
	if n > 0 {
		m.Log.Info(count.Of(n, "object") + " that the load could not create could be now")
	}
	failed, err = progress.Failed(ctx, t, stream)
	return failed, m.Target.Explain(err)
}

// warnFailed says what is missing on the target, why, and what to do.
func (m *Migration) warnFailed(ctx context.Context, t *pgx.Conn, failed []progress.Object) error {
	if len(failed) == 0 {
		return nil
	}
	causes, err := objects.Causes(ctx, t, failed)
	if err != nil {
		return m.Target.Explain(err)
	}
	each, remedies := objects.Text(causes)
	hint := fmt.Sprintf("Mend the causes; then: pgcutover finish --slot %s", m.Slot)
	if remedies != "" {
		hint = fmt.Sprintf("On the target, as a role that may: %s Then: pgcutover finish --slot %s", remedies, m.Slot)
	}
	m.Log.Warn(count.Of(len(failed), "object")+" could not be created on the target", "detail", each, "hint", hint)
	return nil
}
