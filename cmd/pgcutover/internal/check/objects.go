package check

import (
	"strconv"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/citus"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// theirs restricts relations c in namespace n to those of the user that no extension has made.
const theirs = catalog.Migrated + ` AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.objid = c.oid AND e.deptype = 'e')`

// invalidIndexes selects indexes that CREATE INDEX CONCURRENTLY has left behind.
const invalidIndexes = `SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(x.relname), n.nspname, x.relname
	FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid JOIN pg_catalog.pg_class c ON c.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	WHERE NOT (i.indisvalid AND i.indisready) AND c.relkind = 'r' AND ` + theirs + ` ORDER BY 1`

func (c *checker) invalidIndexes(s, _ [][]string) {
	if len(s) == 0 {
		return
	}
	f := c.warn("invalid-indexes", "pg_dump leaves them out. Build them again, which locks their tables, or drop them:",
		"the source has %s: %s", count.Of(len(s), "invalid index"), count.Some(column(s, 0)))
	for _, r := range s {
		f.do("source", superuser, "REINDEX INDEX "+text.Ident(r[1], r[2])+";")
	}
}

// constraints selects constraints that behave in an unusual way: kind, table, name.
const constraints = `SELECT CASE WHEN NOT k.convalidated THEN 'not-valid' ELSE 'deferrable' END, n.nspname || '.' || c.relname || '.' || k.conname, n.nspname, c.relname, k.conname
	FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	WHERE (NOT k.convalidated AND k.contype IN ('c', 'n') OR k.condeferrable AND k.contype IN ('p', 'u', 'x')) AND ` + theirs + ` ORDER BY 2`

func (c *checker) constraints(s, _ [][]string) {
	var notValid, deferrable []string
	var sql []string
	for _, r := range s {
		if r[0] == "deferrable" {
			deferrable = append(deferrable, r[1])
			continue
		}
		notValid = append(notValid, r[1])
		sql = append(sql, "ALTER TABLE "+text.Ident(r[2], r[3])+" VALIDATE CONSTRAINT "+text.Ident(r[4])+";")
	}
	if len(notValid) > 0 {
		c.warn("not-valid-constraints", "Old rows may violate them, and an update of such a row fails. Correct the rows, then:",
			"constraints are NOT VALID: %s", count.Some(notValid)).do("source", superuser, sql...)
	}
	if len(deferrable) > 0 {
		c.note("deferrable-constraints", "deferrable constraints, so that changes of their tables are applied alone, not beside others: %s", count.Some(deferrable))
	}
}

// keys selects tables whose keys make the work of sync slow or special: kind, table.
func keys(version int) string {
	sql := `SELECT 'full', n.nspname || '.' || c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'r' AND c.relreplident = 'f' AND c.reltuples > 100000 AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indpred IS NULL) AND ` + theirs
	if version >= 120000 {
		sql += ` UNION ALL SELECT 'generated', n.nspname || '.' || c.relname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
			WHERE (i.indisprimary OR i.indisreplident) AND EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey) AND a.attgenerated <> '') AND ` + theirs
	} else {
		sql += ` UNION ALL SELECT 'oids', n.nspname || '.' || c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND c.relhasoids AND ` + theirs
	}
	if leavesOutKeys(version) {
		sql += longKeys
	}
	return sql + " ORDER BY 1, 2"
}

// longKeys selects tables whose replica identity may be so long that it is stored out of line: it
// has a column of a type and length of which the server moves values to the TOAST table.
const longKeys = ` UNION ALL SELECT 'long', n.nspname || '.' || c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relkind = 'r' AND c.reltoastrelid <> 0 AND EXISTS (SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
		WHERE i.indrelid = c.oid AND (c.relreplident = 'd' AND i.indisprimary OR c.relreplident = 'i' AND i.indisreplident)
		AND a.attlen = -1 AND a.attstorage IN ('x', 'e') AND NOT (a.atttypid IN (1042, 1043) AND a.atttypmod BETWEEN 0 AND 10)) AND ` + theirs

// leavesOutKeys reports whether a server of a version leaves a key that is stored out of line out
// of an update that does not change it.
func leavesOutKeys(version int) bool {
	mended := map[int]int{10: 20, 11: 15, 12: 10, 13: 6, 14: 2}
	minor, ok := mended[version/10000]
	return version < 100000 || ok && version%10000 < minor
}

func (c *checker) keys(s, _ [][]string) {
	of := make(map[string][]string)
	for _, r := range s {
		of[r[0]] = append(of[r[0]], r[1])
	}
	if list := of["full"]; len(list) > 0 {
		c.warn("identity-full", "Add a primary key, or a unique index.",
			"large tables with REPLICA IDENTITY FULL and no unique index: each update and delete reads the whole table on the target: %s", count.Some(list))
	}
	if list := of["long"]; len(list) > 0 {
		remedy := "Install the newest minor version, or ALTER TABLE … REPLICA IDENTITY FULL."
		if c.sv < 100000 {
			remedy = "ALTER TABLE … REPLICA IDENTITY FULL, unless all keys are short."
		}
		c.warn("long-keys", remedy,
			"this version of PostgreSQL leaves long keys out of updates, which then cannot be applied, and the keys of %s could be so long: %s",
			count.Of(len(list), "table"), count.Some(list))
	}
	if list := of["generated"]; len(list) > 0 {
		c.note("generated-keys", "columns of keys are generated, so that their values are not in the stream before version 18: %s", count.Some(list))
	}
	if list := of["oids"]; len(list) > 0 && c.tv >= 120000 {
		c.warn("oid-columns", "Copy the OIDs to a column of its own if somebody uses them, then: ALTER TABLE … SET WITHOUT OIDS",
			"tables WITH OIDS, of which the target has no OIDs: %s", count.Some(list))
	}
}

// firing selects triggers that also fire in sessions that replicate, and rules.
const firing = `SELECT 'trigger', n.nspname || '.' || c.relname || '.' || t.tgname FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	WHERE NOT t.tgisinternal AND t.tgenabled IN ('A', 'R') AND ` + theirs + `
	UNION ALL SELECT 'rule', n.nspname || '.' || c.relname || '.' || r.rulename FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relkind IN ('r', 'p') AND ` + theirs + ` ORDER BY 1, 2`

func (c *checker) firing(s, _ [][]string) {
	var triggers, rules []string
	for _, r := range s {
		if r[0] == "trigger" {
			triggers = append(triggers, r[1])
		} else {
			rules = append(rules, r[1])
		}
	}
	if len(triggers) > 0 {
		c.note("always-triggers", "triggers that are enabled ALWAYS or for REPLICA: they wait for the cutover on the target, and fire for other replication: %s", count.Some(triggers))
	}
	if len(rules) > 0 {
		c.note("rules", "tables have rules: they are disabled on the target until the cutover: %s", count.Some(rules))
	}
}

// sequenceEnds selects sequences that do not cycle, with the last value of each and the last that
// the sequence and its column can have. A sequence that the role may not read has no last value.
const sequenceEnds = `SELECT n.nspname || '.' || c.relname, q.last_value,
	CASE WHEN q.increment_by < 0 THEN q.min_value ELSE least(q.max_value, (SELECT pg_catalog.min(CASE a.atttypid WHEN 21 THEN 32767 WHEN 23 THEN 2147483647 END) FROM pg_catalog.pg_depend d
		JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i'))) END,
	q.start_value, pg_catalog.has_sequence_privilege(c.oid, 'SELECT, USAGE')
	FROM pg_catalog.pg_sequences q JOIN pg_catalog.pg_namespace n ON n.nspname = q.schemaname JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = q.sequencename
	WHERE NOT q.cycle AND ` + catalog.Migrated + ` ORDER BY 1`

// sequenceEnds looks for sequences that have used up most of their values, or of those that their
// column can hold.
func (c *checker) sequenceEnds(s, _ [][]string) {
	const most = 0.8
	var near, hidden []string
	for _, r := range s {
		if r[4] != "t" {
			hidden = append(hidden, r[0])
		}
		last, err := strconv.ParseFloat(r[1], 64)
		if err != nil {
			continue
		}
		end, _ := strconv.ParseFloat(r[2], 64)
		if start, _ := strconv.ParseFloat(r[3], 64); end != start && (last-start)/(end-start) > most {
			near = append(near, r[0]+" (at "+r[1]+" of "+r[2]+")")
		}
	}
	if len(near) > 0 {
		c.warn("sequence-end", "Change the column and the sequence to bigint before the load, or plan it for the target.", "sequences have used most of their values: %s", count.Some(near))
	}
	if len(hidden) > 0 {
		c.note("sequences-hidden", "the source's role may not see how far these sequences are: %s", count.Some(hidden))
	}
}

// foreign selects what leads to other servers.
const foreign = `SELECT 'table', n.nspname || '.' || c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'f' AND ` + theirs + `
	UNION ALL SELECT 'mapping', m.usename || ' on ' || m.srvname FROM pg_catalog.pg_user_mappings m ORDER BY 1, 2`

func (c *checker) foreign(s, _ [][]string) {
	var tables, mappings []string
	for _, r := range s {
		if r[0] == "table" {
			tables = append(tables, r[1])
		} else {
			mappings = append(mappings, r[1])
		}
	}
	if len(tables) > 0 {
		c.note("foreign-tables", "rows of foreign tables stay on their server, which the target must reach: %s", count.Some(tables))
	}
	if len(mappings) > 0 {
		c.warn("user-mappings", "After the load, set the passwords on the target: ALTER USER MAPPING …", "passwords of user mappings do not come along: %s", count.Some(mappings))
	}
}

// superuserObjects selects objects, by kind, that only a superuser may create.
func superuserObjects(version int) string {
	sql := `SELECT 'event trigger', evtname::pg_catalog.text FROM pg_catalog.pg_event_trigger t WHERE evtname !~ '^pgsluice_' AND ` + ofNone("pg_event_trigger", "t.oid") + `
		UNION ALL SELECT 'function in ' || l.lanname, p.oid::pg_catalog.regprocedure::pg_catalog.text FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
			WHERE NOT l.lanpltrusted AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgsluice') AND n.nspname !~ '^pg_' AND ` + ofNone("pg_proc", "p.oid") + `
		UNION ALL SELECT 'foreign data wrapper', w.fdwname::pg_catalog.text FROM pg_catalog.pg_foreign_data_wrapper w WHERE ` + ofNone("pg_foreign_data_wrapper", "w.oid") + `
		UNION ALL SELECT 'operator class', n.nspname || '.' || o.opcname FROM pg_catalog.pg_opclass o JOIN pg_catalog.pg_namespace n ON n.oid = o.opcnamespace WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND ` + ofNone("pg_opclass", "o.oid") + `
		UNION ALL SELECT 'base type', n.nspname || '.' || y.typname FROM pg_catalog.pg_type y JOIN pg_catalog.pg_namespace n ON n.oid = y.typnamespace
			WHERE y.typtype = 'b' AND y.typelem = 0 AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_' AND ` + ofNone("pg_type", "y.oid") + `
		UNION ALL SELECT 'access method', m.amname::pg_catalog.text FROM pg_catalog.pg_am m WHERE m.oid >= 16384 AND ` + ofNone("pg_am", "m.oid")
	return sql + " ORDER BY 1, 2"
}

// ofNone is true for an object of a catalog that belongs to no extension.
func ofNone(class, oid string) string {
	return "NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog." + class + "'::pg_catalog.regclass AND e.objid = " + oid + " AND e.deptype = 'e')"
}

func (c *checker) superuserObjects(s, _ [][]string) {
	if len(s) == 0 || c.super[target] {
		return
	}
	var list []string
	for _, r := range s {
		list = append(list, r[0]+" "+r[1])
	}
	c.warn("superuser-objects", "Load as a superuser, or create them yourself with the statements of pgcutover missing --sql.",
		"only a superuser may create these, and the target's role is none: %s", count.Some(list))
}

// typesUsed selects the server's own types that columns have; typesThere, those of the target.
const (
	typesUsed = `SELECT y.typname, pg_catalog.min(n.nspname || '.' || c.relname || '.' || a.attname) FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
		WHERE c.relkind IN ('r', 'p', 'f', 'm', 'v', 'c') AND a.attnum > 0 AND NOT a.attisdropped AND y.typnamespace = 'pg_catalog'::pg_catalog.regnamespace AND ` + theirs + ` GROUP BY 1 ORDER BY 1`
	typesThere = `SELECT typname FROM pg_catalog.pg_type WHERE typnamespace = 'pg_catalog'::pg_catalog.regnamespace`
)

func (c *checker) types(s, t [][]string) {
	where := make(map[string]string)
	for _, r := range s {
		where[r[0]] = r[1]
	}
	list := lacking(s, t)
	for i, name := range list {
		list[i] = name + " (" + where[name] + ")"
	}
	if len(list) > 0 {
		c.fail("types-missing", "Change the columns to another type on the source.", "the target's version does not have the types of columns: %s", count.Some(list))
	}
}

// tablespacesUsed selects the tablespaces that relations and the database are in.
const (
	tablespacesUsed = `SELECT DISTINCT s.spcname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_tablespace s ON s.oid = c.reltablespace WHERE s.spcname !~ '^pg_' ORDER BY 1`
	tablespaces     = `SELECT spcname FROM pg_catalog.pg_tablespace`
)

func (c *checker) tablespaces(s, t [][]string) {
	if list := lacking(s, t); len(list) > 0 {
		c.warn("tablespaces", "Create them on the target first: CREATE TABLESPACE … LOCATION …. Otherwise their objects go to the default one.",
			"the target does not have the tablespaces of objects: %s", count.Some(list))
	}
}

// labels selects the providers of security labels.
const labels = `SELECT DISTINCT provider FROM (SELECT provider FROM pg_catalog.pg_seclabel UNION ALL SELECT provider FROM pg_catalog.pg_shseclabel) x ORDER BY 1`

func (c *checker) labels(s, _ [][]string) {
	if len(s) > 0 {
		c.warn("security-labels", "Load the libraries of these providers on the target (shared_preload_libraries).",
			"objects have security labels, which the target can only store with their providers loaded: %s", count.Some(column(s, 0)))
	}
}

// eventTriggers selects those that would fire in our sessions on the target.
const eventTriggers = `SELECT evtname FROM pg_catalog.pg_event_trigger e WHERE evtenabled <> 'D' AND evtname !~ '^pgsluice_' AND NOT ` + citus.Event + ` ORDER BY 1`

func (c *checker) eventTriggers(_, t [][]string) {
	if len(t) == 0 {
		return
	}
	f := c.warn("target-event-triggers", "Disable them until the cutover:", "event triggers of the target act on what the load creates: %s", count.Some(column(t, 0)))
	for _, name := range column(t, 0) {
		f.do("target", superuser, "ALTER EVENT TRIGGER "+text.Ident(name)+" DISABLE;")
	}
}
