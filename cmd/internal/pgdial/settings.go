package pgdial

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/citus"
)

// A setting has the same value in every session, regardless of presets for the database, the role
// or in the environment.
type setting struct{ name, value string }

// pinned settings are startup parameters, so that they are in force before the first name is
// resolved: the owner of a database may preset any setting that a user may set.
var pinned = []setting{
	// Only PostgreSQL's own functions, operators and types are found by name. Names in results have
	// their schema.
	{"search_path", ""},
	// How the server reads statements and constants.
	{"standard_conforming_strings", "on"}, {"array_nulls", "on"}, {"transform_null_equals", "off"}, {"xmloption", "content"},
	// How it prints names and values (SPEC.md 7.1).
	{"quote_all_identifiers", "off"}, {"datestyle", "ISO, MDY"}, {"intervalstyle", "postgres"},
	{"extra_float_digits", "3"}, {"bytea_output", "hex"},
	{"timezone", "UTC"}, {"lc_monetary", "C"},
	{"xmlbinary", "base64"},
	// The default tablespace of new tables. RESET returns to it.
	{"default_tablespace", ""},
	// No timeout ends a long job, and no index scan returns only a part of its results.
	{"statement_timeout", "0"}, {"lock_timeout", "0"}, {"gin_fuzzy_search_limit", "0"},
	{"client_min_messages", "error"},
}

// pasted settings decide how a server reads the statements that people paste into psql. The owner
// of the database may have preset them for that session, too. The encoding is the first one: in
// some encodings, a backslash can be the second byte of a character.
var pasted = []setting{
	{"client_encoding", "UTF8"}, {"standard_conforming_strings", "on"}, {"search_path", ""},
	{"array_nulls", "on"}, {"transform_null_equals", "off"}, {"xmloption", "content"},
	{"datestyle", "ISO, MDY"}, {"intervalstyle", "postgres"}, {"timezone", "UTC"}, {"lc_monetary", "C"},
	{"default_tablespace", ""}, {"check_function_bodies", "off"},
}

// Pasted returns the statements to be executed before others that are printed for psql.
func Pasted() string {
	var b strings.Builder
	for _, x := range pasted {
		b.WriteString("SET " + x.name + " = '" + x.value + "';\n")
	}
	return b.String()
}

// roleOption matches the name of the setting "role" in command-line options.
var roleOption = regexp.MustCompile(`(?:^|[\s=])(?:-c\s*|--)role\s*=`)

// pin adds the pinned settings to the startup parameters.
func pin(params map[string]string) {
	for k, v := range params {
		if lower := strings.ToLower(k); lower != k { // the server ignores case
			delete(params, k)
			params[lower] = v
		}
	}
	for _, s := range pinned {
		params[s.name] = s.value
	}
	// A session uses its login role, unless the connection string asks for another role.
	if params["role"] == "" && !roleOption.MatchString(params["options"]) {
		params["role"] = "none"
	}
}

// Options returns server command-line options that pin the same settings for a program that uses
// libpq. They consist of the user's options, followed by ours, which take precedence.
func (s Server) Options() (string, error) {
	c, err := s.config()
	if err != nil {
		return "", err
	}
	options := []string{c.RuntimeParams["options"]}
	for _, x := range inForce(c.RuntimeParams) {
		options = append(options, "-c "+x.name+"="+escapeOption.Replace(x.value))
	}
	return strings.TrimSpace(strings.Join(options, " ")), nil
}

// inForce returns the settings that must be in force in a session with these startup parameters.
func inForce(params map[string]string) []setting {
	list := make([]setting, len(pinned), len(pinned)+1)
	for i, x := range pinned {
		list[i] = setting{x.name, params[x.name]}
	}
	if role := params["role"]; role != "" {
		list = append(list, setting{"role", role})
	}
	return list
}

// escapeOption escapes blanks in the value of an option.
var escapeOption = strings.NewReplacer(`\`, `\\`, " ", `\ `)

// TablesOnly is a query after which a session can read only tables. Otherwise a table's owner could
// replace it by a view before it is read, and have the reader call the owner's functions. Servers
// older than the minor releases of August 2024 lack the setting. TablesOrViews undoes it.
func TablesOnly(side string) string {
	kinds := "view, foreign-table"
	if side == "target" {
		kinds = "view" // partitions may be foreign tables
	}
	return "SELECT pg_catalog.set_config(name, '" + kinds +
		"', false) FROM pg_catalog.pg_settings WHERE name = 'restrict_nonsystem_relation_kind'"
}

// TablesOrViews is the query that undoes TablesOnly.
const TablesOrViews = "SELECT pg_catalog.set_config(name, reset_val, false) FROM pg_catalog.pg_settings WHERE name = 'restrict_nonsystem_relation_kind'"

// prepare makes the settings that depend on the version and the encoding, and verifies in the same
// round trip that all settings are in force: a pooler may have dropped them. It returns the PID of
// the session's server process.
func (s Server) prepare(ctx context.Context, c *pgconn.PgConn, asked *pgconn.Config) (pid uint32, err error) {
	set := s.settings(c)
	var b strings.Builder
	b.WriteString(s.Set(c) + "; ")
	// SHOW resolves no names either.
	must := inForce(asked.RuntimeParams)
	for _, x := range must {
		b.WriteString("SHOW " + x.name + "; ")
	}
	b.WriteString("SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery()")
	results, err := c.Exec(ctx, b.String()).ReadAll()
	if err != nil {
		return 0, s.Explain(err)
	}
	for i, x := range must {
		r := results[len(set)+i]
		if len(r.Rows) != 1 {
			return 0, fmt.Errorf("the %s did not return a row for SHOW %s", s.Side, x.name)
		}
		if got := string(r.Rows[0][0]); got != x.value {
			return 0, s.notInForce(x, got)
		}
	}
	// Some services append the server's name to the user name.
	if user := c.ParameterStatus("session_authorization"); user != "" && user != asked.User && !strings.HasPrefix(asked.User, user+"@") {
		return 0, s.notInForce(setting{"session_authorization", asked.User}, user)
	}
	last := results[len(results)-1].Rows[0]
	if string(last[1]) == "t" {
		if err := s.standby(); err != nil {
			return 0, err
		}
	}
	n, err := strconv.ParseUint(string(last[0]), 10, 32)
	return uint32(n), err
}

// settings returns the settings that depend on the server, its version and its encoding.
func (s Server) settings(c *pgconn.PgConn) []setting {
	v := Version(c)
	encoding := s.Encoding
	if encoding == "" {
		encoding = ClientEncoding(c)
	}
	set := []setting{{"client_encoding", encoding}, {"lc_numeric", "C"}, {"lc_time", "C"}, {"timezone_abbreviations", "Default"},
		{"default_transaction_isolation", "read committed"}, {"default_transaction_deferrable", "off"},
		{"exit_on_error", "off"}} // statements may fail: the fence is proved by one that does
	if v < 190000 { // Newer servers may lack it. It concerns only strings that are not ours.
		set = append(set, setting{"backslash_quote", "safe_encoding"})
	}
	if v >= 90600 {
		set = append(set, setting{"idle_in_transaction_session_timeout", "0"})
	}
	if v >= 110000 {
		// JIT compilation of one of our catalog queries takes longer than executing the query a
		// hundred times.
		set = append(set, setting{"jit", "off"})
	}
	if v >= 140000 {
		set = append(set, setting{"idle_session_timeout", "0"})
	}
	if v >= 170000 {
		set = append(set, setting{"transaction_timeout", "0"})
	}
	if s.Side == "target" {
		// The default may be read-only for the database or the role, to keep others from writing.
		set = append(set, setting{"default_transaction_read_only", "off"}, setting{"check_function_bodies", "off"})
		// Data that is reported durable must survive a crash of the target. pgcutover open waits
		// until the target's standbys have the data as well. Before that, a missing standby must
		// not delay anything.
		set = append(set, setting{"synchronous_commit", "local"}, setting{citus.Mode, citus.ModeValue})
		if v < 120000 {
			set = append(set, setting{"default_with_oids", "off"})
		} else {
			set = append(set, setting{"default_table_access_method", "heap"})
		}
	} else {
		// Read rows in their physical order.
		set = append(set, setting{"synchronize_seqscans", "off"})
	}
	// A policy must make a read fail, not return fewer rows.
	set = append(set, setting{"row_security", "off"})
	return set
}

// Set returns the statements for the settings that are not startup parameters. RESET ALL undoes
// them.
func (s Server) Set(c *pgconn.PgConn) string {
	var list []string
	for _, x := range s.settings(c) {
		list = append(list, "SET "+x.name+" = '"+strings.ReplaceAll(x.value, "'", "''")+"'")
	}
	return strings.Join(list, "; ")
}
