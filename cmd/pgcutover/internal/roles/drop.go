package roles

import (
	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// drop prints the statements that take back what the role has in this database and on the server,
// however it got it, and that drop the role. It leaves what the role owns: DROP ROLE then names it.
func (r *recipe) drop() error {
	rows, err := r.c.Query(r.ctx, r.rights(), r.o.Role)
	if err != nil {
		return err
	}
	var kind, schema, name, grantor string
	if _, err := pgx.ForEachRow(rows, []any{&kind, &schema, &name, &grantor}, func() error {
		object := text.Ident(name)
		switch {
		case kind == "LARGE OBJECT":
			object = name
		case schema != "":
			object = text.Ident(schema, name)
		}
		sql := "REVOKE " + object
		if kind != "" {
			sql = "REVOKE ALL ON " + kind + " " + object
		}
		sql += " FROM " + r.role
		if grantor != "" {
			sql += " GRANTED BY " + text.Ident(grantor)
		}
		r.does(sql)
		return nil
	}); err != nil {
		return err
	}
	if err := r.others(); err != nil {
		return err
	}
	r.says("This fails, and names it, if the role still owns something or has rights in other databases.")
	r.does("DROP ROLE " + r.role)
	return nil
}

// rights returns the query for the role's privileges (their kind, schema and object) and for its
// memberships (of kind "").
func (r *recipe) rights() string {
	list := ""
	acl := func(kind, schema, name, from, column, where string) {
		list += `SELECT '` + kind + `' AS kind, ` + schema + ` AS schema, ` + name + `::pg_catalog.text AS name, '' AS grantor FROM ` + from + ` WHERE ` + where + `
			AND EXISTS (SELECT FROM pg_catalog.aclexplode(` + column + `) a JOIN me ON a.grantee = me.oid) UNION ALL `
	}
	const relations = "pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
	acl("SEQUENCE", "n.nspname::pg_catalog.text", "c.relname", relations, "c.relacl", "c.relkind = 'S' AND n.nspname <> 'pgsluice'")
	acl("TABLE", "n.nspname::pg_catalog.text", "c.relname", relations, "c.relacl", "c.relkind <> 'S' AND n.nspname <> 'pgsluice'")
	acl("LARGE OBJECT", "''", "m.oid", "pg_catalog.pg_largeobject_metadata m", "m.lomacl", "true")
	acl("SCHEMA", "''", "n.nspname", "pg_catalog.pg_namespace n", "n.nspacl", "true")
	acl("DATABASE", "''", "d.datname", "pg_catalog.pg_database d", "d.datacl", "d.datname = pg_catalog.current_database()")
	if r.v >= 150000 {
		acl("PARAMETER", "''", "p.parname", "pg_catalog.pg_parameter_acl p", "p.paracl", "true")
	}
	grantor := "''"
	if r.v >= 160000 { // several roles may have granted the same membership
		grantor = "pg_catalog.pg_get_userbyid(m.grantor)::pg_catalog.text"
	}
	return `WITH me AS (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = $1)
		SELECT x.kind, x.schema, x.name, x.grantor FROM (` + list + `
		SELECT '', '', g.rolname::pg_catalog.text, ` + grantor + ` FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles g ON g.oid = m.roleid JOIN me ON me.oid = m.member) x
		ORDER BY x.kind DESC, x.schema, x.name`
}

// others prints the privileges of owners that the role needed, as comments: the owners may have had
// them before, and may need them.
func (r *recipe) others() error {
	rows, err := r.c.Query(r.ctx, `SELECT a.privilege_type, n.nspname::pg_catalog.text, o.rolname::pg_catalog.text FROM pg_catalog.pg_namespace n CROSS JOIN pg_catalog.aclexplode(n.nspacl) a
		JOIN pg_catalog.pg_roles o ON o.oid = a.grantee JOIN pg_catalog.pg_auth_members m ON m.roleid = o.oid JOIN pg_catalog.pg_roles r ON r.oid = m.member
		WHERE r.rolname = $1 AND a.privilege_type IN ('CREATE', 'USAGE') AND a.grantee <> n.nspowner AND n.nspname !~ '^pg_' GROUP BY 1, 2, 3 ORDER BY 2, 3, 1`, r.o.Role)
	if err != nil {
		return err
	}
	var privilege, schema, owner string
	_, err = pgx.ForEachRow(rows, []any{&privilege, &schema, &owner}, func() error {
		r.says("Only if the application does not need it: REVOKE %s ON SCHEMA %s FROM %s;", privilege, text.Ident(schema), text.Ident(owner))
		return nil
	})
	return err
}
