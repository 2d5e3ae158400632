package write

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// Foreign keys, triggers and rules are created at the cutover. A recorded statement that drops,
// alters or renames one of them needs it earlier.

// await creates the deferred object whose absence made the target refuse a recorded statement. It
// returns the error after which pgapply applies the transaction again, or nil if the refusal has
// another cause.
func (l *lane) await(ctx context.Context, refused error) error {
	var pg *pgconn.PgError
	if !errors.As(refused, &pg) || pg.Code != "42704" || l.undo(ctx, "ROLLBACK") != nil {
		return nil
	}
	const name = "pg_catalog.substr(name, pg_catalog.length(table_name) + 2)"
	row, err := l.s.ask(ctx, fmt.Sprintf(`SELECT id, definition, pg_catalog.lower(type) || ' ' || schema_name || '.' || name FROM pgsluice.deferred, (VALUES (%s)) m(m)
		WHERE stream_id = %d AND state = 'deferred' AND phase = '%s' AND type IN ('FK CONSTRAINT', 'TRIGGER', 'RULE') AND table_name <> ''
		AND pg_catalog.strpos(m.m, '"' || %s || '"') > 0 AND pg_catalog.strpos(m.m, '"' || table_name || '"') > 0 ORDER BY id LIMIT 1`,
		progress.Literal(pg.Message), l.stream, progress.PhaseCutover, name))
	if err != nil || len(row) != 3 {
		return nil
	}
	var id int64
	if _, err := fmt.Sscan(row[0], &id); err != nil {
		return nil
	}
	if err := l.s.exec(ctx, "BEGIN; "+strings.TrimRight(row[1], "; \n")+"; "+progress.DoneSQL(id)); err != nil {
		return l.undo(ctx, "ROLLBACK")
	}
	// The transaction's rows are written before the statement, so the new object must not act on
	// them.
	if err := l.hold(ctx); err != nil {
		return err
	}
	if err := l.s.exec(ctx, "COMMIT"); err != nil {
		return l.undo(ctx, "ROLLBACK")
	}
	return fault.New(fault.TryAgain,
		"%s waited for the cutover, but a recorded statement needs it: it has been created, and the transaction is applied again",
		text.Escape(row[2]))
}
