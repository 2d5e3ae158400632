package write

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/hold"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
)

// unreference drops the foreign keys that pgcutover prepare has created and that keep the target
// from executing a truncate. The source may truncate a table that others referenced when it was
// loaded. unreference returns the error after which pgapply applies the transaction again, or nil
// if the refusal has another cause.
func (l *lane) unreference(ctx context.Context, op *plan.TruncateOp, refused error) error {
	var pg *pgconn.PgError
	if !errors.As(refused, &pg) || pg.Code != "0A000" || l.undo(ctx, "ROLLBACK") != nil {
		return nil
	}
	var of []string
	for _, t := range op.Tables {
		of = append(of, "pg_catalog.to_regclass("+progress.Literal(t.QualifiedName())+")::pg_catalog.oid")
	}
	row, err := l.s.ask(ctx, hold.SelectKeys(l.stream, "SELECT pg_catalog.unnest(ARRAY["+strings.Join(of, ", ")+"])"))
	if err != nil {
		return err
	}
	list, err := hold.ParseKeys(row[0])
	if err != nil || len(list) == 0 {
		return err
	}
	if err := l.s.exec(ctx, "BEGIN; "+hold.KeysSQL(list)+"; COMMIT"); err != nil {
		return err
	}
	return fault.New(fault.TryAgain,
		"the source has truncated a table that %s of the target reference: they wait for the cutover again, and the transaction is applied again",
		count.Of(len(list), "foreign key"))
}
