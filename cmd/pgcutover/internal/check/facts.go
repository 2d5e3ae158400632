package check

import (
	"strconv"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/roles"
)

// The sides, as indexes.
const (
	source = 0
	target = 1
)

// known are the settings that looks need.
var known = []string{"wal_sender_timeout", "max_slot_wal_keep_size", "max_wal_size", "autovacuum", "track_counts", "fsync", "full_page_writes",
	"synchronous_standby_names", "shared_preload_libraries", "max_locks_per_transaction", "max_connections", "max_prepared_transactions"}

// facts is the first look. It finds nothing, but asks for what many others need.
var facts = look{what: "the server", source: always(factsQuery), target: always(factsQuery), judge: func(c *checker, s, t [][]string) {
	for side, rows := range [][][]string{s, t} {
		c.setting[side] = make(map[string]string)
		for _, r := range rows {
			switch r[0] {
			case "service":
				c.service[side] = r[1]
			case "pid":
				c.pid[side] = r[1]
			case "super":
				c.super[side] = r[1] == "true"
			default:
				c.setting[side][r[0]] = r[1]
			}
		}
	}
}}

var factsQuery = "SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ('" + strings.Join(known, "', '") + "') UNION ALL SELECT 'service', " + roles.Service +
	" UNION ALL SELECT 'pid', pg_catalog.pg_backend_pid()::pg_catalog.text UNION ALL SELECT 'super', rolsuper::pg_catalog.text FROM pg_catalog.pg_roles WHERE rolname = current_user"

// number returns a setting in its own unit, or −1 if the role may not see it.
func (c *checker) number(side int, name string) int64 {
	n, err := strconv.ParseInt(c.setting[side][name], 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// reload are the statements that change a setting for good. They are none for a managed service,
// where the setting is one of its console's.
func (c *checker) reload(side int, name, value string) []string {
	if c.service[side] != "plain" {
		return nil
	}
	return []string{"ALTER SYSTEM SET " + name + " = '" + value + "';", "SELECT pg_catalog.pg_reload_conf();"}
}

// parameters says where a service has its settings.
var parameters = map[string]string{
	"rds": "its DB parameter group", "aurora": "its DB cluster parameter group", "azure": "the portal, under Server parameters",
	"cloudsql": "its database flags", "alloydb": "its database flags", "neon": "the console", "supabase": "supabase postgres-config update",
	"heroku": "no place: Heroku sets it",
}

// where completes a remedy that changes a setting: where to set it.
func (c *checker) where(side int) string {
	if p := parameters[c.service[side]]; p != "" {
		return " Set it in " + p + "."
	}
	return ""
}

// decoding is how each service switches logical decoding on.
var decoding = map[string]string{
	"plain":    "ALTER SYSTEM SET wal_level = logical, then restart the source.",
	"rds":      "Set rds.logical_replication = 1 in the DB parameter group, then reboot the instance.",
	"aurora":   "Set rds.logical_replication = 1 in the DB cluster parameter group, then reboot the writer.",
	"azure":    "Set the server parameter wal_level to logical in the portal, then restart the server.",
	"cloudsql": "Set the database flag cloudsql.logical_decoding = on. The instance restarts.",
	"alloydb":  "Set the database flag alloydb.logical_decoding = on. The instance restarts.",
	"neon":     "Enable logical replication in the project's settings. It cannot be switched off again.",
	"supabase": "Set wal_level to logical with: supabase postgres-config update. The database restarts.",
	"heroku":   "Heroku does not allow logical decoding: a full load is possible, continuous sync is not.",
}
