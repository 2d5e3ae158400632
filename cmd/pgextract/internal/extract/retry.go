package extract

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
)

// retry runs statements that lock tables of the source, or objects that others may be altering.
// They wait only briefly in the lock queue, because every session behind them would wait as well.
func (l *Load) retry(ctx context.Context, c *pgx.Conn, do func() error) error {
	if _, err := c.Exec(ctx, "SET lock_timeout = '"+waiting.LockTimeout+"'"); err != nil {
		return l.Server.Explain(err)
	}
	if err := l.Waits.Retry(ctx, 0, do); err != nil {
		return err
	}
	_, err := c.Exec(ctx, "SET lock_timeout = 0")
	return l.Server.Explain(err)
}
