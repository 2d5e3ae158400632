package pgdial

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// A setting is one that every session has, whatever the database, the role and the environment
// preset.
type setting struct{ name, value string }

// pinned are part of the request for a connection, so that they hold before anything is looked up
// by name: the owner of a database may preset any setting that a user may set.
var pinned = []setting{
	// No function, operator or type is found by name but PostgreSQL's own; names in answers come
	// with their schema.
	{"search_path", ""},
	// How the server reads statements and constants.
	{"standard_conforming_strings", "on"}, {"array_nulls", "on"}, {"transform_null_equals", "off"}, {"xmloption", "content"},
	// How it prints names and values (SPEC.md 7.1).
	{"quote_all_identifiers", "off"}, {"datestyle", "ISO, MDY"}, {"intervalstyle", "postgres"},
	{"extra_float_digits", "3"}, {"bytea_output", "hex"},
	{"timezone", "UTC"}, {"lc_monetary", "C"},
	{"xmlbinary", "base64"},
	// Where tables are created that are not said to be elsewhere; RESET comes back to it.
	{"default_tablespace", ""},
	// Nothing cuts a long job short, and no index answers with a part of what it has.
	{"statement_timeout", "0"}, {"lock_timeout", "0"}, {"gin_fuzzy_search_limit", "0"},
	{"client_min_messages", "error"},
}

// roleOption matches the name of the setting "role" in command-line options.
var roleOption = regexp.MustCompile(`(?:^|[\s=])(?:-c\s*|--)role\s*=`)

// pin puts what is pinned into the parameters of a request for a connection.
func pin(params map[string]string) {
	for k, v := range params {
		if lower := strings.ToLower(k); lower != k { // to the server they are the same
			delete(params, k)
			params[lower] = v
		}
	}
	for _, s := range pinned {
		params[s.name] = s.value
	}
	// A session is who it has logged in as, unless the connection string asks for another role.
	if params["role"] == "" && !roleOption.MatchString(params["options"]) {
		params["role"] = "none"
	}
}

// Options returns command-line options of the server that pin the same settings for a program that
// uses libpq: those that the user has asked for, and ours, which win.
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

// inForce returns what must be in force in a session that was asked for with these parameters.
func inForce(params map[string]string) []setting {
	if role := params["role"]; role != "" {
		return append(pinned[:len(pinned):len(pinned)], setting{"role", role})
	}
	return pinned
}

// escapeOption keeps blanks in the value of an option.
var escapeOption = strings.NewReplacer(`\`, `\\`, " ", `\ `)

// TablesOnly is a query after which a session reads nothing that stands in a table's place by the
// time it reads: whoever owns a table can have a view of its name, and with that his functions
// called by its reader. A server older than the minor releases of August 2024 has no such setting.
// TablesOrViews takes it back.
func TablesOnly(side string) string {
	kinds := "view, foreign-table"
	if side == "target" {
		kinds = "view" // a partition may well be elsewhere
	}
	return "SELECT pg_catalog.set_config(name, '" + kinds +
		"', false) FROM pg_catalog.pg_settings WHERE name = 'restrict_nonsystem_relation_kind'"
}

// TablesOrViews is the query that takes TablesOnly back.
const TablesOrViews = "SELECT pg_catalog.set_config(name, reset_val, false) FROM pg_catalog.pg_settings WHERE name = 'restrict_nonsystem_relation_kind'"

// prepare refuses servers that cannot be worked with, sets what depends on the version and the
// encoding, and proves in the same round trip that everything is in force: a pooler may have
// swallowed it. It returns the session's server process.
func (s Server) prepare(ctx context.Context, c *pgconn.PgConn, asked *pgconn.Config) (pid uint32, err error) {
	if err := s.supported(Version(c)); err != nil {
		return 0, err
	}
	set := s.settings(c)
	var b strings.Builder
	b.WriteString(s.Set(c) + "; ")
	// SHOW looks nothing up by name either.
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
			return 0, fmt.Errorf("the %s does not answer SHOW %s", s.Side, x.name)
		}
		if got := string(r.Rows[0][0]); got != x.value {
			return 0, s.notInForce(x, got)
		}
	}
	// Some services take a user's name with the server's behind it.
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

// settings returns what depends on the server, its version and its encoding.
func (s Server) settings(c *pgconn.PgConn) []setting {
	v := Version(c)
	encoding := s.Encoding
	if encoding == "" {
		encoding = ClientEncoding(c)
	}
	set := []setting{{"client_encoding", encoding}, {"lc_numeric", "C"}, {"lc_time", "C"}, {"timezone_abbreviations", "Default"},
		{"default_transaction_isolation", "read committed"}, {"default_transaction_deferrable", "off"}}
	if v < 190000 { // a newer one may not have it: it is about strings that are not ours
		set = append(set, setting{"backslash_quote", "safe_encoding"})
	}
	if v >= 90600 {
		set = append(set, setting{"idle_in_transaction_session_timeout", "0"})
	}
	if v >= 110000 {
		// To compile one of our queries of catalogs takes longer than to execute it a hundred
		// times.
		set = append(set, setting{"jit", "off"})
	}
	if v >= 140000 {
		set = append(set, setting{"idle_session_timeout", "0"})
	}
	if v >= 170000 {
		set = append(set, setting{"transaction_timeout", "0"})
	}
	if s.Side == "target" {
		// It may be kept from being written to by others, and for the role that is the default.
		set = append(set, setting{"default_transaction_read_only", "off"}, setting{"check_function_bodies", "off"})
		// What is reported durable must survive a crash of the target. That its standbys have it,
		// too, is what pgcutover open waits for: until then a standby that is not there holds
		// nothing up.
		set = append(set, setting{"synchronous_commit", "local"})
		if v < 120000 {
			set = append(set, setting{"default_with_oids", "off"})
		} else {
			set = append(set, setting{"default_table_access_method", "heap"})
		}
	} else {
		// Rows come in the order in which they lie there.
		set = append(set, setting{"synchronize_seqscans", "off"})
	}
	// A policy must make a read fail, not return fewer rows.
	set = append(set, setting{"row_security", "off"})
	return set
}

// Set returns the statements that make the settings which a session has not begun with. RESET ALL
// takes them back.
func (s Server) Set(c *pgconn.PgConn) string {
	var list []string
	for _, x := range s.settings(c) {
		list = append(list, "SET "+x.name+" = '"+strings.ReplaceAll(x.value, "'", "''")+"'")
	}
	return strings.Join(list, "; ")
}
