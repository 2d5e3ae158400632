// Package check examines a source and a target before a migration begins. Each finding states a
// fact, how severe it is, and what to do about it.
package check

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// A look is one examination. It reports findings. An examination that fails is a finding as well
// and does not stop the others.
type look struct {
	what string // completes: … could not be examined
	find func(*checker) error
}

// The examinations, in the order in which their findings are printed.
var (
	onSource = []look{
		{"whether source and target are two databases", (*checker).apart},
		{"the versions", (*checker).versions},
		{"the slot", (*checker).slotState},
		{"the settings for decoding", (*checker).wal},
		{"the rights of the role", (*checker).sourceRole},
		{"the tables", (*checker).tables},
		{"what the role may read", (*checker).closed},
		{"the large objects", (*checker).largeObjects},
		{"the foreign keys", (*checker).orphans},
		{"the functions", (*checker).paths},
		{"the open transactions", (*checker).transactions},
		{"who could write in spite of a fence", (*checker).writers},
	}
	onTarget = []look{
		{"the rights of the role", (*checker).targetRole},
		{"the encodings", (*checker).encoding},
		{"the collations", (*checker).collation},
		{"the extensions", (*checker).extensions},
		{"the roles", (*checker).owners},
		{"whether commits wait for a standby", (*checker).standbys},
		{"the way back", (*checker).wayBack},
		{"what is there already", (*checker).empty},
	}
)

// A finding is the result of looking at one thing.
type finding struct {
	level  string // ok, warning, error
	text   string
	remedy string
	paste  []paste
}

// A paste is a set of statements for somebody to execute on one side.
type paste struct {
	side string // source or target
	as   string // a role, quoted, or a description of one
	sql  []string
}

// superuser stands for a role in statements that only a superuser may execute.
const superuser = "superuser"

// A checker collects findings.
type checker struct {
	ctx    context.Context
	m      *session.Migration
	trust  []string // superusers whose idle sessions do not write
	list   []finding
	s, t   *pgx.Conn
	sv, tv int
	// The roles and databases of the two sessions, quoted for statements to paste.
	sourceUser, targetUser         string
	sourceDatabase, targetDatabase string
	// the slot exists, so a condition for creating it is only a warning
	begun bool
}

func (c *checker) ok(format string, args ...any) {
	c.add("ok", "", format, args...)
}

func (c *checker) warn(remedy, format string, args ...any) *finding {
	return c.add("warning", remedy, format, args...)
}

// need is fail, or warn if the migration has begun.
func (c *checker) need(remedy, format string, args ...any) *finding {
	if c.begun {
		return c.warn(remedy, format, args...)
	}
	return c.fail(remedy, format, args...)
}

func (c *checker) fail(remedy, format string, args ...any) *finding {
	return c.add("error", remedy, format, args...)
}

func (c *checker) add(level, remedy, format string, args ...any) *finding {
	c.list = append(c.list, finding{level: level, text: fmt.Sprintf(format, args...), remedy: remedy})
	return &c.list[len(c.list)-1]
}

// do adds statements for somebody to execute. They are printed one per line, ready to be pasted.
func (f *finding) do(side, as string, sql ...string) {
	f.paste = append(f.paste, paste{side, as, sql})
}

// Run examines the source, the target, and the pair before a migration begins. It changes nothing.
// It writes a line for each finding, and fails if one of them is an error.
func Run(ctx context.Context, m *session.Migration, trust []string) error {
	c := &checker{ctx: ctx, m: m, trust: trust}
	var err error
	if c.s, err = m.Connect(ctx, m.Source); err != nil {
		return err
	}
	defer c.s.Close(ctx)
	if c.t, err = m.Connect(ctx, m.Target); err != nil {
		return err
	}
	defer c.t.Close(ctx)
	if err := c.introduce(); err != nil {
		return err
	}
	for _, side := range []struct {
		server pgdial.Server
		looks  []look
	}{{m.Source, onSource}, {m.Target, onTarget}} {
		for _, l := range side.looks {
			if err := c.examined(side.server, l.what, l.find(c)); err != nil {
				return err
			}
		}
	}
	return c.report()
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

// report prints the findings, and fails if there is an error among them.
func (c *checker) report() error {
	for _, s := range []pgdial.Server{c.m.Source, c.m.Target} {
		c.m.Printf("%s\n", c.m.Line(s))
	}
	bad := 0
	for _, f := range c.list {
		f.print(c.m)
		if f.level == "error" {
			bad++
		}
	}
	if bad > 0 {
		return fault.New(fault.Config, "%s not met", count.Of(bad, "condition")).
			WithHint("Each line that begins with \"error\" is followed by its remedy.")
	}
	return nil
}

// print prints a finding: the fact, its remedy, and the remedy's statements.
func (f *finding) print(m *session.Migration) {
	m.Printf("%s\t%s\n", f.level, f.text)
	if f.remedy != "" {
		m.Printf("\t%s\n", f.remedy)
	}
	for _, p := range f.paste {
		m.Printf("\tOn the %s, as %s:\n", p.side, p.as)
		for _, sql := range p.sql {
			m.Printf("\t\t%s\n", sql)
		}
	}
}

// ask returns a query's single value as text, "" for NULL.
func (c *checker) ask(conn *pgx.Conn, sql string) (string, error) {
	var s *string
	err := conn.QueryRow(c.ctx, "SELECT ("+sql+")::pg_catalog.text").Scan(&s)
	if err != nil || s == nil {
		return "", err
	}
	return *s, nil
}
