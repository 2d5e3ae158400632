package roles

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// A provider says how its service departs from an ordinary server.
type provider struct {
	name  string
	admin string // who may execute the statements
	// replicates is the role whose members may use slots, instead of those with the attribute
	// REPLICATION; cannot says why no role may.
	replicates, cannot string
	create             string // how a role is created, if not by SQL
	// settings is a query that recognizes the service.
	settings string
}

// services lists the providers in the order in which they are looked for: some settings are those
// of another service as well.
var services = []string{"aurora", "rds", "azure", "alloydb", "cloudsql", "neon", "supabase", "heroku"}

var providers = map[string]provider{
	"plain": {name: "a server of your own", admin: "superuser"},
	"aurora": {name: "Amazon Aurora", admin: "the master user, a member of rds_superuser", replicates: "rds_replication",
		settings: "pg_catalog.to_regproc('pg_catalog.aurora_version') IS NOT NULL"},
	"rds": {name: "Amazon RDS", admin: "the master user, a member of rds_superuser", replicates: "rds_replication",
		settings: named("rds.%")},
	"azure": {name: "Azure Database for PostgreSQL", admin: "the server administrator, a member of azure_pg_admin",
		settings: named("azure.%")},
	"alloydb":  {name: "Google AlloyDB", admin: "postgres, a member of alloydbsuperuser", settings: named("alloydb.%")},
	"cloudsql": {name: "Google Cloud SQL", admin: "postgres, a member of cloudsqlsuperuser", settings: named("cloudsql.%")},
	"neon":     {name: "Neon", admin: "a role of the console, a member of neon_superuser", settings: named("neon.%")},
	"supabase": {name: "Supabase", admin: "postgres", settings: named("supautils.%")},
	"heroku": {name: "Heroku Postgres", admin: "the default credential",
		create:   "Heroku creates roles only by its own command: heroku pg:credentials:create --name NAME",
		cannot:   "Heroku gives REPLICATION to no role: a full load is possible, continuous sync from there is not.",
		settings: "EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'heroku_ext')"},
}

func named(pattern string) string {
	return "EXISTS (SELECT FROM pg_catalog.pg_settings WHERE name LIKE '" + pattern + "')"
}

// Service is an expression: the provider of the session's server, plain if it is none of services.
var Service = func() string {
	sql := "CASE"
	for _, name := range services {
		sql += " WHEN " + providers[name].settings + " THEN '" + name + "'"
	}
	return sql + " ELSE 'plain' END"
}()

// recognize returns the provider of the connection's server.
func recognize(ctx context.Context, c *pgx.Conn) (name string, err error) {
	err = c.QueryRow(ctx, "SELECT "+Service).Scan(&name)
	return name, err
}
