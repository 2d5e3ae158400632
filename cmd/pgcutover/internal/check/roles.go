package check

import (
	"github.com/pgsluice/pgsluice/cmd/internal/citus"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/fencing"
)

func (c *checker) sourceRole() error {
	f, err := fencing.GetRights(c.ctx, c.s)
	if err != nil {
		return err
	}
	if f.Slots {
		c.ok("replication-right", "the source's role may use replication slots")
	} else {
		c.fail("replication-right", "On RDS and Aurora: GRANT rds_replication TO "+c.sourceUser+";", "the source's role has no REPLICATION attribute").
			do("source", superuser, "ALTER ROLE "+c.sourceUser+" REPLICATION;")
	}
	can, err := c.value(c.s, "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')")
	if err != nil {
		return err
	}
	if can != "true" {
		c.fail("publication-right", "", "the source's role may not create a publication in the database").
			do("source", superuser, "GRANT CREATE ON DATABASE "+c.sourceDatabase+" TO "+c.sourceUser+";")
	}
	if f.Owner != "" {
		super, err := c.value(c.s, "SELECT r.rolsuper FROM pg_catalog.pg_database d JOIN pg_catalog.pg_roles r ON r.oid = d.datdba WHERE d.datname = pg_catalog.current_database()")
		if err != nil {
			return err
		}
		remedy := "Or use the owner for pgcutover."
		if super == "true" { // our role must not become one
			remedy = "It belongs to a superuser. Give it another owner, and make the role a member of that: ALTER DATABASE " + c.sourceDatabase + " OWNER TO …"
		}
		w := c.fail("database-owner", remedy, "the source's role does not own the database, and cannot fence it at cutover")
		if super != "true" {
			w.do("source", superuser, grantRole(c.sv, f.Owner, c.sourceUser))
		}
	}
	if len(f.Grants) > 0 {
		c.fail("session-rights", "", "the source's role may not see or end the sessions of other roles, and cannot fence the database at cutover").
			do("source", superuser, f.Grant())
	}
	return nil
}

func (c *checker) targetRole() error {
	can, err := c.value(c.t, "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')")
	if err != nil {
		return err
	}
	made, err := c.value(c.t, "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = 'pgsluice' AND pg_catalog.has_schema_privilege(n.oid, 'CREATE'))")
	if err != nil {
		return err
	}
	switch {
	case can == "true":
	case made == "true":
		c.warn("target-create-right", "If the load creates schemas, allow that:", "the target's role may not create schemas; schema pgsluice exists for it").
			do("target", superuser, "GRANT CREATE ON DATABASE "+c.targetDatabase+" TO "+c.targetUser+";")
	default:
		c.fail("target-create-right", "If you create the schema yourself, a schema for pgsluice is enough: CREATE SCHEMA pgsluice AUTHORIZATION "+
			c.targetUser+";", "the target's role may not create schemas").
			do("target", superuser, "GRANT CREATE ON DATABASE "+c.targetDatabase+" TO "+c.targetUser+";")
	}
	if c.cluster && !citus.Replica {
		c.note("replica-role", "foreign keys of the target are removed until the cutover, because Citus does not switch them off on its workers")
	} else if _, err := c.t.Exec(c.ctx, "SET session_replication_role = replica"); err == nil {
		c.ok("replica-role", "the target's role may switch off triggers and foreign keys (session_replication_role)")
		_, _ = c.t.Exec(c.ctx, "RESET session_replication_role")
	} else {
		f := c.warn("replica-role", "Existing triggers, rules and foreign keys are removed until the cutover.",
			"the target's role may not set session_replication_role")
		if c.tv >= 150000 {
			f.do("target", superuser, "GRANT SET ON PARAMETER session_replication_role TO "+c.targetUser+";")
		}
	}
	return nil
}
