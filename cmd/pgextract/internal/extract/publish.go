package extract

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/carried"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
)

// publish makes sure that the tables are published, and warns of those that are not fully
// replicated.
func (l *Load) publish(ctx context.Context, c *pgx.Conn, info *slot.Info) error {
	if info != nil {
		if _, err := slot.RequirePublications(ctx, c, []string{l.Publication}); err != nil {
			return l.Server.Explain(err)
		}
	}
	state, err := carried.Publish(ctx, c, l.Publication, l.chosen.rows)
	if err != nil {
		return l.Server.Explain(err)
	}
	var noIdentity, unlogged, refuses []string
	for _, t := range state.Rows() {
		switch {
		case !l.chosen.rows(t):
		case t.Unlogged:
			unlogged = append(unlogged, t.String())
		case t.Has(carried.Refuses):
			refuses = append(refuses, t.String())
		case t.Has(carried.NoIdentity):
			noIdentity = append(noIdentity, t.String())
		}
	}
	if len(noIdentity) > 0 {
		l.Log.Warn(fmt.Sprintf("%s without usable replica identity; only inserts and truncates of them are replicated: %s",
			count.Of(len(noIdentity), "table"), listed(noIdentity)),
			"hint", "If their rows are updated or deleted during the migration, give them a primary key, or ALTER TABLE … REPLICA IDENTITY FULL, before pgextract. pgcutover check says why each has none.")
	}
	if len(unlogged) > 0 {
		l.Log.Warn("unlogged tables are copied, but their later changes are not replicated, because the WAL does not have them: " + listed(unlogged))
	}
	if len(refuses) > 0 {
		l.Log.Warn(fmt.Sprintf("publication %s publishes updates of %s without usable replica identity; the source rejects updates and deletes of their rows: %s",
			l.Publication, count.Of(len(refuses), "table"), listed(refuses)))
	}
	return l.count(ctx, c, state)
}

// count reads what the source has counted of the tables whose changes are carried only in part, so
// that the cutover can tell whether there were others. It does so before the snapshot: what is
// counted later may be missing in the load.
func (l *Load) count(ctx context.Context, c *pgx.Conn, state *carried.State) error {
	tables := slices.DeleteFunc(state.Rows(), func(t *carried.Table) bool { return !l.chosen.rows(t) })
	counted, err := l.counters(ctx, c, carried.Uncarried(tables))
	if err != nil {
		return l.Server.Explain(err)
	}
	if l.counted, err = carried.CountFiles(ctx, c, state.Files(tables)); err != nil {
		return l.Server.Explain(err)
	}
	maps.Copy(l.counted, counted)
	return nil
}

func (l *Load) counters(ctx context.Context, c *pgx.Conn, oids []uint32) (map[uint32]carried.Counters, error) {
	// A server before 15 may not yet have noticed a new database.
	const tries = 20
	for try := 1; ; try++ {
		counted, err := carried.Count(ctx, c, oids)
		maps.DeleteFunc(counted, func(_ uint32, x carried.Counters) bool { return x.Since == "" }) // nobody counts
		switch {
		case carried.IsDenied(err): // pgcutover says what that means
			return nil, nil
		case err != nil || try == tries || !carried.IsNew(counted, pgdial.Version(c.PgConn())):
			return counted, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// detaching refuses a partition with a pending DETACH CONCURRENTLY. For queries on the source it is
// no longer a partition, but for pg_dump it still is.
func (l *Load) detaching(ctx context.Context, c *pgx.Conn) error {
	state, err := carried.Tables(ctx, c, nil)
	if err != nil {
		return l.Server.Explain(err)
	}
	list := state.Detaching(l.chosen.rows)
	if len(list) == 0 {
		return nil
	}
	var names, statements []string
	for _, t := range list {
		names, statements = append(names, t.String()), append(statements, state.Finalize(t)+";")
	}
	return fault.New(fault.Config, "%s with a pending DETACH CONCURRENTLY on the source: %s",
		count.Of(len(list), "partition"), listed(names)).
		WithHint("Wait until the detach is finished. If no session is detaching any more, on the source: %s", strings.Join(statements[:min(len(statements), 5)], " "))
}

func listed(names []string) string {
	const most = 10
	if n := len(names) - most; n > 0 {
		names = append(names[:most:most], fmt.Sprintf("and %d more", n))
	}
	return strings.Join(names, ", ")
}
