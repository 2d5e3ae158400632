package steps

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// analyzers is how many sessions analyze tables at the same time.
const analyzers = 2

// analyze analyzes the tables that have changed much since they were last analyzed, the largest
// ones first. That of a partitioned table also analyzes its partitions. A failure is not worth a
// failed cutover: a partition may be a foreign table whose server is unreachable, or an expression
// with statistics may fail for some rows. It waits at most patience for another session's lock; 0
// means no limit.
func analyze(ctx context.Context, s *session.Session, patience time.Duration) (int, error) {
	may := ""
	if pgdial.Version(s.OnTarget.PgConn()) >= 170000 {
		may = "OR pg_catalog.has_table_privilege(c.oid, 'MAINTAIN')"
	}
	// Versions before 14 do not tell when a partitioned table was analyzed.
	rows, err := s.OnTarget.Query(ctx, `WITH RECURSIVE rel AS (SELECT c.oid, c.relkind, c.relispartition, c.reltuples,
				greatest(pg_catalog.pg_stat_get_last_analyze_time(c.oid), pg_catalog.pg_stat_get_last_autoanalyze_time(c.oid)) AS at, pg_catalog.pg_stat_get_mod_since_analyze(c.oid) AS changes,
				pg_catalog.pg_has_role(c.relowner, 'USAGE') OR pg_catalog.pg_has_role((SELECT d.datdba FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()), 'USAGE') `+may+` AS may
			FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
			WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'pgsluice')),
		tree(root, oid) AS (SELECT rel.oid, rel.oid FROM rel WHERE NOT rel.relispartition UNION ALL SELECT tree.root, i.inhrelid FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid
			JOIN rel ON rel.oid = i.inhrelid AND rel.relispartition)
		SELECT t.root::pg_catalog.regclass::pg_catalog.text, pg_catalog.bool_and(rel.may) FROM tree t JOIN rel ON rel.oid = t.oid GROUP BY t.root
		HAVING pg_catalog.bool_or(rel.at IS NULL OR rel.relkind <> 'p' AND rel.changes > 50 + 0.1 * greatest(rel.reltuples, 0))
		ORDER BY pg_catalog.sum(CASE rel.relkind WHEN 'p' THEN 0 ELSE pg_catalog.pg_relation_size(rel.oid) END) DESC, 1`)
	if err != nil {
		return 0, s.Target.Explain(err)
	}
	var tables, denied []string
	var name string
	var mine bool
	if _, err := pgx.ForEachRow(rows, []any{&name, &mine}, func() error {
		if mine {
			tables = append(tables, name)
		} else {
			denied = append(denied, name)
		}
		return nil
	}); err != nil {
		return 0, s.Target.Explain(err)
	}
	if len(denied) > 0 {
		s.Log.Warn("the role may not analyze these tables of the target: "+count.Some(denied),
			"hint", "As their owner on the target: ANALYZE; Until then the planner knows nothing about their rows.")
	}
	var next atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	for i := range min(analyzers, len(tables)) {
		g.Go(func() error {
			conn := s.OnTarget
			if i > 0 {
				var err error
				if conn, err = s.Connect(gctx, s.Target); err != nil {
					return err
				}
				defer conn.Close(context.WithoutCancel(gctx))
			}
			for n := next.Add(1); n <= int64(len(tables)); n = next.Add(1) {
				if err := analyzeTable(gctx, s, conn, tables[n-1], patience); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return len(tables), g.Wait()
}

func analyzeTable(ctx context.Context, s *session.Session, conn *pgx.Conn, name string, patience time.Duration) error {
	err := s.Patiently(ctx, s.Target, patience, func() error {
		_, err := conn.Exec(ctx, "ANALYZE "+name, pgx.QueryExecModeSimpleProtocol)
		return err
	})
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && !conn.IsClosed(), patience > 0 && waiting.IsLockTimeout(err):
		s.Log.Warn(fmt.Sprintf("could not analyze %s: %v", name, err))
		return nil
	}
	return s.Target.Explain(err)
}
