package extract

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
)

// readable refuses to begin if the role may not read some objects. It names all of them at once,
// before the slot exists.
func (l *Load) readable(ctx context.Context, c *pgx.Conn) error {
	x, err := catalog.LookClosed(ctx, c, l.chosen.has, l.Select.all())
	if err != nil {
		return l.Server.Explain(err)
	}
	if !x.Any() {
		return nil
	}
	return fault.New(fault.Permission, "role %q may not read all objects of the load", x.Role).
		WithDetail("%s", x.Text(true)).
		WithHint("As superuser on the source: %s Or leave these objects out.", strings.Join(x.Statements(), " "))
}
