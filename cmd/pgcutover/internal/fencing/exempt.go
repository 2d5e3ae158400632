package fencing

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// Who is exempt from the database's default: a role with a setting of its own, and a subscription,
// whose worker writes rows without asking whether its transaction is read-only.

// Exempt returns the roles whose own setting overrides the database's. The server takes any
// spelling of a boolean. A role's setting for this database overrides its setting for all.
func Exempt(ctx context.Context, c *pgx.Conn) ([]string, error) {
	return names(ctx, c, selectExempt)
}

const selectExempt = `SELECT r.rolname FROM (SELECT DISTINCT ON (s.setrole) s.setrole, (pg_catalog.substr(x, pg_catalog.strpos(x, '=') + 1))::pg_catalog.bool AS closed
		FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) x
		WHERE s.setrole <> 0 AND s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
		AND pg_catalog.split_part(x, '=', 1) = 'default_transaction_read_only' ORDER BY s.setrole, s.setdatabase = 0) v
		JOIN pg_catalog.pg_roles r ON r.oid = v.setrole WHERE NOT v.closed ORDER BY 1`

// Subscriptions returns the subscriptions of the database that are enabled.
func Subscriptions(ctx context.Context, c *pgx.Conn) ([]string, error) {
	return names(ctx, c, selectSubscriptions)
}

const selectSubscriptions = `SELECT s.subname FROM pg_catalog.pg_subscription s
		WHERE s.subenabled AND s.subdbid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()) ORDER BY 1`

// Disable returns the statements that disable subscriptions.
func Disable(list []string) []string {
	sql := make([]string, len(list))
	for i, name := range list {
		sql[i] = "ALTER SUBSCRIPTION " + text.Ident(name) + " DISABLE;"
	}
	return sql
}

// Grantors returns the roles other than the owner that have granted the right to connect. The fence
// could take it away, but unfence could not give it back in their name.
func Grantors(ctx context.Context, c *pgx.Conn) ([]string, error) {
	return names(ctx, c, `SELECT DISTINCT pg_catalog.pg_get_userbyid(a.grantor) FROM pg_catalog.pg_database d, pg_catalog.aclexplode(d.datacl) a
		WHERE d.datname = pg_catalog.current_database() AND a.privilege_type = 'CONNECT' AND a.grantor <> d.datdba ORDER BY 1`)
}

func names(ctx context.Context, c *pgx.Conn, sql string) ([]string, error) {
	rows, err := c.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
