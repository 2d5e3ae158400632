package progress

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/citus"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
)

//go:embed schema.sql
var schemaSQL string

// layout is the end of the comment on pgsluice.streams. It changes with every change of the tables
// that an older or newer program would not understand.
const layout = "; layout 4"

// present describes the existing schema: whether it exists and belongs to our role, whether its
// tables exist, and their layout. Tables of other roles do not count. Merely reading a view, or a
// column of a user-defined type, could already execute another role's code.
type present struct {
	schema, owned, tables bool
	comment               string
}

func look(ctx context.Context, c *pgx.Conn) (p present, err error) {
	err = c.QueryRow(ctx, `SELECT n.oid IS NOT NULL, coalesce(pg_catalog.pg_get_userbyid(n.nspowner) = current_user, false), t.oid IS NOT NULL, coalesce(pg_catalog.obj_description(t.oid, 'pg_class'), '') FROM (VALUES ('pgsluice')) v(name)
		LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = v.name LEFT JOIN pg_catalog.pg_class t ON t.relnamespace = n.oid AND t.relname = 'streams' AND t.relkind = 'r'
			AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid IN (n.nspowner, t.relowner) AND NOT r.rolsuper AND r.rolname <> current_user)`).Scan(&p.schema, &p.owned, &p.tables, &p.comment)
	return p, err
}

// foreign finds what other roles could use to make us execute their code, or to change our state:
// objects in the schema that they own, objects attached to our tables, and their rights to write
// there. "We" are the current role. Superusers are trusted, because they can do anything anyway.
// Our tables depend only on built-in objects, for which the server records no dependencies.
//
// The objects of the schema are found by their dependency on it, and all else by the OIDs of our
// tables. So the query reads a few rows by index, whatever else the database has. Each subquery
// with OFFSET 0 leaves the planner no other choice.
const foreign = `WITH trusted AS (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolsuper OR r.rolname = current_user),
	s AS (SELECT n.oid, n.nspowner, n.nspacl FROM pg_catalog.pg_namespace n WHERE n.nspname = 'pgsluice'),
	obj AS (SELECT d.classid, d.objid FROM pg_catalog.pg_depend d WHERE d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND d.refobjid = (SELECT s.oid FROM s)),
	rel AS (SELECT c.* FROM obj, LATERAL (SELECT c.oid, c.relname, c.relkind, c.relowner, c.relacl, c.relrowsecurity FROM pg_catalog.pg_class c WHERE c.oid = obj.objid OFFSET 0) c
		WHERE obj.classid = 'pg_catalog.pg_class'::pg_catalog.regclass),
	mine AS (SELECT r.* FROM rel r WHERE r.relname IN ('streams', 'spill', 'tables', 'parts', 'deferred', 'cutover', 'conflicts', 'failures', 'allowed', 'fingerprints', 'comparisons', 'sequences')),
	piece AS (SELECT 'pg_catalog.pg_class'::pg_catalog.regclass AS catalog, mine.oid FROM mine
		UNION ALL SELECT 'pg_catalog.pg_class', i.oid FROM mine, LATERAL (SELECT i.indexrelid AS oid FROM pg_catalog.pg_index i WHERE i.indrelid = mine.oid OFFSET 0) i
		UNION ALL SELECT 'pg_catalog.pg_constraint', k.oid FROM mine, LATERAL (SELECT k.oid FROM pg_catalog.pg_constraint k WHERE k.conrelid = mine.oid OFFSET 0) k
		UNION ALL SELECT 'pg_catalog.pg_attrdef', f.oid FROM mine, LATERAL (SELECT f.oid FROM pg_catalog.pg_attrdef f WHERE f.adrelid = mine.oid OFFSET 0) f)
	SELECT what || CASE WHEN owner IS NULL THEN '' ELSE pg_catalog.format(', which belongs to role %I', pg_catalog.pg_get_userbyid(owner)) END FROM (
	SELECT 1 AS o, 'schema pgsluice' AS what, s.nspowner AS owner FROM s
	UNION ALL SELECT 2, pg_catalog.format('%s pgsluice.%I', CASE r.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence' ELSE 'relation' END, r.relname), r.relowner FROM rel r
	UNION ALL SELECT 3, pg_catalog.format('function pgsluice.%I', p.proname), p.proowner
		FROM obj, LATERAL (SELECT p.proname, p.proowner FROM pg_catalog.pg_proc p WHERE p.oid = obj.objid OFFSET 0) p WHERE obj.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
	UNION ALL SELECT 4, pg_catalog.format('type pgsluice.%I', y.typname), y.typowner
		FROM obj, LATERAL (SELECT y.typname, y.typowner FROM pg_catalog.pg_type y WHERE y.oid = obj.objid OFFSET 0) y WHERE obj.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
	) x WHERE owner NOT IN (SELECT trusted.oid FROM trusted)
	UNION ALL SELECT pg_catalog.format('trigger %I on %s', g.tgname, mine.oid::pg_catalog.regclass)
		FROM mine, LATERAL (SELECT g.tgname FROM pg_catalog.pg_trigger g WHERE g.tgrelid = mine.oid AND NOT g.tgisinternal OFFSET 0) g
	UNION ALL SELECT pg_catalog.format('rule %I on %s', w.rulename, mine.oid::pg_catalog.regclass)
		FROM mine, LATERAL (SELECT w.rulename FROM pg_catalog.pg_rewrite w WHERE w.ev_class = mine.oid OFFSET 0) w
	UNION ALL SELECT pg_catalog.format('row security of pgsluice.%I', mine.relname) FROM mine WHERE mine.relrowsecurity
	UNION ALL SELECT pg_catalog.format('%s, on which %s depends', pg_catalog.pg_describe_object(d.refclassid, d.refobjid, 0), pg_catalog.pg_describe_object(piece.catalog, piece.oid, d.objsubid))
		FROM piece, LATERAL (SELECT d.refclassid, d.refobjid, d.objsubid FROM pg_catalog.pg_depend d WHERE d.classid = piece.catalog AND d.objid = piece.oid OFFSET 0) d
		WHERE d.refclassid IN ('pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_operator'::pg_catalog.regclass, 'pg_catalog.pg_type'::pg_catalog.regclass, 'pg_catalog.pg_opclass'::pg_catalog.regclass)
	UNION ALL SELECT pg_catalog.format('the right of %s to create in schema pgsluice', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.format('role %I', pg_catalog.pg_get_userbyid(a.grantee)) END)
		FROM s, pg_catalog.aclexplode(s.nspacl) a WHERE a.privilege_type = 'CREATE' AND a.grantee NOT IN (SELECT trusted.oid FROM trusted)
	UNION ALL SELECT DISTINCT pg_catalog.format('the right of %s to write to pgsluice.%I', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.format('role %I', pg_catalog.pg_get_userbyid(a.grantee)) END, x.relname)
		FROM (SELECT mine.relname, mine.relacl AS acl FROM mine
			UNION ALL SELECT mine.relname, t.attacl FROM mine, LATERAL (SELECT t.attacl FROM pg_catalog.pg_attribute t WHERE t.attrelid = mine.oid AND t.attacl IS NOT NULL OFFSET 0) t) x,
		pg_catalog.aclexplode(x.acl) a WHERE a.privilege_type <> 'SELECT' AND a.grantee NOT IN (SELECT trusted.oid FROM trusted)`

// Trust refuses a schema in which roles other than ours and superusers have a say. What they create
// there would be executed, or believed, with our rights. It accepts a missing schema.
func Trust(ctx context.Context, c *pgx.Conn) error {
	rows, err := c.Query(ctx, foreign)
	if err != nil {
		return err
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(found) == 0 {
		return err
	}
	const most = 5
	text := strings.Join(found[:min(len(found), most)], "; ")
	if n := len(found) - most; n > 0 {
		text += fmt.Sprintf(" and %s", count.Of(n, "other"))
	}
	return fault.New(fault.Permission, "schema pgsluice on the target is not ours alone: %s", text).
		WithDetail("What belongs to others there would be executed with the rights of role %q.", c.Config().User).
		WithHint("If the migration was begun by the role that the schema belongs to, connect as that role, in --target or PGSLUICE_TARGET. Else have a look, and take away the rights, or as superuser: DROP SCHEMA pgsluice CASCADE")
}

// Ensure creates the schema and its tables if they are missing. Several processes may call it at
// once. It uses a schema as it is if our role or a superuser created it.
func Ensure(ctx context.Context, c *pgx.Conn) error {
	for attempt := 1; ; attempt++ {
		p, err := look(ctx, c)
		if err != nil {
			return err
		}
		if p.owned && !p.tables { // somebody just created it for us
			if err := withoutDefaults(ctx, c, true); err != nil {
				return err
			}
		}
		if err := Trust(ctx, c); err != nil {
			return err
		}
		if p.tables {
			return p.readable()
		}
		err = create(ctx, c, !p.schema)
		var pg *pgconn.PgError
		if errors.As(err, &pg) && attempt < 10 {
			switch pg.Code {
			case "23505", "42P06", "42P07", "42710": // another process created it first
				continue
			}
		}
		return err
	}
}

// readable returns an error if the tables have another layout.
func (p present) readable() error {
	if strings.HasSuffix(p.comment, layout) {
		return nil
	}
	return fault.New(fault.Config, "the state of migrations on the target was written by another version of pgsluice").
		WithHint("Finish the migration with the version that began it; or give it up: on the target, DROP SCHEMA pgsluice CASCADE")
}

// create creates the tables. If the schema is missing, it creates that first.
func create(ctx context.Context, c *pgx.Conn, schema bool) error {
	return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		if err := owned(ctx, tx); err != nil {
			return err
		}
		if schema {
			if _, err := tx.Exec(ctx,
				`CREATE SCHEMA pgsluice; COMMENT ON SCHEMA pgsluice IS 'state of migrations into this database by pgsluice. Removed by: pgcutover cleanup'`); err != nil {
				if isDenied(err) {
					return fault.New(fault.Permission, "could not create schema pgsluice on the target: %w", err).
						WithHint("Connect as the database's owner; or: GRANT CREATE ON DATABASE … TO …; or have it made: CREATE SCHEMA pgsluice AUTHORIZATION …")
				}
				return err
			}
		}
		if _, err := tx.Exec(ctx, schemaSQL); err != nil {
			if isDenied(err) {
				return fault.New(fault.Permission, "could not create the tables of schema pgsluice on the target: %w", err).
					WithHint("As the schema's owner: GRANT USAGE, CREATE ON SCHEMA pgsluice TO …")
			}
			return err
		}
		return withoutDefaults(ctx, tx, schema)
	})
}

// owned keeps a cluster from distributing the schema.
func owned(ctx context.Context, tx pgx.Tx) error {
	var cluster bool
	err := tx.QueryRow(ctx, "SELECT "+citus.There).Scan(&cluster)
	if err == nil && cluster {
		_, err = tx.Exec(ctx, citus.Own)
	}
	return err
}

// withoutDefaults revokes what default privileges have granted to other roles.
func withoutDefaults(ctx context.Context, c interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}, schema bool,
) error {
	rows, err := c.Query(ctx, `SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END
		FROM pg_catalog.pg_namespace n, LATERAL (SELECT n.nspacl AS acl, n.nspowner AS owner WHERE $1 UNION ALL SELECT c.relacl, c.relowner FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid) x,
		pg_catalog.aclexplode(x.acl) a WHERE n.nspname = 'pgsluice' AND a.grantee <> x.owner AND a.privilege_type <> 'SELECT'`, schema)
	if err != nil {
		return err
	}
	grantees, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(grantees) == 0 {
		return err
	}
	from := " FROM " + strings.Join(grantees, ", ")
	sql := "REVOKE ALL ON ALL TABLES IN SCHEMA pgsluice" + from + "; REVOKE ALL ON ALL SEQUENCES IN SCHEMA pgsluice" + from
	if schema {
		sql += "; REVOKE ALL ON SCHEMA pgsluice" + from
	}
	_, err = c.Exec(ctx, sql)
	return err
}

// Remove drops our tables. It also drops the schema if the schema is empty and belongs to us.
func Remove(ctx context.Context, c *pgx.Conn) error {
	var ours, empty bool
	if _, err := c.Exec(ctx,
		"DROP TABLE IF EXISTS pgsluice.sequences, pgsluice.comparisons, pgsluice.fingerprints, pgsluice.allowed, pgsluice.failures, pgsluice.conflicts, pgsluice.cutover, pgsluice.deferred, pgsluice.parts, pgsluice.tables, pgsluice.spill, pgsluice.streams"); err != nil {
		return err
	}
	err := c.QueryRow(ctx, `SELECT pg_catalog.pg_has_role(n.nspowner, 'USAGE'), NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
		WHERE d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND d.refobjid = n.oid) FROM pg_catalog.pg_namespace n WHERE n.nspname = 'pgsluice'`).Scan(&ours, &empty)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && !(ours && empty) {
		return nil
	}
	if err == nil {
		_, err = c.Exec(ctx, "DROP SCHEMA pgsluice")
	}
	return err
}

// notOurs adds a hint to an error about state that the role may not read.
func notOurs(err error) error {
	if !isDenied(err) {
		return err
	}
	return fault.New(fault.Permission, "could not read the state of migrations: %w", err).
		WithHint("Connect as the role that has begun the migration, in --target or PGSLUICE_TARGET.")
}

func isDenied(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "42501"
}
