package copyout

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
)

// patience is how long a lock is waited for in silence.
const patience = 5 * time.Second

// SayBlockers says whom a server process waits for, if it waits for long, and again now and then,
// until stop is called.
func SayBlockers(ctx context.Context, server pgdial.Server, log *slog.Logger, pid uint32, what string) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		for wait := patience; ; wait = 6 * patience {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			if list, err := blockers(ctx, server, pid); err == nil && len(list) > 0 {
				log.Warn(fmt.Sprintf("waiting for a lock on %s, which is held by %s", what, strings.Join(list, "; ")))
			}
		}
	}()
	return cancel
}

// blockers describes the sessions that a server process waits for.
func blockers(ctx context.Context, server pgdial.Server, pid uint32) ([]string, error) {
	c, err := server.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close(context.WithoutCancel(ctx))
	rows, err := c.Query(ctx, `SELECT CASE b.pid WHEN 0 THEN 'a prepared transaction' ELSE pg_catalog.format('process %s (role %s, %s)', b.pid, coalesce(a.usename, 'unknown'),
		coalesce(nullif(a.application_name, ''), 'no application name')) END
		FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids($1)) AS b(pid) LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid`, int32(pid))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
