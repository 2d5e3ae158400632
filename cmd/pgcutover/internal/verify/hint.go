package verify

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// whatNow says what to do about a target that differs. The answer depends on which server is the
// primary now, because verify runs both before and after the target is opened.
func (v *verification) whatNow(ctx context.Context) string {
	slot := text.Shell(v.Slot)
	if v.Find(ctx) == nil && v.Stream.Ended {
		return "The target is open, and the application may have written to it since. Leave the source closed: it has the rows as they were. " +
			"Correct those that are named above on the target; pgcutover verify --slot " + slot +
			" compares again, and shows what was written since, too."
	}
	return "Do not let the application use the target. pgcutover unfence --slot " + slot + " gives the source back to it."
}

// readable returns the statement that lets our role read all rows of a table, if the server refused
// that for a missing privilege. It returns "" for other errors.
func (v *verification) readable(ctx context.Context, c *pgx.Conn, side string, p *pair, err error) (string, error) {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "42501" {
		return "", nil
	}
	schema, name := p.schema, p.name
	if side == v.Target.Side {
		schema, name = p.targetSchema, p.targetName
	}
	var me, owner string
	var enters, reads, bound bool
	err = c.QueryRow(ctx, `SELECT current_user, pg_catalog.pg_get_userbyid(c.relowner), pg_catalog.has_schema_privilege(n.oid, 'USAGE'), pg_catalog.has_table_privilege(c.oid, 'SELECT'), pg_catalog.row_security_active(c.oid)
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2`, schema, name).Scan(&me, &owner, &enters, &reads, &bound)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	table := text.Ident(schema, name)
	switch {
	case err != nil:
		return "", err
	case !enters:
		return fmt.Sprintf("On the %s, as its owner: GRANT USAGE ON SCHEMA %s TO %s;", side, text.Ident(schema), text.Ident(me)), nil
	case !reads:
		return fmt.Sprintf("On the %s, as %s: GRANT SELECT ON %s TO %s;", side, text.Ident(owner), table, text.Ident(me)), nil
	case bound:
		// Only a role that the policy does not bind can compare the hidden rows.
		return fmt.Sprintf("Row level security hides rows of %s.%s from role %s. On the %s, as superuser: ALTER ROLE %s BYPASSRLS; or compare as a role that has it (--%s).",
			text.Escape(schema), text.Escape(name), text.Ident(me), side, text.Ident(me), side), nil
	}
	return "", nil
}
