package old

import "strings"

// phrases are replaced as they are: what a query asks for does not exist.
var phrases = strings.NewReplacer(
	// Whose sessions a role sees is no right of its own yet. A hidden session is counted as one
	// that may write.
	"pg_catalog.pg_has_role('pg_read_all_stats', $1)", "($1::pg_catalog.text IS NOT NULL)",
	"pg_catalog.pg_sequence_last_value(s.seqrelid)", "s.last_value", "pg_catalog.pg_sequence_last_value(seqrelid)", "last_value",
	"('pg_catalog.pg_publication'::pg_catalog.regclass, 'pg_catalog.pg_subscription'::pg_catalog.regclass, ", "(",
)

// renamed functions, with their former names.
var renamed = map[string]string{
	"pg_current_wal_lsn":        "pg_current_xlog_location",
	"pg_current_wal_insert_lsn": "pg_current_xlog_insert_location",
	"pg_current_wal_flush_lsn":  "pg_current_xlog_flush_location",
	"pg_last_wal_replay_lsn":    "pg_last_xlog_replay_location",
	"pg_last_wal_receive_lsn":   "pg_last_xlog_receive_location",
	"pg_wal_lsn_diff":           "pg_xlog_location_diff",
	"pg_walfile_name":           "pg_xlogfile_name",
	"pg_switch_wal":             "pg_switch_xlog",
}

// functions that are missing become expressions around their arguments.
var functions = map[string]struct{ before, after string }{
	"pg_sequence_last_value":       {"(SELECT x.last_value FROM (" + sequences + ") x WHERE x.seqrelid = ", ")"},
	"pg_get_publication_tables":    {"(SELECT m.prrelid AS relid FROM (SELECT ", "::pg_catalog.text AS name) y JOIN (" + members + ") m ON m.pubname::pg_catalog.text = y.name)"},
	"pg_logical_slot_peek_changes": {"(SELECT f.location AS lsn, f.xid, f.data FROM pg_catalog.pg_logical_slot_peek_changes", " f)"},
	"pg_get_partkeydef":            {"nullif(pg_catalog.format('', ", "), '')"},
	"pg_get_statisticsobjdef":      {"nullif(pg_catalog.format('', ", "), '')"},
	"pg_collation_actual_version":  {"nullif(pg_catalog.format('', ", "), '')"},
}

// A relation is a catalog or a view as version 10 has it. With columns, only queries that name one
// of them need it; plain is what the others get, if it is not empty.
type relation struct {
	columns    []string
	sql, plain string
}

var relations = map[string]relation{
	"pg_publication":        {sql: publications},
	"pg_publication_rel":    {sql: members},
	"pg_publication_tables": {sql: `SELECT m.pubname, n.nspname AS schemaname, c.relname AS tablename FROM (` + members + `) m JOIN pg_catalog.pg_class c ON c.oid = m.prrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace`},
	"pg_subscription":       {sql: none("oid oid", "subname name", "subdbid oid", "subowner oid", "subenabled bool", "subconninfo text", "subslotname name", "subpublications _text")},
	"pg_partitioned_table":  {sql: none("partrelid oid", "partstrat \"char\"", "partnatts int2", "partattrs int2vector", "partclass oidvector", "partcollation oidvector", "partexprs text")},
	"pg_statistic_ext":      {sql: none("oid oid", "stxrelid oid", "stxname name", "stxnamespace oid", "stxowner oid", "stxkeys int2vector", "stxkind _char")},
	"pg_sequence": {[]string{"seqstart", "seqincrement", "seqmax", "seqmin", "seqcache", "seqcycle", "last_value"}, sequences,
		"SELECT " + sequence + " FROM pg_catalog.pg_class q WHERE q.relkind = 'S' AND q.relpersistence <> 't'"},
	"pg_sequences": {sql: `SELECT n.nspname AS schemaname, c.relname AS sequencename, s.seqtypid::pg_catalog.regtype AS data_type, s.seqstart AS start_value, s.seqmin AS min_value,
		s.seqmax AS max_value, s.seqincrement AS increment_by, s.seqcycle AS cycle, s.seqcache AS cache_size, s.last_value
		FROM (` + sequences + `) s JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace`},
	"pg_class":             {columns: []string{"relispartition", "relpartbound"}, sql: "SELECT c.oid, c.xmin, c.ctid, c.*, false AS relispartition, NULL::pg_catalog.pg_node_tree AS relpartbound FROM pg_catalog.pg_class c"},
	"pg_attribute":         {columns: []string{"attidentity"}, sql: `SELECT a.xmin, a.ctid, a.*, ''::pg_catalog."char" AS attidentity FROM pg_catalog.pg_attribute a`},
	"pg_replication_slots": {columns: []string{"temporary"}, sql: "SELECT s.*, false AS temporary FROM pg_catalog.pg_replication_slots s"},
	// The state is hidden from most roles. No replication session of 9.6 executes SQL.
	"pg_stat_replication": {sql: `SELECT r.pid, r.usesysid, r.usename, r.application_name, r.client_addr, r.client_hostname, r.client_port, r.backend_start, r.backend_xmin,
		coalesce(r.state, 'streaming') AS state, r.sent_location AS sent_lsn, r.write_location AS write_lsn, r.flush_location AS flush_lsn, r.replay_location AS replay_lsn,
		r.sync_priority, r.sync_state FROM pg_catalog.pg_stat_replication r`},
	// Whom autovacuum belongs to is seen by all, and what it vacuums. Who sees the query as well
	// can tell it from a superuser's VACUUM. A client may send any text, but has a port.
	"pg_stat_activity": {columns: []string{"backend_type"}, sql: `SELECT a.*, CASE WHEN a.pid IN (SELECT r.pid FROM pg_catalog.pg_stat_replication r) THEN 'walsender'
		WHEN a.usesysid = 10 AND a.application_name = '' AND a.client_port IS NULL AND (a.query LIKE 'autovacuum: %' OR a.query = '<insufficient privilege>' AND a.pid IN (SELECT v.pid FROM pg_catalog.pg_stat_progress_vacuum v)) THEN 'autovacuum worker'
		WHEN a.query = '<insufficient privilege>' THEN NULL ELSE 'client backend' END AS backend_type FROM pg_catalog.pg_stat_activity a`},
	"pg_collation": {columns: []string{"collprovider", "collversion"}, sql: `SELECT c.oid, c.xmin, c.ctid, c.*, (CASE c.oid WHEN 100 THEN 'd' ELSE 'c' END)::pg_catalog."char" AS collprovider, NULL::pg_catalog.text AS collversion FROM pg_catalog.pg_collation c`},
	"pg_policy":    {columns: []string{"polpermissive"}, sql: "SELECT p.oid, p.xmin, p.ctid, p.*, true AS polpermissive FROM pg_catalog.pg_policy p"},
}

// none is an empty relation with these columns of system types.
func none(columns ...string) string {
	list := []string{`NULL::pg_catalog.xid AS xmin`, `NULL::pg_catalog.tid AS ctid`}
	for _, c := range columns {
		name, typ, _ := strings.Cut(c, " ")
		list = append(list, "NULL::pg_catalog."+typ+" AS "+name)
	}
	return "SELECT " + strings.Join(list, ", ") + " WHERE false"
}

// sequences returns one row for each sequence, with NULL for what the role may not read. A sequence
// is a relation of one row, and no query can name a relation that it computes: ts_stat executes the
// text of a query, and needs nothing that a server may be built without. It returns one word, which
// has all values. (Measured: 0.1 ms a sequence; a text for many sequences is slower.)
var sequences = `SELECT ` + sequence + `, ` + field("start_value", "int8") + ` AS seqstart, ` + field("increment_by", "int8") + ` AS seqincrement, ` +
	field("max_value", "int8") + ` AS seqmax, ` + field("min_value", "int8") + ` AS seqmin, ` + field("cache_value", "int8") + ` AS seqcache, ` + field("is_cycled", "bool") + ` AS seqcycle,
	CASE WHEN x.word ~ 'is_called=true' THEN ` + field("last_value", "int8") + ` END AS last_value FROM pg_catalog.pg_class q
	LEFT JOIN LATERAL pg_catalog.ts_stat(CASE WHEN q.relkind = 'S' AND q.relpersistence <> 't' AND pg_catalog.has_sequence_privilege(CASE q.relkind WHEN 'S' THEN q.oid END, 'SELECT')
		THEN pg_catalog.format('SELECT pg_catalog.array_to_tsvector(ARRAY[pg_catalog.concat(` + values() + `)]) FROM %s', q.oid::pg_catalog.regclass) END) x ON true
	WHERE q.relkind = 'S' AND q.relpersistence <> 't'`

// sequence are the columns that do not take reading the sequence.
const sequence = "q.oid AS seqrelid, 20::pg_catalog.oid AS seqtypid, q.xmin, q.ctid"

func values() string {
	var columns []string
	for _, c := range []string{"start_value", "increment_by", "max_value", "min_value", "cache_value", "is_cycled", "last_value", "is_called"} {
		value := c
		if strings.HasPrefix(c, "is_") {
			value += "::pg_catalog.text"
		}
		columns = append(columns, "'' "+c+"='', "+value)
	}
	return strings.Join(columns, ", ")
}

func field(name, typ string) string {
	return "pg_catalog.substring(x.word, '" + name + "=([-a-z0-9]+)')::pg_catalog." + typ
}

// classes are constants that name a catalog: a missing one has no objects, and publications are
// functions.
var classes = map[string]string{
	"'pg_catalog.pg_publication'":     "'pg_catalog.pg_proc'",
	"'pg_catalog.pg_publication_rel'": "'0'",
	"'pg_catalog.pg_subscription'":    "'0'",
	"'pg_catalog.pg_statistic_ext'":   "'0'",
	"'pg_publication'":                "'pg_proc'",
	"'pg_statistic_ext'":              "'pg_class'",
	"'pg_subscription'":               "'pg_class'",
}
