package steps

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/objects"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// addConstraint follows the table's name in pg_dump's statement for a constraint.
const addConstraint = "\n    ADD CONSTRAINT "

// notValid creates a foreign key as NOT VALID. A partitioned table cannot have such a constraint,
// but its partitions can. Finish later turns theirs into a constraint of the partitioned table.
func notValid(ctx context.Context, s *session.Session, o progress.Object) error {
	head, constraint, ok := strings.Cut(o.SQL, addConstraint)
	if !ok {
		return makeObject(ctx, s, o)
	}
	name := constraintName(o)
	constraint = addConstraint + strings.TrimRight(constraint, "; \n") + " NOT VALID;"
	leaves, whole, err := leaves(ctx, s, o, name)
	if err != nil {
		return err
	}
	if !whole {
		o.SQL = head + constraint
		return makeObject(ctx, s, o)
	}
	for some := range slices.Chunk(append(leaves, ""), session.LocksAtOnce) {
		err := pgx.BeginFunc(ctx, s.OnTarget, func(tx pgx.Tx) error {
			for _, leaf := range some {
				if leaf == "" { // the last element, which may be the only one
					continue
				}
				if _, err := tx.Exec(ctx, "ALTER TABLE ONLY "+leaf+constraint, pgx.QueryExecModeSimpleProtocol); err != nil {
					return err
				}
			}
			return progress.SetObject(ctx, s.OnTarget, o.ID, "running")
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// constraintName returns the name of an object's constraint. pg_dump prefixes it with the table's
// name.
func constraintName(o progress.Object) string {
	_, constraint, _ := strings.Cut(o.SQL, addConstraint)
	return objects.FirstName(constraint)
}

// leaves returns the partitions that hold an object's rows and have no foreign key of that name
// yet. whole is false if the object's table is not partitioned.
func leaves(ctx context.Context, s *session.Session, o progress.Object, name string) (list []string, whole bool, err error) {
	var kind string
	var oid uint32
	err = s.OnTarget.QueryRow(ctx,
		"SELECT c.oid, c.relkind::pg_catalog.text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
		o.Schema, o.Table).Scan(&oid, &kind)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && kind != "p" {
		return nil, false, nil
	}
	if err != nil {
		return nil, true, err
	}
	rows, err := s.OnTarget.Query(ctx, `WITH RECURSIVE d(oid) AS (SELECT $1::pg_catalog.oid UNION ALL SELECT i.inhrelid FROM d JOIN pg_catalog.pg_inherits i ON i.inhparent = d.oid)
		SELECT d.oid::pg_catalog.regclass::pg_catalog.text FROM d JOIN pg_catalog.pg_class c ON c.oid = d.oid WHERE c.relkind = 'r'
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conrelid = d.oid AND k.contype = 'f' AND k.conname = $2) ORDER BY 1`, oid, name)
	if err != nil {
		return nil, true, err
	}
	list, err = pgx.CollectRows(rows, pgx.RowTo[string])
	return list, true, err
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
