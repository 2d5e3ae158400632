// Package steps has the steps of a cutover. Each step checks whether it is already done, does its
// work, and verifies the result, so each step can be repeated. The steps read LSNs from both
// servers and do not read the stream.
package steps

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/objects"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/missing"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/watch"
)

// Finish does the work that the application need not wait for: it validates the foreign keys,
// refreshes the materialized views, and analyzes the tables. If the target is not open yet, Finish
// opens it first.
func Finish(ctx context.Context, m *session.Migration, timeout time.Duration) error {
	if err := Open(ctx, m, nil, timeout); err != nil {
		return err
	}
	s, err := m.BeginTarget(ctx)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	if err := s.Exclusive(ctx); err != nil {
		return err
	}
	err = s.Step(ctx, "finish", func(*pgx.Batch) (string, error) { return finish(ctx, s, timeout) })
	if err = watched(ctx, s, err); err == nil {
		err = dropUnread(ctx, s)
	}
	return err
}

// watched looks whether anybody has written to the source since. It does so also if finish has
// failed with err.
func watched(ctx context.Context, s *session.Session, err error) error {
	r, failed := watch.Once(ctx, s, watch.Patience)
	if failed == nil {
		failed = r.Err(s.Slot)
	}
	if err == nil {
		return failed
	}
	if failed != nil {
		s.Log.Warn(failed.Error())
	}
	return err
}

func finish(ctx context.Context, s *session.Session, timeout time.Duration) (string, error) {
	left, err := missing.Retry(ctx, s, false, timeout)
	if err != nil {
		return "", err
	}
	if slices.ContainsFunc(left, func(o progress.Object) bool { return o.Phase == progress.PhaseCutover }) {
		if _, _, err := deferred(ctx, s, progress.PhaseCutover, 0); err != nil {
			return "", err
		}
	}
	valid, bad, err := validate(ctx, s)
	if err != nil {
		return "", err
	}
	views, stale, err := refresh(ctx, s)
	if err != nil {
		return "", err
	}
	analyzed, err := analyze(ctx, s, 0)
	if err != nil {
		return "", err
	}
	// Create event triggers last: they would fire for the statements before.
	if _, _, err := deferred(ctx, s, progress.PhaseFinish, 0); err != nil {
		return "", err
	}
	text := fmt.Sprintf("%s validated, %s refreshed, %s analyzed", count.Of(valid, "foreign key"), count.Of(views, "materialized view"), count.Of(analyzed, "table"))
	failed, err := progress.Failed(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return "", s.Target.Explain(err)
	}
	if err := bad.fault(s.Slot); err != nil {
		return "", err
	}
	if len(stale) > 0 {
		return "", fault.New(fault.Failed, "%d materialized views could not be refreshed: %s", len(stale), strings.Join(stale, "; ")).
			WithHint("Their rows are those of the full load. Correct the cause and run finish again, or execute: DROP MATERIALIZED VIEW …")
	}
	if len(failed) > 0 {
		text += fmt.Sprintf("; %s missing, see pgsluice.deferred", count.Of(len(failed), "object"))
		if err := warnFailed(ctx, s, failed); err != nil {
			return "", err
		}
	}
	return text, nil
}

// warnFailed names the objects that the target lacks, why, and what to do.
func warnFailed(ctx context.Context, s *session.Session, failed []progress.Object) error {
	if len(failed) == 0 {
		return nil
	}
	causes, err := objects.Causes(ctx, s.OnTarget, failed)
	if err != nil {
		return s.Target.Explain(err)
	}
	each, remedies := objects.Text(causes)
	hint := fmt.Sprintf("Mend the causes; then: pgcutover finish --slot %s", s.Slot)
	if remedies != "" {
		hint = fmt.Sprintf("On the target, as a role that may: %s Then: pgcutover finish --slot %s", remedies, s.Slot)
	}
	s.Log.Warn(count.Of(len(failed), "object")+" could not be created on the target", "detail", each, "hint", hint)
	return nil
}
