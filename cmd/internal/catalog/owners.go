package catalog

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// NamedRoles selects the roles that own objects of the database, or that have privileges, policies
// or default privileges there. It skips an extension's objects, because the extension creates them
// anew. The server does not record dependencies on the superuser that initdb created.
const NamedRoles = `SELECT r.rolname, r.rolcanlogin, pg_catalog.bool_or(d.deptype = 'o') FROM pg_catalog.pg_shdepend d JOIN pg_catalog.pg_roles r ON r.oid = d.refobjid
	WHERE d.dbid = (SELECT b.oid FROM pg_catalog.pg_database b WHERE b.datname = pg_catalog.current_database()) AND d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
	AND d.deptype IN ('o', 'a', 'r') AND r.rolname !~ '^pg_'
	AND d.classid NOT IN ('pg_catalog.pg_publication'::pg_catalog.regclass, 'pg_catalog.pg_subscription'::pg_catalog.regclass, 'pg_catalog.pg_event_trigger'::pg_catalog.regclass)
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = d.classid AND e.objid = d.objid AND e.deptype = 'e')
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = d.objid
		AND (n.nspname = 'pgsluice' OR n.nspname ~ '^pg_'))
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND p.oid = d.objid
		AND (n.nspname = 'pgsluice' OR n.nspname ~ '^pg_'))
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE d.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND n.oid = d.objid AND (n.nspname = 'pgsluice' OR n.nspname ~ '^pg_'))
	GROUP BY 1, 2 ORDER BY 1`

// An OwnerInSchema is a role that owns objects in a schema. May says whether it may create objects
// there.
type OwnerInSchema struct {
	Owner, Schema string
	May           bool
}

// OwnersInSchemas returns the schemas in which roles own objects. It skips an extension's objects.
func OwnersInSchemas(ctx context.Context, c *pgx.Conn, owners []string) ([]OwnerInSchema, error) {
	rows, err := c.Query(ctx, `SELECT DISTINCT pg_catalog.pg_get_userbyid(o.owner), n.nspname, pg_catalog.has_schema_privilege(o.owner, n.oid, 'CREATE') FROM (
			SELECT c.relowner, c.relnamespace, c.oid, 'pg_catalog.pg_class'::pg_catalog.regclass FROM pg_catalog.pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
			UNION ALL SELECT p.proowner, p.pronamespace, p.oid, 'pg_catalog.pg_proc'::pg_catalog.regclass FROM pg_catalog.pg_proc p
			UNION ALL SELECT y.typowner, y.typnamespace, y.oid, 'pg_catalog.pg_type'::pg_catalog.regclass FROM pg_catalog.pg_type y WHERE y.typtype IN ('d', 'e', 'r')) o(owner, namespace, oid, class)
		JOIN pg_catalog.pg_namespace n ON n.oid = o.namespace WHERE n.nspname NOT IN ('information_schema', 'pgsluice') AND n.nspname !~ '^pg_'
		AND pg_catalog.pg_get_userbyid(o.owner) = ANY ($1) AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = o.class AND e.objid = o.oid AND e.deptype = 'e') ORDER BY 2, 1`, owners)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[OwnerInSchema])
}

// LackInSchemas returns which of the privileges CREATE and USAGE the same roles lack in the same
// schemas on another server: "" for neither, nil if it does not have the schema. A role that the
// server lacks has the privileges that everybody has.
func LackInSchemas(ctx context.Context, c *pgx.Conn, pairs []OwnerInSchema) ([]*string, error) {
	var o, s []string
	for _, p := range pairs {
		o, s = append(o, p.Owner), append(s, p.Schema)
	}
	rows, err := c.Query(ctx, `SELECT CASE WHEN n.oid IS NOT NULL THEN (SELECT coalesce(pg_catalog.string_agg(p.name, ', ' ORDER BY p.name), '') FROM (VALUES ('CREATE'), ('USAGE')) p(name)
			WHERE NOT CASE WHEN r.oid IS NULL THEN pg_catalog.has_schema_privilege('public', n.oid, p.name) ELSE pg_catalog.has_schema_privilege(r.oid, n.oid, p.name) END) END
		FROM unnest($1::pg_catalog.text[], $2::pg_catalog.text[]) WITH ORDINALITY v(o, s, i)
		LEFT JOIN pg_catalog.pg_roles r ON r.rolname = v.o LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = v.s ORDER BY v.i`, o, s)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[*string])
}
