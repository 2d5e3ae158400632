package check

import (
	"slices"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// attributes selects roles with those attributes that an application may notice, in the order of
// attributeWords. A session's own role differs by design.
const attributes = `SELECT rolname, rolcanlogin, rolinherit, rolcreatedb, rolcreaterole, rolbypassrls FROM pg_catalog.pg_roles
	WHERE rolname !~ '^pg_' AND NOT rolsuper AND rolname <> current_user ORDER BY 1`

var attributeWords = []string{"LOGIN", "INHERIT", "CREATEDB", "CREATEROLE", "BYPASSRLS"}

// attributes compares roles that both sides have and that the source's schema names.
func (c *checker) attributes(s, t [][]string) {
	there := make(map[string][]string)
	for _, r := range t {
		there[r[0]] = r
	}
	var differ, sql []string
	for _, r := range s {
		h := there[r[0]]
		if h == nil || !slices.Contains(c.named, r[0]) {
			continue
		}
		options := ""
		for i, word := range attributeWords {
			switch {
			case r[i+1] == h[i+1]:
			case r[i+1] == "t":
				options += " " + word
			default:
				options += " NO" + word
			}
		}
		if options != "" {
			differ = append(differ, r[0]+" ("+options[1:]+")")
			sql = append(sql, "ALTER ROLE "+text.Ident(r[0])+options+";")
		}
	}
	if len(differ) > 0 {
		c.warn("role-attributes", "If the application needs them:", "roles have other attributes on the source: %s", count.Some(differ)).do("target", superuser, sql...)
	}
}

// memberships selects who is a member of what: role, member, whether the member may grant it, and
// both names in one.
const memberships = `SELECT r.rolname || ' to ' || m.rolname, r.rolname, m.rolname, pg_catalog.bool_or(a.admin_option) FROM pg_catalog.pg_auth_members a JOIN pg_catalog.pg_roles r ON r.oid = a.roleid JOIN pg_catalog.pg_roles m ON m.oid = a.member
	WHERE r.rolname !~ '^pg_' AND NOT m.rolsuper AND m.rolname <> current_user GROUP BY 1, 2, 3 ORDER BY 1`

// memberships compares the members of roles that the source's schema names.
func (c *checker) memberships(s, t [][]string) {
	members, roles := column(t, 0), column(c.answers[target]["the attributes of roles"].rows, 0)
	var missing, sql []string
	for _, r := range s {
		// pgcutover missing and other findings name roles that the target does not have at all.
		if slices.Contains(members, r[0]) || !slices.Contains(c.named, r[1]) || !slices.Contains(roles, r[1]) || !slices.Contains(roles, r[2]) {
			continue
		}
		grant := "GRANT " + text.Ident(r[1]) + " TO " + text.Ident(r[2])
		if r[3] == "t" {
			grant += " WITH ADMIN OPTION"
		}
		missing, sql = append(missing, r[0]), append(sql, grant+";")
	}
	if len(missing) > 0 {
		c.warn("role-members", "If the application needs them:", "the source has granted roles that the target has not: %s", count.Some(missing)).do("target", superuser, sql...)
	}
}
