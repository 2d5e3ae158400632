package steps

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/objects"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// addConstraint follows the table's name in pg_dump's statement for a constraint.
const addConstraint = "\n    ADD CONSTRAINT "

// constraintName returns the name of an object's constraint. pg_dump prefixes it with the table's
// name.
func constraintName(o progress.Object) string {
	_, constraint, _ := strings.Cut(o.SQL, addConstraint)
	return objects.FirstName(constraint)
}

// validate validates the foreign keys, and then creates those of partitioned tables from their
// partitions' keys. A key that the source has as not valid or not enforced says so in its
// definition and stays as it is. A key that cannot be validated does not stop the others.
func validate(ctx context.Context, s *session.Session) (valid int, bad *invalid, err error) {
	enforced := ""
	if pgdial.Version(s.OnTarget.PgConn()) >= 180000 {
		enforced = "AND k.conenforced"
	}
	rows, err := s.OnTarget.Query(ctx, `WITH RECURSIVE d AS (SELECT d.name, pg_catalog.to_regclass(pg_catalog.format('%I.%I', d.schema_name, d.table_name))::pg_catalog.oid AS oid FROM pgsluice.deferred d
			WHERE d.stream_id = $1 AND d.type = 'FK CONSTRAINT' AND d.definition !~ $2 AND d.state IN ('done', 'running')),
		t AS (SELECT d.name, d.oid FROM d WHERE d.oid IS NOT NULL UNION SELECT t.name, i.inhrelid FROM t JOIN pg_catalog.pg_class c ON c.oid = t.oid AND c.relkind = 'p' JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid)
		SELECT DISTINCT k.conname, k.conrelid::pg_catalog.regclass::pg_catalog.text FROM pg_catalog.pg_constraint k JOIN t ON t.oid = k.conrelid AND right(t.name, pg_catalog.length(k.conname) + 1) = ' ' || k.conname
		JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
		WHERE k.contype = 'f' AND NOT k.convalidated `+enforced+` ORDER BY 2, 1`, s.Stream.ID, objects.UncheckedPattern)
	if err != nil {
		return 0, nil, s.Target.Explain(err)
	}
	keys, err := pgx.CollectRows(rows, pgx.RowToStructByPos[fkey])
	if err != nil {
		return 0, nil, s.Target.Explain(err)
	}
	bad = new(invalid)
	for _, k := range keys {
		err := exec(ctx, s, k.validate())
		switch {
		case err == nil:
			valid++
			continue
		case objects.Refused(err):
			err = bad.add(ctx, s.OnTarget, k, err)
		}
		if err != nil {
			return valid, nil, s.Target.Explain(err)
		}
	}
	if len(bad.says) > 0 {
		return valid, bad, nil
	}
	// Once every partition has a valid key, the server attaches these keys to the partitioned
	// table's constraint and scans no rows.
	list, err := progress.Pending(ctx, s.OnTarget, s.Stream.ID, progress.PhaseCutover, "", "")
	if err != nil {
		return valid, nil, s.Target.Explain(err)
	}
	for _, o := range list {
		if o.Type != "FK CONSTRAINT" || o.Error != "" {
			continue
		}
		err := s.Patiently(ctx, s.Target, 0, func() error { return makeObject(ctx, s, o) })
		if objects.Refused(err) {
			err = progress.Fail(ctx, s.OnTarget, o.ID, err)
		}
		if err != nil {
			return valid, nil, s.Target.Explain(err)
		}
	}
	return valid, bad, nil
}
