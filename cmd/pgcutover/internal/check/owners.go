package check

import (
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/roles"
)

// A sourceRole is a role that the source's schema names.
type sourceRole struct {
	Name         string
	Login, Owner bool
}

// withoutRoles is the alternative for users who do not want the source's roles.
const withoutRoles = "Or leave owners and privileges out: pgextract --no-owner --no-acl."

// A roleOnTarget is the target's role of the same name as a role of the source's schema.
type roleOnTarget struct {
	There, Super bool
	May          bool // our role may become this role, and has its privileges
	Admin        bool // our role may grant itself this membership
}

// owners checks that the target has the roles that the schema names, and that the target's role may
// transfer ownership to the owners among them.
func (c *checker) owners() error {
	rows, err := c.s.Query(c.ctx, catalog.NamedRoles)
	if err != nil {
		return c.m.Source.Explain(err)
	}
	roles, err := pgx.CollectRows(rows, pgx.RowToStructByPos[sourceRole])
	if err != nil {
		return c.m.Source.Explain(err)
	}
	names := make([]string, len(roles))
	for i, r := range roles {
		names[i] = r.Name
	}
	// pgcutover missing lists what a load has left out.
	if streams, err := progress.Streams(c.ctx, c.t, c.m.Slot); err == nil && len(streams) > 0 {
		c.begun = true
	}
	c.named = names
	have, err := c.rolesOnTarget(names)
	if err != nil {
		return err
	}
	var super, create bool
	if err := c.t.QueryRow(c.ctx,
		"SELECT rolsuper, rolcreaterole FROM pg_catalog.pg_roles WHERE rolname = current_user").
		Scan(&super, &create); err != nil {
		return err
	}
	c.missingRoles(roles, have, super, create)
	c.closedRoles(roles, have, super, create)
	return c.creators(names, super)
}

// rolesOnTarget looks up roles by name.
func (c *checker) rolesOnTarget(names []string) ([]roleOnTarget, error) {
	set := "MEMBER"
	if c.tv >= 160000 {
		set = "SET"
	}
	rows, err := c.t.Query(c.ctx, `SELECT r.oid IS NOT NULL, coalesce(r.rolsuper, false), coalesce(pg_catalog.pg_has_role(r.oid, '`+set+`') AND pg_catalog.pg_has_role(r.oid, 'USAGE'), false),
		coalesce(pg_catalog.pg_has_role(r.oid, 'MEMBER WITH ADMIN OPTION'), false)
		FROM pg_catalog.unnest($1::pg_catalog.text[]) WITH ORDINALITY n(name, i) LEFT JOIN pg_catalog.pg_roles r ON r.rolname = n.name ORDER BY n.i`, names)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[roleOnTarget])
}

// missingRoles finds the roles that the target does not have.
func (c *checker) missingRoles(roles []sourceRole, have []roleOnTarget, super, create bool) {
	maker := superuser // the role that may create roles
	if create {
		maker = c.targetUser
	}
	var missing, creates []string
	for i, r := range roles {
		if have[i].There {
			continue
		}
		missing = append(missing, r.Name)
		sql := "CREATE ROLE " + text.Ident(r.Name)
		if r.Login {
			sql += " LOGIN"
		}
		creates = append(creates, sql+";")
		if r.Owner && !super {
			creates = append(creates, grantRole(c.tv, r.Name, c.targetUser))
		}
	}
	if len(missing) == 0 {
		c.ok("roles-missing", "the target has all roles that own objects or have privileges: %d", len(roles))
		return
	}
	c.need("roles-missing", "Passwords and other attributes, and all of them: pg_dumpall --roles-only | psql. "+withoutRoles,
		"roles that own objects or have privileges, and that the target does not have: %s",
		count.Some(missing)).
		do("target", maker, creates...)
}

// closedRoles finds the owners to whom the target's role cannot transfer ownership.
func (c *checker) closedRoles(roles []sourceRole, have []roleOnTarget, super, create bool) {
	var closed, supers []string
	grants := map[string][]string{} // by the role that may grant them
	for i, r := range roles {
		h := have[i]
		switch {
		case !h.There, !r.Owner, super, h.May:
		case h.Super:
			supers = append(supers, r.Name)
		default:
			closed = append(closed, r.Name)
			who := superuser
			if h.Admin || create && c.tv < 160000 {
				who = c.targetUser
			}
			grants[who] = append(grants[who], grantRole(c.tv, r.Name, c.targetUser))
		}
	}
	if len(closed) > 0 {
		f := c.need("role-membership", withoutRoles,
			"the target's role cannot make %s the owner of what belongs to %s on the source: it may not become that role, or does not have its rights",
			count.Some(closed), count.Word(len(closed), "it", "them"))
		for _, who := range []string{c.targetUser, superuser} {
			if len(grants[who]) > 0 {
				f.do("target", who, grants[who]...)
			}
		}
	}
	if len(supers) > 0 {
		c.warn("superuser-owners", "Load as a superuser, or give those objects to another role on the source. "+withoutRoles,
			"what belongs to superusers of the target cannot be made theirs: %s", count.Some(supers))
	}
}

// creators checks that owners may create objects in the schemas of their objects. The server
// requires this to transfer ownership to them.
func (c *checker) creators(owners []string, super bool) error {
	if super {
		return nil
	}
	pairs, err := catalog.OwnersInSchemas(c.ctx, c.s, owners)
	if err != nil {
		return c.m.Source.Explain(err)
	}
	lack, err := catalog.LackInSchemas(c.ctx, c.t, pairs)
	if err != nil {
		return err
	}
	var names, source, target []string
	for i, p := range pairs {
		to := fmt.Sprintf(" ON SCHEMA %s TO %s;", text.Ident(p.Schema), text.Ident(p.Owner))
		switch {
		case lack[i] != nil && *lack[i] != "":
			target = append(target, "GRANT "+*lack[i]+to)
		case lack[i] == nil && !p.May:
			source = append(source, "GRANT CREATE"+to)
		default:
			continue
		}
		names = append(names, p.Owner+" in "+p.Schema)
	}
	if len(names) == 0 {
		return nil
	}
	f := c.need("schema-create-right", "After the load it can be taken back. "+withoutRoles,
		"owners that may not create in the schema of their objects, and so cannot be made their owners: %s",
		count.Some(names))
	if len(target) > 0 {
		f.do("target", superuser, target...)
	}
	if len(source) > 0 {
		f.do("source", superuser, source...)
	}
	return nil
}

// ownersOf adds the statements that grant the source's role the privileges of all table owners. It
// leaves out superusers: our role must not become one.
func (c *checker) ownersOf(f *finding) error {
	rows, err := c.s.Query(c.ctx, `SELECT DISTINCT r.rolname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
		WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgsluice') AND n.nspname !~ '^pg_(temp|toast)' AND NOT r.rolsuper
		AND NOT pg_catalog.pg_has_role(current_user, r.oid, 'USAGE') ORDER BY 1`)
	if err != nil {
		return err
	}
	owners, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(owners) == 0 {
		return err
	}
	var grants []string
	for _, o := range owners {
		grants = append(grants, grantRole(c.sv, o, c.sourceUser))
	}
	f.do("source", superuser, grants...)
	return nil
}

// grantRole returns the statement that makes role to, which is quoted already, a member of another
// role.
func grantRole(version int, role, to string) string { return roles.Member(version, role, to) + ";" }
