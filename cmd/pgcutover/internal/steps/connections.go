package steps

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// A read-only default binds only who does not ask for more: BEGIN READ WRITE overrides it. So the
// fence also takes away the right to connect, from all but the roles that the migration itself
// connects with. Superusers connect nevertheless.

// The right to connect, as it is: to whom the owner has granted it.
const connectGrants = `FROM pg_catalog.pg_database d, pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) a
	WHERE d.datname = pg_catalog.current_database() AND a.privilege_type = 'CONNECT'`

// migrating selects the roles r that the migration connects with: ours, and that of the session
// that reads the slot. A role of another walsender is none of them: such a session can write, too.
// If nobody reads the slot right now, any role that may could be the one.
const migrating = `FROM pg_catalog.pg_roles r WHERE NOT r.rolsuper AND (r.rolname = SESSION_USER OR r.oid IN (SELECT x.usesysid FROM (` + slotReader + `) x)
	OR r.rolcanlogin AND (r.rolreplication OR EXISTS (SELECT FROM pg_catalog.pg_roles g WHERE g.rolname = 'rds_replication' AND pg_catalog.pg_has_role(r.oid, g.oid, 'USAGE')))
		AND pg_catalog.has_database_privilege(r.oid, pg_catalog.current_database(), 'CONNECT') AND NOT EXISTS (` + slotReader + `))`

const slotReader = `SELECT a.usesysid FROM pg_catalog.pg_stat_activity a JOIN pg_catalog.pg_replication_slots l ON l.active_pid = a.pid WHERE l.slot_name = $1 AND a.usesysid IS NOT NULL`

// asOwner returns the owner of the database, and whether our role can act as the owner. Otherwise
// the server may choose a grantor of its own: a role whose grant option we happen to have.
func asOwner(ctx context.Context, s *session.Session) (owner string, may bool, err error) {
	how := "SET"
	if pgdial.Version(s.OnSource.PgConn()) < 160000 {
		how = "MEMBER"
	}
	err = s.OnSource.QueryRow(ctx, "SELECT pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(d.datdba)), pg_catalog.pg_has_role(d.datdba, $1) FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()", how).
		Scan(&owner, &may)
	return owner, may, err
}

// narrow plans to leave the right to connect to the migration's roles, adds to the fence's record
// what unfence has to restore, and returns the statements. It returns none if the right could not
// be given back exactly: if a role other than the owner has granted it, or might seem to.
func narrow(ctx context.Context, s *session.Session, f *slot.Fence) (sql []string, err error) {
	_, may, err := asOwner(ctx, s)
	if err != nil {
		return nil, err
	}
	var others bool
	if err := s.OnSource.QueryRow(ctx, "SELECT coalesce(pg_catalog.bool_or(a.grantor <> d.datdba OR NOT $1 AND a.is_grantable AND a.grantee <> d.datdba), false) "+connectGrants, may).
		Scan(&others); err != nil || others {
		return nil, err
	}
	rows, err := s.OnSource.Query(ctx, "SELECT a.grantee, a.is_grantable "+connectGrants, pgx.QueryExecModeExec)
	if err != nil {
		return nil, err
	}
	have, err := pgx.CollectRows(rows, pgx.RowToStructByPos[slot.Grant])
	if err != nil {
		return nil, err
	}
	rows, err = s.OnSource.Query(ctx, "SELECT r.oid "+migrating, s.Slot)
	if err != nil {
		return nil, err
	}
	keep, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
	if err != nil {
		return nil, err
	}
	if f.Connect == nil {
		f.Connect = &slot.Connect{Had: have}
	}
	var take, give []uint32
	for _, g := range have {
		if !slices.Contains(keep, g.To) {
			take = append(take, g.To)
		}
	}
	for _, r := range keep {
		if slices.ContainsFunc(have, func(g slot.Grant) bool { return g.To == r }) {
			continue
		}
		give = append(give, r)
		if !slices.Contains(f.Connect.Given, r) {
			f.Connect.Given = append(f.Connect.Given, r)
		}
	}
	return statements(ctx, s, grants(give), take)
}

func grants(roles []uint32) (list []slot.Grant) {
	for _, r := range roles {
		list = append(list, slot.Grant{To: r})
	}
	return list
}

// widen returns the statements that restore the right to connect. A role that has been dropped
// since is left out.
func widen(ctx context.Context, s *session.Session, f *slot.Fence) ([]string, error) {
	if f == nil || f.Connect == nil {
		return nil, nil
	}
	var take []uint32
	for _, r := range f.Connect.Given {
		if !slices.ContainsFunc(f.Connect.Had, func(g slot.Grant) bool { return g.To == r }) {
			take = append(take, r)
		}
	}
	return statements(ctx, s, f.Connect.Had, take)
}

// statements returns the statements that give the right to connect to roles and take it from
// others, as the owner of the database.
func statements(ctx context.Context, s *session.Session, give []slot.Grant, take []uint32) ([]string, error) {
	owner, may, err := asOwner(ctx, s)
	if err != nil {
		return nil, err
	}
	var to []uint32
	var option []bool
	for _, g := range give {
		to, option = append(to, g.To), append(option, g.Option)
	}
	const role = `CASE x.oid WHEN 0 THEN 'PUBLIC' ELSE (SELECT pg_catalog.quote_ident(r.rolname) FROM pg_catalog.pg_roles r WHERE r.oid = x.oid) END`
	rows, err := s.OnSource.Query(ctx, `SELECT pg_catalog.format('GRANT CONNECT ON DATABASE %I TO %s%s', pg_catalog.current_database(), `+role+`, CASE WHEN x.option THEN ' WITH GRANT OPTION' END)
			FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.oid[]), pg_catalog.unnest($2::pg_catalog.bool[])) x(oid, option) WHERE `+role+` IS NOT NULL
		UNION ALL SELECT pg_catalog.format('REVOKE CONNECT ON DATABASE %I FROM %s', pg_catalog.current_database(), `+role+`)
			FROM pg_catalog.unnest($3::pg_catalog.oid[]) x(oid) WHERE `+role+` IS NOT NULL`, to, option, take)
	if err != nil {
		return nil, err
	}
	sql, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if may && len(sql) > 0 {
		sql = append([]string{"SET LOCAL ROLE " + owner}, sql...)
	}
	return sql, err
}

// connecting describes the closed source: who can still connect to it.
func connecting(ctx context.Context, s *session.Session, f *slot.Fence) (string, error) {
	if f.Connect == nil {
		return "is read-only, but anybody can connect, because a role other than its owner has granted CONNECT", nil
	}
	rows, err := s.OnSource.Query(ctx, `SELECT pg_catalog.quote_ident(r.rolname) FROM pg_catalog.pg_roles r WHERE r.rolcanlogin AND NOT r.rolsuper
		AND pg_catalog.has_database_privilege(r.oid, pg_catalog.current_database(), 'CONNECT') ORDER BY r.rolname = SESSION_USER DESC, r.rolname`)
	if err != nil {
		return "", err
	}
	roles, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return "", err
	}
	return "is closed to all but " + count.Some(append([]string{"superusers"}, roles...)), nil
}
