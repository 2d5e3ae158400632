package steps

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// exec executes a statement on the open target, once the application holds no conflicting lock.
func exec(ctx context.Context, s *session.Session, sql string) error {
	return s.Patiently(ctx, s.Target, 0, func() error {
		_, err := s.OnTarget.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
		return err
	})
}

// refresh refreshes the materialized views that have data, each after the views it reads. It
// returns how many it refreshed, and those that it could not.
func refresh(ctx context.Context, s *session.Session) (refreshed int, stale []string, err error) {
	rows, err := s.OnTarget.Query(ctx, `WITH RECURSIVE d(oid, depth) AS (
			SELECT oid, 1 FROM pg_catalog.pg_class WHERE relkind = 'm' AND relispopulated
			UNION ALL SELECT r.ev_class, d.depth + 1 FROM d JOIN pg_catalog.pg_depend p ON p.refobjid = d.oid AND p.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND p.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
			JOIN pg_catalog.pg_rewrite r ON r.oid = p.objid WHERE r.ev_class <> d.oid AND d.depth < 100)
		SELECT d.oid::pg_catalog.regclass::pg_catalog.text FROM d JOIN pg_catalog.pg_class c ON c.oid = d.oid WHERE c.relkind = 'm' AND c.relispopulated GROUP BY d.oid ORDER BY pg_catalog.max(d.depth), 1`)
	if err != nil {
		return 0, nil, s.Target.Explain(err)
	}
	views, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return 0, nil, s.Target.Explain(err)
	}
	for _, v := range views {
		err := exec(ctx, s, "REFRESH MATERIALIZED VIEW "+v)
		var pg *pgconn.PgError
		switch {
		case errors.As(err, &pg) && !s.OnTarget.IsClosed():
			stale = append(stale, fmt.Sprintf("%s: %v", v, err))
		case err != nil:
			return refreshed, stale, s.Target.Explain(err)
		default:
			refreshed++
		}
	}
	return refreshed, stale, nil
}
