package catalog

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
)

// DefaultPath returns the schemas of the search path that the database and the session's user have
// configured. The user's own sessions look names up there. Sessions of pgsluice have an empty
// search path.
func DefaultPath(ctx context.Context, c *pgx.Conn) ([]string, error) {
	var user, path string
	// If several settings apply, this picks the same one as the server.
	err := c.QueryRow(ctx, `SELECT session_user::pg_catalog.text, coalesce((SELECT pg_catalog.substr(x, pg_catalog.strpos(x, '=') + 1)
		FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) x
		WHERE s.setdatabase IN (0, (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))
		AND s.setrole IN (0, (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = session_user)) AND pg_catalog.lower(x) LIKE 'search\_path=%'
		ORDER BY s.setrole <> 0 DESC, s.setdatabase <> 0 DESC LIMIT 1), '"$user", public')`).Scan(&user, &path)
	if err != nil {
		return nil, err
	}
	list := splitPath(path)
	for i, s := range list {
		if s == "$user" {
			list[i] = user
		}
	}
	return list, nil
}

// splitPath splits a list of schemas by the server's rules, and folds unquoted names to lower case.
func splitPath(path string) (list []string) {
	var b strings.Builder
	quoted, any := false, false
	end := func() {
		if b.Len() > 0 || any {
			list = append(list, b.String())
		}
		b.Reset()
		any = false
	}
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '"' && quoted && i+1 < len(path) && path[i+1] == '"':
			b.WriteByte(c)
			i++
		case c == '"':
			quoted, any = !quoted, true
		case quoted:
			b.WriteByte(c)
		case c == ',':
			end()
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f':
		case 'A' <= c && c <= 'Z':
			b.WriteByte(c + 'a' - 'A')
		default:
			b.WriteByte(c)
		}
	}
	end()
	return list
}
