package fencing

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Returning returns the sessions of others that can connect to the closed source again: their role
// is ours, or has its rights. The fence ends them and makes their next ones read-only, which BEGIN
// READ WRITE passes. Our own programs are told by their names: who takes one of these on purpose is
// not warned about, but still ended and watched.
func Returning(ctx context.Context, c *pgx.Conn) ([]Client, error) {
	list, err := Clients(ctx, c)
	if err != nil {
		return nil, err
	}
	rows, err := c.Query(ctx, `SELECT a.pid FROM pg_catalog.pg_stat_activity a JOIN pg_catalog.pg_roles r ON r.rolname = SESSION_USER
		WHERE a.datname = pg_catalog.current_database() AND a.usesysid IS NOT NULL AND pg_catalog.pg_has_role(a.usesysid, r.oid, 'USAGE') AND a.backend_type = 'client backend'
		AND NOT (a.usename = SESSION_USER AND a.application_name IN ('pgcutover', 'pgdecode', 'pgapply', 'pgextract', 'pg_dump'))`)
	if err != nil {
		return nil, err
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	return slices.DeleteFunc(list, func(x Client) bool { return !slices.Contains(pids, x.PID) }), err
}

// These are the words for such sessions, for check and for fence.
const (
	ReturningText = "sessions on the source can connect again when it is closed, because their role is that of pgcutover or has its rights; they are read-only then, which BEGIN READ WRITE passes"
	ReturningHint = "Give the application a role of its own. What passes the fence is found: pgcutover open refuses then, and pgcutover watch ends with status 1."
)

// These are the words for a source that somebody else has made read-only, for check and for fence.
const (
	FrozenText = "the source's database is read-only already, by a setting that no fence has made"
	FrozenHint = "The cutover closes it all the same. What gives the source back afterwards, unfence or a cutover back, restores the setting. " +
		"If the application is to write to it: ALTER DATABASE … RESET default_transaction_read_only"
)

// WarnReturning warns about such sessions.
func WarnReturning(ctx context.Context, s *session.Session) error {
	list, err := Returning(ctx, s.OnSource)
	if err == nil && len(list) > 0 {
		s.Log.Warn(ReturningText, "detail", Describe(list), "hint", ReturningHint)
	}
	return s.Source.Explain(err)
}
