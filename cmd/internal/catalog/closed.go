package catalog

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// Closed lists what is to be migrated and the session's role may not read.
type Closed struct {
	Role      string
	Schemas   []string
	Tables    []Name
	Sequences []Name
	// tables whose row security policies would hide some of their rows from the role
	Policies []Name
	Objects  []uint32
}

// LookClosed finds what the session's role may not read. It looks at the tables and sequences to
// migrate that wanted accepts, and at large objects if objects is set.
func LookClosed(ctx context.Context, c *pgx.Conn, wanted func(oid uint32, schema string) bool, objects bool) (*Closed, error) {
	x := new(Closed)
	var super bool
	if err := c.QueryRow(ctx,
		"SELECT current_user, r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user").
		Scan(&x.Role, &super); err != nil || super {
		return x, err
	}
	rows, err := c.Query(ctx, `SELECT c.oid, n.nspname, c.relname, c.relkind = 'S', pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
		CASE c.relkind WHEN 'S' THEN pg_catalog.has_sequence_privilege(c.oid, 'SELECT') ELSE pg_catalog.has_table_privilege(c.oid, 'SELECT') END, c.relkind = 'r' AND pg_catalog.row_security_active(c.oid)
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p', 'S') AND `+Migrated+` AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e')
		AND NOT (pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND CASE c.relkind WHEN 'S' THEN pg_catalog.has_sequence_privilege(c.oid, 'SELECT') ELSE pg_catalog.has_table_privilege(c.oid, 'SELECT') END
			AND NOT (c.relkind = 'r' AND pg_catalog.row_security_active(c.oid))) ORDER BY 2, 3`)
	if err != nil {
		return nil, err
	}
	var oid uint32
	var name Name
	var sequence, usage, may, policy bool
	_, err = pgx.ForEachRow(rows, []any{&oid, &name.Schema, &name.Name, &sequence, &usage, &may, &policy}, func() error {
		if !wanted(oid, name.Schema) {
			return nil
		}
		x.add(name, sequence, usage, may, policy)
		return nil
	})
	if err != nil || !objects {
		return x, err
	}
	readable := `pg_catalog.pg_has_role(m.lomowner, 'USAGE') OR EXISTS (SELECT FROM pg_catalog.aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT' AND (a.grantee = 0 OR pg_catalog.pg_has_role(a.grantee, 'USAGE')))`
	if pgdial.Version(c.PgConn()) >= 180000 {
		readable = "pg_catalog.has_largeobject_privilege(m.oid, 'SELECT')"
	}
	rows, err = c.Query(ctx, `SELECT m.oid FROM pg_catalog.pg_largeobject_metadata m WHERE NOT (`+readable+
		`) AND pg_catalog.current_setting('lo_compat_privileges') = 'off' ORDER BY 1`)
	if err != nil {
		return nil, err
	}
	x.Objects, err = pgx.CollectRows(rows, pgx.RowTo[uint32])
	return x, err
}

// ClosedFor finds what a role may not read that is a member of these owners and has no other
// rights. The role need not exist.
func ClosedFor(ctx context.Context, c *pgx.Conn, role string, owners []string) (*Closed, error) {
	x := &Closed{Role: role}
	everybody := append([]string{"public"}, owners...)
	may := func(privilege, function, object string) string {
		return "EXISTS (SELECT FROM pg_catalog.unnest($1::pg_catalog.text[]) o(name) WHERE pg_catalog." + function + "(o.name::pg_catalog.name, " + object + ", '" + privilege + "'))"
	}
	const member = "EXISTS (SELECT FROM pg_catalog.unnest($2::pg_catalog.text[]) o(name) WHERE pg_catalog.pg_has_role(o.name::pg_catalog.name, "
	rows, err := c.Query(ctx, `SELECT n.nspname, c.relname, c.relkind = 'S', `+may("USAGE", "has_schema_privilege", "n.oid")+`,
		CASE c.relkind WHEN 'S' THEN `+may("SELECT", "has_sequence_privilege", "c.oid")+` ELSE `+may("SELECT", "has_table_privilege", "c.oid")+` END,
		c.relkind = 'r' AND c.relrowsecurity AND (c.relforcerowsecurity OR NOT `+member+`c.relowner, 'USAGE')))
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'S') AND `+Migrated+`
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1, 2`, everybody, owners)
	if err != nil {
		return nil, err
	}
	var name Name
	var sequence, usage, readable, policy bool
	if _, err := pgx.ForEachRow(rows, []any{&name.Schema, &name.Name, &sequence, &usage, &readable, &policy}, func() error {
		x.add(name, sequence, usage, readable, policy)
		return nil
	}); err != nil {
		return nil, err
	}
	rows, err = c.Query(ctx, `SELECT m.oid FROM pg_catalog.pg_largeobject_metadata m WHERE pg_catalog.current_setting('lo_compat_privileges') = 'off'
		AND NOT EXISTS (SELECT FROM pg_catalog.unnest($1::pg_catalog.text[]) o(name) WHERE pg_catalog.pg_has_role(o.name::pg_catalog.name, m.lomowner, 'USAGE'))
		AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT' AND (a.grantee = 0
			OR EXISTS (SELECT FROM pg_catalog.unnest($1::pg_catalog.text[]) o(name) WHERE pg_catalog.pg_has_role(o.name::pg_catalog.name, a.grantee, 'USAGE')))) ORDER BY 1`, owners)
	if err != nil {
		return nil, err
	}
	x.Objects, err = pgx.CollectRows(rows, pgx.RowTo[uint32])
	return x, err
}

// add adds a table or sequence, with what the role may do with it and its schema.
func (x *Closed) add(name Name, sequence, usage, readable, policy bool) {
	if n := len(x.Schemas); !usage && (n == 0 || x.Schemas[n-1] != name.Schema) {
		x.Schemas = append(x.Schemas, name.Schema)
	}
	if !readable && sequence {
		x.Sequences = append(x.Sequences, name)
	} else if !readable {
		x.Tables = append(x.Tables, name)
	}
	if policy {
		x.Policies = append(x.Policies, name)
	}
}

// Any reports whether the role may not read something.
func (x *Closed) Any() bool {
	return len(x.Schemas)+len(x.Tables)+len(x.Sequences)+len(x.Policies)+len(x.Objects) > 0
}

// Statements returns the statements with which a superuser lets the role read everything.
func (x *Closed) Statements() (list []string) {
	to := " TO " + text.Ident(x.Role) + ";"
	for _, s := range x.Schemas {
		list = append(list, "GRANT USAGE ON SCHEMA "+text.Ident(s)+to)
	}
	for _, kind := range []struct {
		word, all string
		names     []Name
	}{{"TABLE", "TABLES", x.Tables}, {"SEQUENCE", "SEQUENCES", x.Sequences}} {
		const each = 20 // per schema; above this, one statement grants all
		of := make(map[string]int)
		for _, n := range kind.names {
			of[n.Schema]++
		}
		for _, n := range kind.names {
			switch {
			case of[n.Schema] < 0:
			case of[n.Schema] > each:
				list = append(list, "GRANT SELECT ON ALL "+kind.all+" IN SCHEMA "+text.Ident(n.Schema)+to)
				of[n.Schema] = -1
			default:
				list = append(list, "GRANT SELECT ON "+kind.word+" "+text.Ident(n.Schema, n.Name)+to)
			}
		}
	}
	if len(x.Policies) > 0 {
		list = append(list, "ALTER ROLE "+text.Ident(x.Role)+" BYPASSRLS;")
	}
	const each = 20
	if len(x.Objects) > each {
		list = append(list, fmt.Sprintf("DO $do$ DECLARE o pg_catalog.oid; BEGIN FOR o IN SELECT m.oid FROM pg_catalog.pg_largeobject_metadata m LOOP "+
			"EXECUTE pg_catalog.format('GRANT SELECT ON LARGE OBJECT %%s TO %%I', o, %s); END LOOP; END $do$;", text.Literal(x.Role)))
		return list
	}
	for _, oid := range x.Objects {
		list = append(list, fmt.Sprintf("GRANT SELECT ON LARGE OBJECT %d%s", oid, to))
	}
	return list
}

// Text describes what the role may not read: all of it if full is set, otherwise the first names of
// each kind.
func (x *Closed) Text(full bool) string {
	var list []string
	add := func(what string, names []string) {
		const most = 8
		if n := len(names); n > most && !full {
			names = append(names[:most:most], fmt.Sprintf("and %d more", n-most))
		}
		list = append(list, what+": "+strings.Join(names, ", "))
	}
	if len(x.Schemas) > 0 {
		add(count.Of(len(x.Schemas), "schema"), x.Schemas)
	}
	for _, kind := range []struct {
		what string
		of   []Name
	}{
		{count.Of(len(x.Tables), "table"), x.Tables}, {count.Of(len(x.Sequences), "sequence"), x.Sequences},
		{"all rows of " + count.Of(len(x.Policies), "table") + " with policies that bind the role", x.Policies},
	} {
		var names []string
		for _, n := range kind.of {
			names = append(names, n.Schema+"."+n.Name)
		}
		if len(names) > 0 {
			add(kind.what, names)
		}
	}
	if len(x.Objects) > 0 {
		var oids []string
		for _, oid := range x.Objects {
			oids = append(oids, strconv.FormatUint(uint64(oid), 10))
		}
		add(count.Of(len(oids), "large object"), oids)
	}
	return strings.Join(list, "; ")
}
