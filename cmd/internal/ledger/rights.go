package ledger

import (
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
)

// A right is one entry of an ACL.
type right struct{ grantee, privilege string }

// rights adds a line for the rights that only the target grants, and one for the rights that only
// the source grants. It ignores rights of the roles that the migration connects as, because those
// serve the migration.
func (c *comparison) rights(o, t *inventory.Object) {
	if o.On == "" || o.Class == inventory.Schema && o.Fact("initial") != "" && t.Fact("initial") != "" {
		return
	}
	s, d := c.entries(o), c.entries(t)
	// If the owners differ, which has its own line, the owners' rights cannot be compared.
	skip := []string{c.TargetRole}
	if a, b := o.Fact("owner"), t.Fact("owner"); o.Class != inventory.Column && a != b || o.Class == inventory.Column {
		a, b = c.ownerOf(o, c.source), c.ownerOf(t, c.target)
		if a != b || a == "" {
			skip = append(skip, "@owner", ident(a), ident(b))
		}
	}
	var wider, options, narrower []right
	for _, r := range sorted(d) {
		option, there := s[r]
		switch {
		case slices.Contains(skip, r.grantee):
		case !there:
			wider = append(wider, r)
		case d[r] && !option:
			options = append(options, r)
		}
	}
	for _, r := range sorted(s) {
		option, there := d[r]
		if there && (option || !s[r]) || slices.Contains(skip, r.grantee) ||
			r.grantee == c.SourceRole && (!c.Role[r.grantee] || o.Class == inventory.Database) ||
			o.Class == inventory.Schema && o.Fact("initial") != "" {
			continue
		}
		narrower = append(narrower, r)
	}
	if len(wider)+len(options) > 0 {
		says, sql := c.changes(t, "REVOKE", wider, nil)
		more, also := c.changes(t, "REVOKE GRANT OPTION FOR", options, nil)
		c.add(Line{key: o.Key, Kind: o.Kind, Problem: "rights", Class: Rights,
			Cause:  "the target grants what the source does not: " + strings.Join(append(says, more...), "; "),
			Remedy: "on the target: " + strings.Join(append(sql, also...), "; "), SQL: append(sql, also...), order: 21})
	}
	if len(narrower) > 0 {
		says, sql := c.changes(t, "GRANT", narrower, s)
		cause := "the target does not grant what the source does: " + strings.Join(says, "; ")
		for _, r := range narrower {
			if absent := "; the target has no role " + r.grantee; r.grantee != "PUBLIC" &&
				r.grantee != "@owner" && !c.Role[r.grantee] && !strings.Contains(cause+";", absent+";") {
				cause += absent
			}
		}
		c.add(Line{key: o.Key, Kind: o.Kind, Problem: "no rights", Class: Rights, Cause: cause,
			Remedy: "on the target: " + strings.Join(sql, "; "), SQL: sql, order: 22})
	}
}

// changes returns the grants or revokes to make, once for people and once as statements, grouped by
// role. options has the rights with grant option.
func (c *comparison) changes(t *inventory.Object, verb string, list []right, options map[right]bool) (says, sql []string) {
	type group struct {
		who    string
		option bool
	}
	var order []group
	privileges := make(map[group][]string)
	for _, r := range list {
		g := group{c.who(r, t), options[r]}
		if privileges[g] == nil {
			order = append(order, g)
		}
		p := r.privilege
		if t.Class == inventory.Column {
			p += " (" + ident(t.Name) + ")"
		}
		privileges[g] = append(privileges[g], p)
	}
	for _, g := range order {
		with, p := "", strings.Join(privileges[g], ", ")
		if g.option {
			with = " WITH GRANT OPTION"
		}
		if verb == "REVOKE GRANT OPTION FOR" {
			with = " CASCADE"
		}
		says = append(says, p+" to "+g.who+strings.TrimSuffix(with, " CASCADE"))
		sql = append(sql, statement(t, verb, p, g.who, with))
	}
	return says, sql
}

// entries returns the rights, and whether each has grant option.
func (c *comparison) entries(o *inventory.Object) map[right]bool {
	m := make(map[right]bool, len(o.ACL))
	for _, a := range o.ACL {
		if c.OldRights && a[1] == "MAINTAIN" {
			continue
		}
		r := right{a[0], a[1]}
		m[r] = m[r] || a[2] == "*"
	}
	return m
}

func sorted(m map[right]bool) []right {
	list := make([]right, 0, len(m))
	for r := range m {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b right) int {
		return strings.Compare(a.grantee+" "+a.privilege, b.grantee+" "+b.privilege)
	})
	return list
}

// ownerOf returns the owner of an object. For a column, that is the owner of its table.
func (c *comparison) ownerOf(o *inventory.Object, all map[inventory.Key]*inventory.Object) string {
	if o.Class != inventory.Column {
		return o.Fact("owner")
	}
	if t := all[inventory.Key{Class: inventory.Relation, Schema: o.Schema, Name: o.Table}]; t != nil {
		return t.Fact("owner")
	}
	return ""
}

// who returns the grantee in the form that a statement uses.
func (c *comparison) who(r right, o *inventory.Object) string {
	if r.grantee == "@owner" {
		if owner := c.ownerOf(o, c.target); owner != "" {
			return ident(owner)
		}
		return "CURRENT_USER"
	}
	return r.grantee
}

func statement(o *inventory.Object, verb, privilege, who, with string) string {
	preposition := " TO "
	if verb != "GRANT" {
		preposition = " FROM "
	}
	if o.Class == inventory.Privileges {
		head, objects, _ := strings.Cut(o.On, " %s ")
		return head + " " + verb + " " + privilege + " ON " + objects + preposition + who + with
	}
	return verb + " " + privilege + " ON " + o.On + preposition + who + with
}

func ident(name string) string { return pgx.Identifier{name}.Sanitize() }
