// Package fencing finds what stands in the way of a fence: rights that the role lacks, and whoever
// could write to the source in spite of it.
package fencing

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Rights says which of the rights that a fence takes the source's role lacks.
type Rights struct {
	Role   string   // quoted
	Owner  string   // of the database, if the role is no member of it
	Grants []string // the predefined roles that it lacks
	Slots  bool     // it may use slots; without that right, nobody can watch who passes the fence
}

// GetRights asks for the rights in the way the server itself does: most are inherited ones.
func GetRights(ctx context.Context, c *pgx.Conn) (f Rights, err error) {
	how := "USAGE"
	if pgdial.Version(c.PgConn()) < 150000 {
		how = "MEMBER"
	}
	var stats, signal bool
	err = c.QueryRow(ctx, `SELECT current_user, CASE WHEN pg_catalog.pg_has_role(d.datdba, 'USAGE') THEN '' ELSE pg_catalog.pg_get_userbyid(d.datdba) END,
		pg_catalog.pg_has_role('pg_read_all_stats', $1), pg_catalog.pg_has_role('pg_signal_backend', 'USAGE'),
		(SELECT r.rolsuper OR r.rolreplication OR EXISTS (SELECT FROM pg_catalog.pg_roles g WHERE g.rolname = 'rds_replication' AND pg_catalog.pg_has_role(current_user, g.oid, 'USAGE'))
			FROM pg_catalog.pg_roles r WHERE r.rolname = current_user)
		FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()`, how).Scan(&f.Role, &f.Owner, &stats, &signal, &f.Slots)
	f.Role = text.Ident(f.Role)
	if !stats {
		f.Grants = append(f.Grants, "pg_read_all_stats")
	}
	if !signal {
		f.Grants = append(f.Grants, "pg_signal_backend")
	}
	return f, err
}

// Grant returns the statement that gives the role the predefined roles that it lacks.
func (f *Rights) Grant() string {
	s := "GRANT "
	for i, r := range f.Grants {
		if i > 0 {
			s += ", "
		}
		s += r
	}
	return s + " TO " + f.Role + ";"
}

// RequireRights refuses a role that cannot fence the source: one that does not see all sessions
// would take those that it does not see for none.
func RequireRights(ctx context.Context, s *session.Session) error {
	f, err := GetRights(ctx, s.OnSource)
	switch {
	case err != nil:
		return s.Source.Explain(err)
	case f.Owner != "":
		return fault.New(fault.Permission, "the source's role %s may not fence the database", f.Role).
			WithHint("The role must own the source's database. As superuser: GRANT %s TO %s;", text.Ident(f.Owner), f.Role)
	case len(f.Grants) > 0:
		return fault.New(fault.Permission, "the source's role %s may not see or end the sessions of other roles, so the fence would not hold", f.Role).
			WithHint("On the source, as superuser: %s", f.Grant())
	case !f.Slots && s.Slot != "":
		return fault.New(fault.Permission, "the source's role %s may not read the slot, so nobody could tell who writes behind the fence", f.Role).
			WithHint("On the source, as superuser: ALTER ROLE %[1]s REPLICATION; On RDS and Aurora: GRANT rds_replication TO %[1]s;", f.Role)
	}
	return nil
}
