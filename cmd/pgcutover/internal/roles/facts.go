package roles

import (
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/old"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// predefined prints the memberships in roles of the server: to see and end other sessions at the
// fence, and to read hidden settings that decide about decoding.
func (r *recipe) predefined() error {
	list := []string{"pg_signal_backend"}
	if all := old.SeesAll(r.v); all != "" {
		list = []string{all, "pg_signal_backend"}
	}
	if r.o.Side == "source" {
		hidden, err := r.hidden("output_plugin_libraries")
		if err != nil {
			return err
		}
		if hidden {
			list = append(list, "pg_read_all_settings")
		}
	}
	for _, p := range list {
		r.does("GRANT " + p + " TO " + r.role)
	}
	return nil
}

// hidden reports whether the server has a setting that it does not show to everybody.
func (r *recipe) hidden(setting string) (bool, error) {
	var has bool
	err := r.c.QueryRow(r.ctx, "SELECT pg_catalog.current_setting($1, true) IS NOT NULL", setting).Scan(&has)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42501" {
		return true, nil
	}
	return has, err
}

// tableOwners selects the owners of the tables to migrate, and of the database.
const tableOwners = `SELECT r.rolname::pg_catalog.text, r.rolsuper FROM pg_catalog.pg_roles r WHERE r.oid IN (
	SELECT d.datdba FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
	UNION SELECT c.relowner FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND ` + catalog.Migrated + `
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.objid = c.oid AND e.deptype = 'e')) ORDER BY 1`

// owners returns the roles that ours must become a member of. On the source, these own the database
// and tables: only owners may close the one and publish the others. On the target, they are also to
// own what the load creates. A superuser is never among them.
func (r *recipe) owners() ([]string, error) {
	all, err := r.list(r.c, "SELECT x.rolname FROM ("+tableOwners+") x")
	if err != nil {
		return nil, err
	}
	if r.o.Side == "target" {
		if all, err = r.withSource(all); err != nil {
			return nil, err
		}
	}
	rows, err := r.c.Query(r.ctx, `SELECT w.name, r.oid IS NOT NULL, coalesce(r.rolsuper, false)
		FROM pg_catalog.unnest($1::pg_catalog.text[]) w(name) LEFT JOIN pg_catalog.pg_roles r ON r.rolname = w.name ORDER BY 1`, all)
	if err != nil {
		return nil, err
	}
	var owners, missing, super []string
	var name string
	var there, isSuper bool
	if _, err := pgx.ForEachRow(rows, []any{&name, &there, &isSuper}, func() error {
		switch {
		case !there:
			missing = append(missing, text.Ident(name))
		case isSuper:
			super = append(super, text.Ident(name))
		case name != r.o.Role:
			owners = append(owners, name)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		r.says("The target lacks roles of the source. Copy them first, with pg_dumpall --roles-only, and start again: %s", count.Some(missing))
	}
	if len(super) > 0 {
		r.says("Superusers own the database or objects in it. %s must not become a superuser: give them other owners, and start again: %s", r.role, count.Some(super))
	}
	return r.needed(owners)
}

// withSource adds the owners of all that the load creates. Without a source, there are none.
func (r *recipe) withSource(owners []string) ([]string, error) {
	if r.m.Source.Given() != nil {
		r.says("Name the source in --source for the owners of what the load creates.")
		return owners, nil
	}
	c, err := r.m.Connect(r.ctx, r.m.Source)
	if err != nil {
		return nil, err
	}
	defer c.Close(r.ctx)
	list, err := r.list(c, "SELECT x.rolname::pg_catalog.text FROM ("+catalog.NamedRoles+") x(rolname, login, owner) WHERE x.owner")
	if err != nil {
		return nil, r.m.Source.Explain(err)
	}
	if r.pairs, err = catalog.OwnersInSchemas(r.ctx, c, list); err != nil {
		return nil, r.m.Source.Explain(err)
	}
	for _, o := range list {
		if !slices.Contains(owners, o) {
			owners = append(owners, o)
		}
	}
	return owners, nil
}

// needed leaves out the roles that ours is a member of through another one.
func (r *recipe) needed(owners []string) ([]string, error) {
	set := ""
	if r.v >= 160000 {
		set = " AND pg_catalog.pg_has_role(a.name::pg_catalog.name, b.name::pg_catalog.name, 'SET')"
	}
	return r.list(r.c, `SELECT b.name FROM pg_catalog.unnest($1::pg_catalog.text[]) b(name) WHERE NOT EXISTS (SELECT FROM pg_catalog.unnest($1::pg_catalog.text[]) a(name)
		WHERE a.name <> b.name AND pg_catalog.pg_has_role(a.name::pg_catalog.name, b.name::pg_catalog.name, 'USAGE')`+set+`) ORDER BY 1`, owners)
}

// onDatabase prints the privileges on the database that the owners do not have.
func (r *recipe) onDatabase(owners []string) error {
	missing, err := r.list(r.c, `SELECT p.name FROM (VALUES ('CONNECT'), ('CREATE')) p(name)
		WHERE NOT EXISTS (SELECT FROM pg_catalog.unnest($1::pg_catalog.text[]) o(name) WHERE pg_catalog.has_database_privilege(o.name::pg_catalog.name, pg_catalog.current_database(), p.name))
		ORDER BY 1`, append([]string{"public"}, owners...))
	if err != nil {
		return err
	}
	for _, p := range missing {
		r.does("GRANT " + p + " ON DATABASE " + text.Ident(r.c.Config().Database) + " TO " + r.role)
	}
	return nil
}

// reading prints the privileges to read what the owners may not.
func (r *recipe) reading(owners []string) error {
	x, err := catalog.ClosedFor(r.ctx, r.c, r.o.Role, owners)
	if err != nil {
		return err
	}
	for _, sql := range x.Statements() {
		r.m.Printf("%s\n", sql)
	}
	return nil
}

// writing prints what the load needs on the target: owners that may create in the schemas of their
// objects, and the setting that keeps triggers and foreign keys from acting on what sync writes.
func (r *recipe) writing() error {
	lack, err := catalog.LackInSchemas(r.ctx, r.c, r.pairs)
	if err != nil {
		return err
	}
	for i, p := range r.pairs {
		if lack[i] != nil && *lack[i] != "" {
			r.does("GRANT " + *lack[i] + " ON SCHEMA " + text.Ident(p.Schema) + " TO " + text.Ident(p.Owner))
		}
	}
	if r.v >= 150000 {
		r.does("GRANT SET ON PARAMETER session_replication_role TO " + r.role)
	}
	return nil
}
