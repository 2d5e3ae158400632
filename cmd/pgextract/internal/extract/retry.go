package extract

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
)

// retry runs statements that want locks of the source's tables, or of what others may be altering.
// They do not queue for long: who is behind them in the queue would wait, too.
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
