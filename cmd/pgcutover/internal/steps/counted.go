package steps

import (
	"context"
	"slices"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/carried"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/missing"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// uncarried returns the tables, if there are any, whose updates and deletes are not carried, as the
// fence has counted them before the source was closed.
func uncarried(done []progress.Step) (counted string) {
	i := slices.IndexFunc(done, func(s progress.Step) bool { return s.Name == "fence" && s.Finished != nil })
	if i < 0 {
		return ""
	}
	return done[i].Counted
}

// counted waits until the source's statistics have what the sessions that the fence has ended have
// done. From 15 on they have it at once. Older servers read them from a file that may be half a
// second old.
func counted(ctx context.Context, s *session.Session, done []progress.Step) error {
	const age = 600 * time.Millisecond
	if uncarried(done) == "" || pgdial.Version(s.OnSource.PgConn()) >= 150000 {
		return nil
	}
	var ago time.Duration
	if err := s.OnTarget.QueryRow(ctx,
		"SELECT pg_catalog.clock_timestamp() - finished_at FROM pgsluice.cutover WHERE stream_id = $1 AND step = 'fence'",
		s.Stream.ID).Scan(&ago); err != nil {
		return s.Target.Explain(err)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(min(age-ago, age)):
		return nil
	}
}

// asCounted refuses to open the target if a row was updated or deleted, after the fence had looked
// and before it closed the source, in a table of which only inserts are carried.
func asCounted(ctx context.Context, s *session.Session, done []progress.Step, allow []string) error {
	same, err := carried.Recount(ctx, s.OnSource, uncarried(done))
	if err != nil && !carried.IsDenied(err) {
		return s.Source.Explain(err)
	}
	if same {
		return nil
	}
	return missing.RequireCarried(ctx, s, allow)
}
