package extract

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// fenced says, of a statement that the source has refused because it is read-only, that the fence
// of a cutover has closed it. It returns other errors unchanged.
func (l *Load) fenced(ctx context.Context, err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "25006" { // read_only_sql_transaction
		return err
	}
	c, failed := l.Server.Connect(ctx)
	if failed != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	f, isClosed, failed := slot.GetFence(ctx, c)
	if failed != nil || f == nil || !isClosed {
		return err
	}
	option := ""
	if f.Slot != "" {
		option = " --slot " + text.Shell(f.Slot)
	}
	e := fault.New(fault.Config, "the source is fenced: a cutover closed it at %s", f.Began.Local().Format("2006-01-02 15:04:05 MST")).
		WithDetail("%v", err)
	if f.Opened != nil {
		return e.WithHint("The target has taken its place. Read that instead, or see where the cutover stands: pgcutover status%s", option)
	}
	return e.WithHint("Finish the cutover, or give the source back to the application first: pgcutover unfence%s", option)
}
