package check

import (
	"context"
	"errors"
	"regexp"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
)

// examined turns the error of an examination into a finding, so that the others can follow. It
// returns only errors after which nothing more can be examined.
func (c *checker) examined(server pgdial.Server, what string, err error) error {
	var pg *pgconn.PgError
	if err == nil || c.ctx.Err() != nil || pgdial.Lost(err) || !errors.As(err, &pg) || c.s.IsClosed() || c.t.IsClosed() {
		return server.Explain(err)
	}
	if waiting.IsLockTimeout(err) {
		err, hint := c.m.Locked(err), ""
		var f *fault.Error
		if errors.As(err, &f) {
			hint = f.Hint
		}
		c.fail("not-examined", hint+" Then run check again.", "%s: %s could not be examined for a lock: %v", server.Side, what, err)
		return nil
	}
	if isDenied(err) {
		conn, role := c.s, c.sourceUser
		if server.Side == c.m.Target.Side {
			conn, role = c.t, c.targetUser
		}
		f := c.warn("not-examined", "", "%s: %s could not be examined: %s", server.Side, what, pg.Message)
		grants, err := grantsFor(c.ctx, conn, role, pg)
		if err != nil {
			return server.Explain(err)
		}
		if len(grants) == 0 {
			f.Remedy = "Have a superuser look: the same command with a superuser in --" + server.Side
		} else {
			f.do(server.Side, superuser, grants...)
		}
		return nil
	}
	c.fail("not-examined", "Correct it, then run check again.", "%s: %s could not be examined: %s", server.Side, what, pg.Message)
	return nil
}

func isDenied(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "42501"
}

// systemName matches the names of the server's own objects.
var systemName = regexp.MustCompile(`[a-z][a-z0-9_]*`)

// grantsFor returns the statements that grant a role the privileges it was denied. The server's
// message names an object in every language: the predefined role whose members have the privilege,
// or the relation or function of the system catalog.
func grantsFor(ctx context.Context, conn *pgx.Conn, role string, denied *pgconn.PgError) ([]string, error) {
	names := systemName.FindAllString(denied.Message+" "+denied.Detail, -1)
	for _, q := range []string{
		`SELECT pg_catalog.quote_ident(r.rolname) FROM pg_catalog.pg_roles r WHERE r.rolname = ANY ($1) AND r.rolname ~ '^pg_'`,
		`SELECT pg_catalog.format('SELECT ON pg_catalog.%I', c.relname) FROM pg_catalog.pg_class c WHERE c.relname = ANY ($1)
			AND c.relnamespace = 'pg_catalog'::pg_catalog.regnamespace AND NOT pg_catalog.has_table_privilege(c.oid, 'SELECT')`,
		`SELECT pg_catalog.format('EXECUTE ON FUNCTION %s', p.oid::pg_catalog.regprocedure) FROM pg_catalog.pg_proc p WHERE p.proname = ANY ($1)
			AND p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace AND NOT pg_catalog.has_function_privilege(p.oid, 'EXECUTE')`,
	} {
		rows, err := conn.Query(ctx, q, names)
		if err != nil {
			return nil, err
		}
		list, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return nil, err
		}
		for i := range list {
			list[i] = "GRANT " + list[i] + " TO " + role + ";"
		}
		if len(list) > 0 {
			return list, nil
		}
	}
	return nil, nil
}
