package objects

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// ownPath returns the statements that set the search path of all functions with a name to their own
// schema. The name has the form in which the server reports a called function: with or without its
// signature.
func ownPath(ctx context.Context, c *pgx.Conn, name string) (string, error) {
	rows, err := c.Query(ctx, `SELECT pg_catalog.format('%I.%I(%s)', n.nspname, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid)), n.nspname
		FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
		WHERE (p.proname = $1 OR p.oid::pg_catalog.regprocedure::pg_catalog.text = $1) AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgsluice') AND NOT EXISTS (SELECT FROM pg_catalog.unnest(p.proconfig) x WHERE x ~ '^search_path=')
		ORDER BY 1`, name)
	if err != nil {
		return "", err
	}
	var list []string
	var signature, schema string
	_, err = pgx.ForEachRow(rows, []any{&signature, &schema}, func() error {
		list = append(list, "ALTER FUNCTION "+signature+" SET search_path = pg_catalog, "+text.Ident(schema)+";")
		return nil
	})
	return strings.Join(list, " "), err
}
