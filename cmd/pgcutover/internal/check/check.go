// Package check examines a source and a target before a migration begins. Each finding states a
// fact, how severe it is, and what to do about it.
package check

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// A look is one examination. It reports findings. An examination that fails is a finding as well
// and does not stop the others. It asks by itself, or its queries are asked together with those of
// the other looks.
type look struct {
	what string // completes: … could not be examined
	find func(*checker) error

	source, target query
	judge          func(c *checker, source, target [][]string)
	failed         func(*checker, error) bool // judges an error of a query; false: it is not expected
}

// superuser stands for a role in statements that only a superuser may execute.
const superuser = "superuser"

// A checker collects findings.
type checker struct {
	ctx    context.Context
	m      *session.Migration
	trust  []string // superusers whose idle sessions do not write
	plugin string   // the output plugin of the slot, or auto
	side   string   // the side that is being examined
	list   []finding
	s, t   *pgx.Conn
	sv, tv int
	// of the source and the target, by what a look looks at
	answers [2]map[string]answer
	setting [2]map[string]string // without those that the role may not see
	service [2]string            // as roles.Service has it
	cluster bool                 // the target is a Citus cluster
	super   [2]bool              // our role is a superuser
	pid     [2]string            // of the server processes that serve our sessions
	// The roles and databases of the two sessions, quoted for statements to paste.
	sourceUser, targetUser         string
	sourceDatabase, targetDatabase string
	named                          []string // the roles that the source's schema names
	// the slot exists, so a condition for creating it is only a warning
	begun bool
}

// Options choose the output format, and which sessions are accepted.
type Options struct {
	As     string   // "json", "sql", or empty for people
	Trust  []string // superusers whose idle sessions do not write
	Plugin string   // the output plugin of a slot that does not exist yet, or auto
}

// Run examines the source, the target, and the pair before a migration begins. It changes nothing.
// It prints the findings. It fails with status Config if one of them is an error, and with status
// Failed if one is a warning.
func Run(ctx context.Context, m *session.Migration, o Options) error {
	c := &checker{ctx: ctx, m: m, trust: o.Trust, plugin: o.Plugin}
	for _, x := range []struct {
		server pgdial.Server
		conn   **pgx.Conn
	}{{m.Source, &c.s}, {m.Target, &c.t}} {
		conn, err := m.Connect(ctx, x.server)
		switch {
		case errors.Is(err, pgdial.ErrTooOld):
			c.tooOld(x.server.Side, err)
			continue
		case err != nil:
			return err
		}
		defer conn.Close(ctx)
		*x.conn = conn
	}
	if c.s == nil || c.t == nil {
		c.print(o.As)
		return c.verdict()
	}
	if err := c.introduce(); err != nil {
		return err
	}
	if err := c.look(); err != nil {
		return err
	}
	c.print(o.As)
	return c.verdict()
}

// look makes all examinations.
func (c *checker) look() error {
	all := append(append([]look{facts}, onSource...), onTarget...)
	if err := c.askAll(all); err != nil {
		return err
	}
	for i, l := range all {
		server := c.m.Source
		if i > len(onSource) {
			server = c.m.Target
		}
		c.side = server.Side
		var err error
		switch s, t := c.answers[source][l.what], c.answers[target][l.what]; {
		case l.find != nil:
			err = l.find(c)
		case s.err != nil:
			server, err = c.m.Source, s.err
		case t.err != nil:
			server, err = c.m.Target, t.err
		default:
			l.judge(c, s.rows, t.rows)
		}
		if err != nil && l.failed != nil && l.failed(c, err) {
			continue
		}
		if err := c.examined(server, l.what, err); err != nil {
			return err
		}
	}
	return nil
}

// introduce asks both servers for their versions, and for our roles and databases there.
func (c *checker) introduce() error {
	c.sv, c.tv = pgdial.Version(c.s.PgConn()), pgdial.Version(c.t.PgConn())
	for _, x := range []struct {
		conn           *pgx.Conn
		user, database *string
	}{{c.s, &c.sourceUser, &c.sourceDatabase}, {c.t, &c.targetUser, &c.targetDatabase}} {
		if err := x.conn.QueryRow(c.ctx, "SELECT current_user, pg_catalog.current_database()").Scan(x.user, x.database); err != nil {
			return err
		}
		*x.user, *x.database = text.Ident(*x.user), text.Ident(*x.database)
	}
	return nil
}

// value returns a query's single value as text, "" for NULL.
func (c *checker) value(conn *pgx.Conn, sql string) (string, error) {
	var s *string
	err := conn.QueryRow(c.ctx, "SELECT ("+sql+")::pg_catalog.text").Scan(&s)
	if err != nil || s == nil {
		return "", err
	}
	return *s, nil
}
