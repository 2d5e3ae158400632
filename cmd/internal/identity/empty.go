package identity

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
)

// Emptying returns the statements that drop the connection's database and create it again, empty
// and with the same properties. The owner executes them one by one from another database of the
// server. They do not restore the effects of ALTER DATABASE … SET and GRANT ON DATABASE.
func Emptying(ctx context.Context, c *pgx.Conn) ([]string, error) {
	provider := "''"
	switch v := pgdial.Version(c.PgConn()); {
	case v >= 170000:
		provider = `CASE datlocprovider WHEN 'i' THEN pg_catalog.format(' LOCALE_PROVIDER icu ICU_LOCALE %L', datlocale)
			WHEN 'b' THEN pg_catalog.format(' LOCALE_PROVIDER builtin BUILTIN_LOCALE %L', datlocale) ELSE '' END`
	case v >= 150000:
		provider = `CASE datlocprovider WHEN 'i' THEN pg_catalog.format(' LOCALE_PROVIDER icu ICU_LOCALE %L', daticulocale) ELSE '' END`
	}
	list := make([]string, 2)
	err := c.QueryRow(ctx, `SELECT pg_catalog.format('DROP DATABASE %I', datname), pg_catalog.format('CREATE DATABASE %I OWNER %I TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L',
		datname, pg_catalog.pg_get_userbyid(datdba), pg_catalog.pg_encoding_to_char(encoding), datcollate, datctype) || `+provider+
		` FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()`).Scan(&list[0], &list[1])
	return list, err
}

// Empty returns the hint with the statements of Emptying, and where to execute them.
func Empty(ctx context.Context, c *pgx.Conn) string {
	list, err := Emptying(ctx, c)
	if err != nil {
		return "Drop the target's database, and create it again."
	}
	return "To empty the target, connected to another database of its server: " + strings.Join(list, "; ") + "."
}
