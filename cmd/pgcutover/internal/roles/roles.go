// Package roles prints the SQL that makes the role of pgsluice on one side, with the rights that a
// migration of the database needs and no others, and the SQL that takes them back.
package roles

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Options say what to print.
type Options struct {
	Provider string // auto: recognized by the server's settings
	Side     string // source or target
	Role     string
	Drop     bool // print what takes the rights back
}

// A recipe is SQL that is being written.
type recipe struct {
	ctx  context.Context
	m    *session.Migration
	o    Options
	c    *pgx.Conn // to the side that the role is for
	role string    // quoted
	v    int       // the server's version
	// the owners of what the load creates, and where they own it
	pairs []catalog.OwnerInSchema
}

// Print prints the SQL. It executes none of it.
func Print(ctx context.Context, m *session.Migration, o Options) (err error) {
	r := &recipe{ctx: ctx, m: m, o: o, role: text.Ident(o.Role)}
	server := m.Source
	if o.Side == "target" {
		server = m.Target
	}
	if r.c, err = m.Connect(ctx, server); err != nil {
		return err
	}
	defer r.c.Close(ctx)
	r.v = pgdial.Version(r.c.PgConn())
	if r.o.Provider == "auto" {
		if r.o.Provider, err = recognize(ctx, r.c); err != nil {
			return server.Explain(err)
		}
	}
	var exists bool
	if err := r.c.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)", o.Role).Scan(&exists); err != nil {
		return server.Explain(err)
	}
	provider := providers[r.o.Provider]
	r.says("role %s on the %s, for database %s", r.role, o.Side, text.Ident(r.c.Config().Database))
	r.says("server: PostgreSQL %s, %s", pgdial.VersionText(r.v), provider.name)
	if o.Drop {
		if !exists {
			return fault.New(fault.Unavailable, "role %s does not exist on the %s", r.role, o.Side).
				WithHint("Name the role with --role. To list the roles: psql -c '\\du'")
		}
		r.says("Execute this as %s, in this database, after pgcutover cleanup.", provider.admin)
		return server.Explain(r.drop())
	}
	r.says("Execute this as %s, in this database. To take it back: the same command with --drop.", provider.admin)
	return server.Explain(r.make(exists, provider))
}

// make prints the statements that create the role.
func (r *recipe) make(exists bool, p provider) error {
	switch {
	case p.create != "":
		r.says("%s", p.create)
	case !exists:
		r.does("CREATE ROLE " + r.role + " LOGIN")
	}
	r.says("A password is not printed here. In psql: \\password %s", r.role)
	switch {
	case p.cannot != "":
		r.says("%s", p.cannot)
	case p.replicates != "":
		r.does("GRANT " + text.Ident(p.replicates) + " TO " + r.role)
	default:
		r.does("ALTER ROLE " + r.role + " REPLICATION")
	}
	if err := r.predefined(); err != nil {
		return err
	}
	owners, err := r.owners()
	if err != nil {
		return err
	}
	for _, o := range owners {
		r.does(Member(r.v, o, r.role))
	}
	if err := r.onDatabase(owners); err != nil {
		return err
	}
	if r.o.Side == "source" {
		return r.reading(owners)
	}
	return r.writing()
}

// Member returns the statement that makes role to, quoted, a member of another role. The membership
// allows SET ROLE and inherits the privileges: version 16 and newer tell the two apart.
func Member(version int, role, to string) string {
	sql := "GRANT " + text.Ident(role) + " TO " + to
	if version >= 160000 {
		sql += " WITH INHERIT TRUE, SET TRUE"
	}
	return sql
}

// says prints a comment.
func (r *recipe) says(format string, args ...any) {
	r.m.Printf("-- %s\n", text.Escape(text.Sprintf(format, args...)))
}

// does prints a statement.
func (r *recipe) does(sql string) { r.m.Printf("%s;\n", sql) }

// list returns the names that a query returns.
func (r *recipe) list(c *pgx.Conn, sql string, args ...any) ([]string, error) {
	rows, err := c.Query(r.ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
