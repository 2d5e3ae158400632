package objects

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/sqltext"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// isDenied reports whether an object could not be created for lack of a right. That includes a
// GRANT or REVOKE that had no effect, of which the server only warns.
func isDenied(o *progress.Object) bool { return o.Code == "42501" || pgwire.Unchanged(o.Code) }

// ownAll has the kinds of objects for which the role must own everything that the statement names.
// For other kinds, the role must own only the first name.
var ownAll = map[string]bool{"TABLE ATTACH": true, "INDEX ATTACH": true, "STATISTICS": true, "SEQUENCE OWNED BY": true, "SEQUENCE": true}

// creates has the kinds of objects that are created in a schema.
var creates = map[string]bool{"TABLE": true, "VIEW": true, "MATERIALIZED VIEW": true, "FOREIGN TABLE": true, "SEQUENCE": true, "TYPE": true, "SHELL TYPE": true, "DOMAIN": true, "FUNCTION": true,
	"PROCEDURE": true, "AGGREGATE": true, "OPERATOR": true, "OPERATOR CLASS": true, "OPERATOR FAMILY": true, "COLLATION": true, "CONVERSION": true, "STATISTICS": true, "INDEX": true, "CONSTRAINT": true,
	"TEXT SEARCH CONFIGURATION": true, "TEXT SEARCH DICTIONARY": true}

// A named thing is an object that a statement names.
type named struct {
	schema, name string // the name is empty for the schema itself
	own          bool   // the role must own it
}

// names returns what a statement of pg_dump names with a schema, and the schema that the statement
// is about.
func names(o *progress.Object) (list []named) {
	tokens := rules.Tokens(o.SQL)
	part := func(i int) bool { return i < len(tokens) && (tokens[i].Word || tokens[i].Name) }
	for i := 0; i+2 < len(tokens); i++ {
		if !part(i) || tokens[i+1].Text != "." || !part(i+2) {
			continue
		}
		n := named{schema: sqltext.Unquoted(tokens[i].Text), name: sqltext.Unquoted(tokens[i+2].Text), own: len(list) == 0 || ownAll[o.Type]}
		if n.schema != "pg_catalog" && !slices.ContainsFunc(list, func(x named) bool { return x.schema == n.schema && x.name == n.name }) {
			list = append(list, n)
		}
		for i += 2; i+2 < len(tokens) && tokens[i+1].Text == "." && part(i+2); i += 2 { // a column
		}
	}
	if schema, ok := strings.CutPrefix(o.Name, "SCHEMA "); ok && len(list) == 0 && apart[o.Type] {
		list = append(list, named{schema: schema, own: true})
	}
	return list
}

// right returns the right that a kind of object needs on a relation that the role does not own.
func right(kind string) string {
	if kind == "FK CONSTRAINT" {
		return "REFERENCES"
	}
	return "SELECT"
}

// deniedRights finds out which right was missing for each object that could not be created for lack
// of a right, and who can grant it. The result omits objects for which it cannot tell. It sends one
// query for all of them.
func deniedRights(ctx context.Context, c *pgx.Conn, list []progress.Object) (map[int64]lack, error) {
	var ids []int64
	var schemas, called, rights []string
	var own, creating []bool
	for i := range list {
		o := &list[i]
		if !isDenied(o) {
			continue
		}
		for _, n := range names(o) {
			ids, schemas, called, rights = append(ids, o.ID), append(schemas, n.schema), append(called, n.name), append(rights, right(o.Type))
			own, creating = append(own, n.own), append(creating, n.own && creates[o.Type])
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	mine := func(owner string) string { return "pg_catalog.pg_has_role(" + owner + ", 'USAGE')" }
	rows, err := c.Query(ctx, `WITH w AS (SELECT u.*, n.oid AS ns, n.nspowner FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.int8[]), pg_catalog.unnest($2::pg_catalog.text[]), pg_catalog.unnest($3::pg_catalog.text[]), pg_catalog.unnest($4::pg_catalog.text[]), pg_catalog.unnest($5::pg_catalog.bool[]), pg_catalog.unnest($6::pg_catalog.bool[]))
			AS u(id, schema, name, needs, own, creating) JOIN pg_catalog.pg_namespace n ON n.nspname = u.schema),
		found AS (SELECT w.id, 'member' AS what, c.relowner AS owner, w.schema, w.name, '' AS args FROM w JOIN pg_catalog.pg_class c ON c.relnamespace = w.ns AND c.relname = w.name WHERE w.own AND NOT `+mine("c.relowner")+`
			UNION SELECT w.id, w.needs, c.relowner, w.schema, w.name, '' FROM w JOIN pg_catalog.pg_class c ON c.relnamespace = w.ns AND c.relname = w.name
				WHERE NOT w.own AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT pg_catalog.has_table_privilege(c.oid, w.needs)
			UNION SELECT w.id, CASE WHEN w.own THEN 'member' ELSE 'EXECUTE' END, p.proowner, w.schema, w.name, pg_catalog.pg_get_function_identity_arguments(p.oid) FROM w JOIN pg_catalog.pg_proc p ON p.pronamespace = w.ns AND p.proname = w.name
				WHERE CASE WHEN w.own THEN NOT `+mine("p.proowner")+` ELSE NOT pg_catalog.has_function_privilege(p.oid, 'EXECUTE') END
			UNION SELECT w.id, CASE WHEN w.own THEN 'member' ELSE 'TYPE' END, t.typowner, w.schema, w.name, '' FROM w JOIN pg_catalog.pg_type t ON t.typnamespace = w.ns AND t.typname = w.name AND t.typrelid = 0
				WHERE CASE WHEN w.own THEN NOT `+mine("t.typowner")+` ELSE NOT pg_catalog.has_type_privilege(t.oid, 'USAGE') END
			UNION SELECT w.id, CASE WHEN w.name = '' THEN 'member' WHEN w.creating AND NOT pg_catalog.has_schema_privilege(w.ns, 'CREATE') THEN 'CREATE' ELSE 'USAGE' END, w.nspowner, w.schema, '', '' FROM w
				WHERE CASE WHEN w.name = '' THEN NOT `+mine("w.nspowner")+` ELSE NOT pg_catalog.has_schema_privilege(w.ns, 'USAGE') OR w.creating AND NOT pg_catalog.has_schema_privilege(w.ns, 'CREATE') END)
		SELECT id, what, r.rolname, r.rolsuper, schema, name, args, current_user FROM found JOIN pg_catalog.pg_roles r ON r.oid = found.owner ORDER BY id, name <> '', what, schema, name, args`, ids, schemas, called, rights, own, creating)
	if err != nil {
		return nil, err
	}
	lacks := make(map[int64]lack)
	// objects that need membership in a superuser, which must not be granted
	beyond := make(map[int64]bool)
	version := pgdial.Version(c.PgConn())
	var id int64
	var d denied
	_, err = pgx.ForEachRow(rows, []any{&id, &d.what, &d.owner, &d.super, &d.schema, &d.name, &d.args, &d.me}, func() error {
		if d.what == "member" && d.super {
			beyond[id] = true
			return nil
		}
		x := d.lack(version)
		if old, ok := lacks[id]; ok && !strings.Contains(old.remedy, x.remedy) {
			x = lack{old.says + "; " + x.says, old.remedy + " " + x.remedy}
		}
		lacks[id] = x
		return nil
	})
	for id := range beyond {
		delete(lacks, id)
	}
	return lacks, err
}

// A denied right is a right on an object that role me lacks and that the object's owner can grant.
// what is the right, or "member" if me must be able to act as the owner.
type denied struct {
	what, owner        string
	super              bool // the owner is a superuser
	schema, name, args string
	me                 string
}

// lack describes the missing right, and returns the statement that grants it on a server of the
// given version.
func (d *denied) lack(version int) lack {
	to := " TO " + text.Ident(d.me)
	grant := func(right, on string) lack {
		return lack{fmt.Sprintf("role %q lacks %s, which %q can grant", d.me, right+" on "+on, d.owner), "GRANT " + right + " ON " + on + to + ";"}
	}
	switch {
	case d.what == "member":
		if version >= 160000 {
			to += " WITH INHERIT TRUE, SET TRUE"
		}
		return lack{fmt.Sprintf("role %q is not a member of role %q, or may not act as it", d.me, d.owner), "GRANT " + text.Ident(d.owner) + to + ";"}
	case d.what == "EXECUTE":
		return grant(d.what, "FUNCTION "+text.Ident(d.schema, d.name)+"("+d.args+")")
	case d.what == "TYPE":
		return grant("USAGE", "TYPE "+text.Ident(d.schema, d.name))
	case d.name == "" && d.what == "CREATE":
		return grant("USAGE, CREATE", "SCHEMA "+text.Ident(d.schema))
	case d.name == "":
		return grant("USAGE", "SCHEMA "+text.Ident(d.schema))
	}
	return grant(d.what, text.Ident(d.schema, d.name))
}
