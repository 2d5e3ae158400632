package steps

import (
	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

func (c *checker) sourceRole() error {
	can, err := c.ask(c.s, `SELECT rolsuper OR rolreplication OR EXISTS (SELECT FROM pg_catalog.pg_roles g WHERE g.rolname = 'rds_replication' AND pg_catalog.pg_has_role(current_user, g.oid, 'USAGE'))
		FROM pg_catalog.pg_roles WHERE rolname = current_user`)
	if err != nil {
		return err
	}
	if can == "true" {
		c.ok("the source's role may use replication slots")
	} else {
		c.fail("On RDS and Aurora: GRANT rds_replication TO "+c.sourceUser+";", "the source's role has no REPLICATION attribute").
			do("source", superuser, "ALTER ROLE "+c.sourceUser+" REPLICATION;")
	}
	can, err = c.ask(c.s, "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')")
	if err != nil {
		return err
	}
	if can != "true" {
		c.fail("", "the source's role may not create a publication in the database").
			do("source", superuser, "GRANT CREATE ON DATABASE "+c.sourceDatabase+" TO "+c.sourceUser+";")
	}
	owner, err := c.ask(c.s, "SELECT CASE WHEN NOT pg_catalog.pg_has_role(current_user, datdba, 'USAGE') THEN pg_catalog.pg_get_userbyid(datdba) END FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()")
	if err != nil {
		return err
	}
	if owner != "" {
		c.fail("Or use the owner for pgcutover.", "the source's role does not own the database, and cannot fence it at cutover").
			do("source", superuser, grantRole(c.sv, owner, c.sourceUser))
	}
	return nil
}

func (c *checker) targetRole() error {
	can, err := c.ask(c.t, "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')")
	if err != nil {
		return err
	}
	made, err := c.ask(c.t, "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = 'pgsluice' AND pg_catalog.has_schema_privilege(n.oid, 'CREATE'))")
	if err != nil {
		return err
	}
	switch {
	case can == "true":
	case made == "true":
		c.warn("If the load brings schemas, let it:", "the target's role may not create schemas; pgsluice is there for it").
			do("target", superuser, "GRANT CREATE ON DATABASE "+c.targetDatabase+" TO "+c.targetUser+";")
	default:
		c.fail("If the schema is created by hand, one for pgsluice alone will do: CREATE SCHEMA pgsluice AUTHORIZATION "+c.targetUser+";", "the target's role may not create schemas").
			do("target", superuser, "GRANT CREATE ON DATABASE "+c.targetDatabase+" TO "+c.targetUser+";")
	}
	if _, err := c.t.Exec(c.ctx, "SET session_replication_role = replica"); err == nil {
		c.ok("the target's role may switch off triggers and foreign keys (session_replication_role)")
		_, _ = c.t.Exec(c.ctx, "RESET session_replication_role")
	} else {
		f := c.warn("Triggers, rules and foreign keys that are there are taken off until the cutover.", "the target's role may not set session_replication_role")
		if c.tv >= 150000 {
			f.do("target", superuser, "GRANT SET ON PARAMETER session_replication_role TO "+c.targetUser+";")
		}
	}
	return nil
}

// roles looks for roles that the schema names and the target does not have.
func (c *checker) roles() error {
	rows, err := c.s.Query(c.ctx, `WITH o(owner, acl) AS (
			SELECT c.relowner, c.relacl FROM pg_catalog.pg_class c WHERE c.relnamespace NOT IN (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname IN ('information_schema', 'pgsluice') OR nspname ~ '^pg_')
			UNION ALL SELECT p.proowner, p.proacl FROM pg_catalog.pg_proc p WHERE p.pronamespace NOT IN (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname IN ('information_schema', 'pgsluice') OR nspname ~ '^pg_')
			UNION ALL SELECT n.nspowner, n.nspacl FROM pg_catalog.pg_namespace n WHERE n.nspname NOT IN ('information_schema', 'pgsluice') AND n.nspname !~ '^pg_')
		SELECT DISTINCT r.rolname FROM pg_catalog.pg_roles r WHERE r.rolname !~ '^pg_' AND r.oid IN (SELECT owner FROM o UNION SELECT a.grantee FROM o, pg_catalog.aclexplode(o.acl) a) ORDER BY 1`)
	if err != nil {
		return c.m.Source.Explain(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return c.m.Source.Explain(err)
	}
	if rows, err = c.t.Query(c.ctx, "SELECT n FROM pg_catalog.unnest($1::pg_catalog.text[]) n WHERE n NOT IN (SELECT rolname FROM pg_catalog.pg_roles) ORDER BY 1", names); err != nil {
		return err
	}
	missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		c.warn("Create them (pg_dumpall --roles-only | psql), or use pgextract --no-owner --no-acl.", "roles that own objects or have privileges, and that the target does not have: %s", some(missing))
	} else {
		c.ok("the target has all roles that own objects or have privileges")
	}
	return nil
}

// grantRole returns the statement that makes role to, which is quoted already, a member of another such
// that it may become that one and has its rights at once: what version 16 and newer tell apart.
func grantRole(version int, role, to string) string {
	with := ""
	if version >= 160000 {
		with = " WITH INHERIT TRUE, SET TRUE"
	}
	return "GRANT " + text.Ident(role) + " TO " + to + with + ";"
}
