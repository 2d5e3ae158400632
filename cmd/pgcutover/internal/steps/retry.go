package steps

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/objects"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// once is the patience of those who do not wait for locks of others: whoever has called them begins
// anew.
const once = time.Nanosecond

// retry tries again to create what the load could not create: only what takes no time if quick is
// set, because the application waits. It returns what is left. Locks of others may stand in the way
// of each for as long as patience (0: for ever).
func (m *Migration) retry(ctx context.Context, t *pgx.Conn, stream int32, quick bool, patience time.Duration) ([]progress.Object, error) {
	failed, err := progress.Failed(ctx, t, stream)
	if err != nil || len(failed) == 0 {
		return nil, m.Target.Explain(err)
	}
	want := objects.Any
	if quick {
		want = objects.Quick
	}
	n, err := objects.Retry(ctx, m.Target, stream, want, func(do func() error) error { return m.patiently(ctx, m.Target, patience, do) })
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
