// Package check examines a source and a target before a migration begins. Each finding states a
// fact, how severe it is, and what to do about it.
package check

import (
	"context"

	"github.com/jackc/pgx/v5"

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

// superuser stands for a role in statements that only a superuser may execute.
const superuser = "superuser"

// A checker collects findings.
type checker struct {
	ctx    context.Context
	m      *session.Migration
	trust  []string // superusers whose idle sessions do not write
	side   string   // the side that is being examined
	list   []finding
	s, t   *pgx.Conn
	sv, tv int
	// The roles and databases of the two sessions, quoted for statements to paste.
	sourceUser, targetUser         string
	sourceDatabase, targetDatabase string
	// the slot exists, so a condition for creating it is only a warning
	begun bool
}

// Options choose the output format, and which sessions are accepted.
type Options struct {
	As    string   // "json", "sql", or empty for people
	Trust []string // superusers whose idle sessions do not write
}

// Run examines the source, the target, and the pair before a migration begins. It changes nothing.
// It prints the findings. It fails with status Config if one of them is an error, and with status
// Failed if one is a warning.
func Run(ctx context.Context, m *session.Migration, o Options) error {
	c := &checker{ctx: ctx, m: m, trust: o.Trust}
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
		c.side = side.server.Side
		for _, l := range side.looks {
			if err := c.examined(side.server, l.what, l.find(c)); err != nil {
				return err
			}
		}
	}
	c.print(o.As)
	return c.verdict()
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

// ask returns a query's single value as text, "" for NULL.
func (c *checker) ask(conn *pgx.Conn, sql string) (string, error) {
	var s *string
	err := conn.QueryRow(c.ctx, "SELECT ("+sql+")::pg_catalog.text").Scan(&s)
	if err != nil || s == nil {
		return "", err
	}
	return *s, nil
}
