package inventory

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Objects that few databases have: operators, text search, foreign servers, publications and
// similar ones.

// An other describes a catalog of such objects.
type other struct {
	catalog      string
	name         string // expression for the name; empty for that of pg_identify_object
	owner, space string // columns with the owner and the schema
	join, where  string
	facts        string   // pairs of name and value
	many         []string // queries for any number of additional pairs
	definition   string
	rights       string // kind and ACL column of the rights, and the name in GRANT
	sql          string
}

// others returns a query for each of these catalogs. It normalizes the name of transforms, which
// older versions print differently.
func others(v int) (sqls []string) {
	for _, x := range []other{
		languages, collations(v), conversions, operators, families, classes, textParsers, textTemplates,
		textDictionaries, textConfigurations,
		casts, transforms, accessMethods, wrappers, servers, mappings, publications(v),
	} {
		oid, from, facts := "o.oid", " FROM pg_catalog."+x.catalog+" o"+x.join, "ARRAY["
		if x.catalog == "pg_user_mappings" { // a view that any role may read
			oid, x.catalog = "o.umid", "pg_user_mapping"
		}
		if x.space != "" {
			from += " JOIN pg_catalog.pg_namespace n ON n.oid = o." + x.space + " AND " + ours
		}
		if x.owner != "" {
			facts += owner("o."+x.owner) + ", "
		}
		facts += says + x.facts + "]::pg_catalog.text[]"
		for _, pairs := range x.many {
			facts += ` || ARRAY(SELECT u.u::pg_catalog.text FROM (` + pairs + `) f(k, v) CROSS JOIN LATERAL pg_catalog.unnest(ARRAY[f.k, f.v]::pg_catalog.text[]) WITH ORDINALITY u(u, o) ORDER BY f.k::pg_catalog.text COLLATE "C", u.o)`
		}
		name, granted := x.name, none
		if name == "" {
			name = "pg_catalog.replace(i.identity, ' on language ', ' language ')"
		}
		if x.rights != "" {
			granted = x.rights
		}
		sqls = append(sqls, `SELECT 'other', coalesce(i.schema, ''), i.type, `+name+`, i.type, `+facts+`, `+granted+`, `+blank(x.definition)+`, `+blank(x.sql)+from+`
			CROSS JOIN LATERAL pg_catalog.pg_identify_object('pg_catalog.`+x.catalog+`'::pg_catalog.regclass, `+oid+`, 0) i`+comment(x.catalog, oid, "0")+`
			WHERE `+oid+` >= 16384 AND `+own(x.catalog, oid)+x.where)
	}
	return sqls
}

// blank returns an expression, or the expression for an empty string if there is none.
func blank(sql string) string {
	if sql == "" {
		return "''"
	}
	return "coalesce(" + sql + ", '')"
}

// signature returns an expression for the signature of a function, or "" for none. Argument lists
// of built-in functions differ between versions, so for these it returns only the name.
func signature(column string) string {
	return `coalesce((SELECT CASE WHEN sp.oid < 16384 THEN sp.proname::pg_catalog.text ELSE sp.oid::pg_catalog.regprocedure::pg_catalog.text END FROM pg_catalog.pg_proc sp WHERE sp.oid = ` + column + `), '')`
}

// options returns a query for the pairs of foreign-data options. optionList returns them in the
// form that CREATE uses.
func options(array string) string {
	return `SELECT 'option ' || pg_catalog.split_part(x.x, '=', 1), pg_catalog.substr(x.x, pg_catalog.strpos(x.x, '=') + 1) FROM pg_catalog.unnest(` + array + `) x(x)`
}

func optionList(array string) string {
	return `coalesce((SELECT ' OPTIONS (' || pg_catalog.string_agg(pg_catalog.format('%I %L', pg_catalog.split_part(x.x, '=', 1), pg_catalog.substr(x.x, pg_catalog.strpos(x.x, '=') + 1)), ', ') || ')' FROM pg_catalog.unnest(` + array + `) x(x)), '')`
}

// qualified returns an expression for the qualified name of a catalog row with an OID, such as a
// dictionary.
func qualified(catalog, name, namespace, oid string) string {
	return `(SELECT pg_catalog.format('%I.%I', qn.nspname, q.` + name + `) FROM pg_catalog.` + catalog + ` q JOIN pg_catalog.pg_namespace qn ON qn.oid = q.` + namespace + ` WHERE q.oid = ` + oid + `)`
}

var languages = other{
	catalog: "pg_language", owner: "lanowner",
	facts: `, 'trusted', ` + yes("o.lanpltrusted") + `, 'handler', ` + signature("o.lanplcallfoid") +
		`, 'inline', ` + signature("o.laninline") + `, 'validator', ` + signature("o.lanvalidator"),
	rights: rights("'l'", "o.lanacl", "o.lanowner") + `, pg_catalog.format('LANGUAGE %I', o.lanname)`,
	sql: `pg_catalog.format('CREATE %sLANGUAGE %I HANDLER %s', CASE WHEN o.lanpltrusted THEN 'TRUSTED ' ELSE '' END, o.lanname, o.lanplcallfoid::pg_catalog.regproc)
		|| coalesce(' INLINE ' || nullif(o.laninline, 0)::pg_catalog.regproc, '') || coalesce(' VALIDATOR ' || nullif(o.lanvalidator, 0)::pg_catalog.regproc, '')`,
}

// Versions spell ICU locales differently.
func collations(v int) other {
	locale := since(v, 170000, "o.colllocale",
		since(v, 150000, "o.colliculocale",
			"CASE o.collprovider WHEN 'i' THEN o.collcollate::pg_catalog.text END"))
	rules := since(v, 160000, "o.collicurules", "NULL::pg_catalog.text")
	deterministic := since(v, 120000, "o.collisdeterministic", "true")
	return other{
		catalog: "pg_collation", owner: "collowner", space: "collnamespace",
		facts: `, 'provider', o.collprovider::pg_catalog.text, 'deterministic', ` + yes(deterministic) +
			`, 'collate', CASE o.collprovider WHEN 'c' THEN o.collcollate::pg_catalog.text ELSE '' END, 'character type', CASE o.collprovider WHEN 'c' THEN o.collctype::pg_catalog.text ELSE '' END`,
		definition: `CASE o.collprovider WHEN 'c' THEN '' ELSE pg_catalog.concat_ws(' ', ` + locale + `, ` + rules + `) END`,
		sql: `pg_catalog.format('CREATE COLLATION %I.%I (%s)', n.nspname, o.collname, pg_catalog.concat_ws(', ', 'provider = ' || CASE o.collprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END,
			'locale = ' || CASE o.collprovider WHEN 'c' THEN NULL ELSE pg_catalog.quote_literal(` + locale + `) END, CASE o.collprovider WHEN 'c' THEN pg_catalog.format('lc_collate = %L, lc_ctype = %L', o.collcollate, o.collctype) END,
			'rules = ' || pg_catalog.quote_literal(` + rules + `), CASE WHEN ` + deterministic + ` THEN NULL ELSE 'deterministic = false' END))`,
	}
}

var conversions = other{
	catalog: "pg_conversion", owner: "conowner", space: "connamespace",
	facts: `, 'from', pg_catalog.pg_encoding_to_char(o.conforencoding)::pg_catalog.text, 'to', pg_catalog.pg_encoding_to_char(o.contoencoding)::pg_catalog.text, 'function', ` +
		signature("o.conproc") + `, 'default', ` + yes("o.condefault"),
	sql: `pg_catalog.format('CREATE %sCONVERSION %I.%I FOR %L TO %L FROM %s', CASE WHEN o.condefault THEN 'DEFAULT ' ELSE '' END, n.nspname, o.conname,
		pg_catalog.pg_encoding_to_char(o.conforencoding), pg_catalog.pg_encoding_to_char(o.contoencoding), o.conproc)`,
}

// An operator that exists only as another's commutator or negator is not defined yet. pg_dump omits
// it as well.
var operators = other{
	catalog: "pg_operator", owner: "oprowner", space: "oprnamespace", where: " AND o.oprcode <> 0",
	facts: `, 'function', ` + signature("o.oprcode") + `, 'commutator', coalesce(nullif(o.oprcom, 0)::pg_catalog.regoperator::pg_catalog.text, ''), 'negator', coalesce(nullif(o.oprnegate, 0)::pg_catalog.regoperator::pg_catalog.text, ''),
		'restrict', ` + signature("o.oprrest") + `, 'join', ` + signature("o.oprjoin") + `, 'merges', ` + yes("o.oprcanmerge") + `, 'hashes', ` + yes("o.oprcanhash"),
	sql: `pg_catalog.format('CREATE OPERATOR %I.%s (%s)', n.nspname, o.oprname, pg_catalog.concat_ws(', ', 'PROCEDURE = ' || o.oprcode, 'LEFTARG = ' || pg_catalog.format_type(nullif(o.oprleft, 0), NULL),
		'RIGHTARG = ' || pg_catalog.format_type(nullif(o.oprright, 0), NULL), ` + otherOperator("COMMUTATOR", "oprcom") + `, ` + otherOperator("NEGATOR", "oprnegate") + `,
		'RESTRICT = ' || nullif(o.oprrest, 0)::pg_catalog.regproc, 'JOIN = ' || nullif(o.oprjoin, 0)::pg_catalog.regproc, CASE WHEN o.oprcanmerge THEN 'MERGES' END, CASE WHEN o.oprcanhash THEN 'HASHES' END))`,
}

func otherOperator(word, column string) string {
	return `(SELECT pg_catalog.format('` + word + ` = OPERATOR(%I.%s)', xn.nspname, x.oprname) FROM pg_catalog.pg_operator x JOIN pg_catalog.pg_namespace xn ON xn.oid = x.oprnamespace WHERE x.oid = o.` + column + `)`
}

// operatorMember returns an expression for an operator of a family, in the form that statements
// use.
func operatorMember() string {
	return `m.amopopr::pg_catalog.regoperator || CASE m.amoppurpose WHEN 'o' THEN ' FOR ORDER BY ' || ` + qualified("pg_opfamily", "opfname", "opfnamespace", "m.amopsortfamily") + ` ELSE '' END`
}

var families = other{
	catalog: "pg_opfamily", owner: "opfowner", space: "opfnamespace", join: ` JOIN pg_catalog.pg_am a ON a.oid = o.opfmethod`,
	many: []string{
		`SELECT pg_catalog.format('operator %s (%s, %s)', m.amopstrategy, pg_catalog.format_type(m.amoplefttype, NULL), pg_catalog.format_type(m.amoprighttype, NULL)), ` + operatorMember() + ` FROM pg_catalog.pg_amop m WHERE m.amopfamily = o.oid
			UNION ALL SELECT pg_catalog.format('function %s (%s, %s)', m.amprocnum, pg_catalog.format_type(m.amproclefttype, NULL), pg_catalog.format_type(m.amprocrighttype, NULL)), m.amproc::pg_catalog.regprocedure::pg_catalog.text FROM pg_catalog.pg_amproc m WHERE m.amprocfamily = o.oid`,
	},
	sql: `pg_catalog.format('CREATE OPERATOR FAMILY %I.%I USING %I', n.nspname, o.opfname, a.amname) || coalesce(pg_catalog.format(E';\nALTER OPERATOR FAMILY %I.%I USING %I ADD ', n.nspname, o.opfname, a.amname) || ` +
		members("pg_opfamily") + `, '')`,
}

// members returns an expression for the members of a family or class, in the form that statements
// use.
func members(of string) string {
	dependent := func(catalog string) string {
		return ` AND EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.classid = 'pg_catalog.` + catalog + `'::pg_catalog.regclass AND x.objid = m.oid AND x.refclassid = 'pg_catalog.` + of + `'::pg_catalog.regclass AND x.refobjid = o.oid)`
	}
	family := "o.oid"
	if of == "pg_opclass" {
		family = "o.opcfamily"
	}
	return `(SELECT pg_catalog.string_agg(w.w, ', ' ORDER BY w.w) FROM (SELECT pg_catalog.format('OPERATOR %s %s', m.amopstrategy, ` + operatorMember() + `) FROM pg_catalog.pg_amop m WHERE m.amopfamily = ` + family + dependent("pg_amop") + `
		UNION ALL SELECT pg_catalog.format('FUNCTION %s (%s, %s) %s', m.amprocnum, pg_catalog.format_type(m.amproclefttype, NULL), pg_catalog.format_type(m.amprocrighttype, NULL), m.amproc::pg_catalog.regprocedure) FROM pg_catalog.pg_amproc m WHERE m.amprocfamily = ` + family + dependent("pg_amproc") + `) w(w))`
}

// The members of a class are listed with its family.
var classes = other{
	catalog: "pg_opclass", owner: "opcowner", space: "opcnamespace", join: ` JOIN pg_catalog.pg_am a ON a.oid = o.opcmethod`,
	facts: `, 'type', pg_catalog.format_type(o.opcintype, NULL), 'storage', coalesce(pg_catalog.format_type(nullif(o.opckeytype, 0), NULL), ''), 'default', ` +
		yes("o.opcdefault") + `, 'family', coalesce(` +
		qualified("pg_opfamily", "opfname", "opfnamespace", "o.opcfamily") + `, '')`,
	sql: `pg_catalog.format('CREATE OPERATOR CLASS %I.%I%s FOR TYPE %s USING %I FAMILY %s AS %s', n.nspname, o.opcname, CASE WHEN o.opcdefault THEN ' DEFAULT' ELSE '' END, pg_catalog.format_type(o.opcintype, NULL), a.amname,
		` + qualified("pg_opfamily", "opfname", "opfnamespace", "o.opcfamily") + `, coalesce(pg_catalog.concat_ws(', ', 'STORAGE ' || pg_catalog.format_type(nullif(o.opckeytype, 0), NULL), ` + members("pg_opclass") + `), 'STORAGE ' || pg_catalog.format_type(o.opcintype, NULL)))`,
}

var textParsers = other{
	catalog: "pg_ts_parser", space: "prsnamespace",
	facts: `, 'start', ` + signature("o.prsstart") + `, 'token', ` + signature("o.prstoken") + `, 'end', ` +
		signature("o.prsend") + `, 'headline', ` + signature("o.prsheadline") + `, 'types', ` +
		signature("o.prslextype"),
	sql: `pg_catalog.format('CREATE TEXT SEARCH PARSER %I.%I (START = %s, GETTOKEN = %s, END = %s, LEXTYPES = %s', n.nspname, o.prsname, o.prsstart, o.prstoken, o.prsend, o.prslextype) || coalesce(', HEADLINE = ' || nullif(o.prsheadline, 0)::pg_catalog.regproc, '') || ')'`,
}

var textTemplates = other{
	catalog: "pg_ts_template", space: "tmplnamespace",
	facts: `, 'initialization', ` + signature("o.tmplinit") + `, 'lexize', ` + signature("o.tmpllexize"),
	sql:   `pg_catalog.format('CREATE TEXT SEARCH TEMPLATE %I.%I (LEXIZE = %s', n.nspname, o.tmplname, o.tmpllexize) || coalesce(', INIT = ' || nullif(o.tmplinit, 0)::pg_catalog.regproc, '') || ')'`,
}

var textDictionaries = other{
	catalog: "pg_ts_dict", owner: "dictowner", space: "dictnamespace",
	facts: `, 'template', coalesce(` + qualified("pg_ts_template", "tmplname", "tmplnamespace",
		"o.dicttemplate") + `, ''), 'options', coalesce(o.dictinitoption, '')`,
	sql: `pg_catalog.format('CREATE TEXT SEARCH DICTIONARY %I.%I (TEMPLATE = %s%s)', n.nspname, o.dictname, ` +
		qualified("pg_ts_template", "tmplname", "tmplnamespace", "o.dicttemplate") +
		`, coalesce(', ' || nullif(o.dictinitoption, ''), ''))`,
}

// Tokens of a user-defined parser appear by number only, because looking up their names would call
// the parser.
var (
	textToken = `CASE WHEN o.cfgparser < 16384 THEN (SELECT k.alias FROM pg_catalog.ts_token_type(o.cfgparser) k WHERE k.tokid = m.maptokentype) ELSE m.maptokentype::pg_catalog.text END`
	textWith  = `pg_catalog.string_agg(m.mapdict::pg_catalog.regdictionary::pg_catalog.text, ', ' ORDER BY m.mapseqno)`
	textPairs = `SELECT 'mapping ' || ` + textToken + `, ` + textWith + ` FROM pg_catalog.pg_ts_config_map m WHERE m.mapcfg = o.oid GROUP BY m.maptokentype`
)

var textConfigurations = other{
	catalog: "pg_ts_config", owner: "cfgowner", space: "cfgnamespace",
	facts: `, 'parser', coalesce(` + qualified("pg_ts_parser", "prsname", "prsnamespace", "o.cfgparser") + `, '')`,
	many:  []string{textPairs},
	sql: `CASE WHEN o.cfgparser < 16384 THEN pg_catalog.format('CREATE TEXT SEARCH CONFIGURATION %I.%I (PARSER = %s)', n.nspname, o.cfgname, ` + qualified("pg_ts_parser", "prsname", "prsnamespace", "o.cfgparser") + `)
		|| coalesce((SELECT pg_catalog.string_agg(pg_catalog.format(E';\nALTER TEXT SEARCH CONFIGURATION %I.%I ADD %s WITH %s', n.nspname, o.cfgname, pg_catalog.replace(f.k, 'mapping ', 'MAPPING FOR '), f.v), '' ORDER BY f.k) FROM (` + textPairs + `) f(k, v)), '') ELSE '' END`,
}

var casts = other{
	catalog: "pg_cast",
	facts: `, 'function', ` + signature("o.castfunc") +
		`, 'context', CASE o.castcontext WHEN 'a' THEN 'assignment' WHEN 'i' THEN 'implicit' ELSE 'explicit' END, 'method', o.castmethod::pg_catalog.text`,
	sql: `pg_catalog.format('CREATE CAST (%s AS %s) %s%s', pg_catalog.format_type(o.castsource, NULL), pg_catalog.format_type(o.casttarget, NULL),
		CASE o.castmethod WHEN 'f' THEN 'WITH FUNCTION ' || o.castfunc::pg_catalog.regprocedure WHEN 'i' THEN 'WITH INOUT' ELSE 'WITHOUT FUNCTION' END, CASE o.castcontext WHEN 'a' THEN ' AS ASSIGNMENT' WHEN 'i' THEN ' AS IMPLICIT' ELSE '' END)`,
}

var transforms = other{
	catalog: "pg_transform", join: ` JOIN pg_catalog.pg_language l ON l.oid = o.trflang`,
	facts: `, 'from', ` + signature("o.trffromsql") + `, 'to', ` + signature("o.trftosql"),
	sql: `pg_catalog.format('CREATE TRANSFORM FOR %s LANGUAGE %I (%s)', pg_catalog.format_type(o.trftype, NULL), l.lanname, pg_catalog.concat_ws(', ', 'FROM SQL WITH FUNCTION ' || nullif(o.trffromsql::pg_catalog.oid, 0)::pg_catalog.regprocedure,
		'TO SQL WITH FUNCTION ' || nullif(o.trftosql::pg_catalog.oid, 0)::pg_catalog.regprocedure))`,
}

var accessMethods = other{
	catalog: "pg_am",
	facts:   `, 'type', o.amtype::pg_catalog.text, 'handler', ` + signature("o.amhandler"),
	sql:     `pg_catalog.format('CREATE ACCESS METHOD %I TYPE %s HANDLER %s', o.amname, CASE o.amtype WHEN 't' THEN 'TABLE' ELSE 'INDEX' END, o.amhandler)`,
}

var wrappers = other{
	catalog: "pg_foreign_data_wrapper", owner: "fdwowner",
	facts:  `, 'handler', ` + signature("o.fdwhandler") + `, 'validator', ` + signature("o.fdwvalidator"),
	many:   []string{options("o.fdwoptions")},
	rights: rights("'F'", "o.fdwacl", "o.fdwowner") + `, pg_catalog.format('FOREIGN DATA WRAPPER %I', o.fdwname)`,
	sql: `pg_catalog.format('CREATE FOREIGN DATA WRAPPER %I', o.fdwname) || coalesce(' HANDLER ' || nullif(o.fdwhandler, 0)::pg_catalog.regproc, '') || coalesce(' VALIDATOR ' || nullif(o.fdwvalidator, 0)::pg_catalog.regproc, '')
		|| ` + optionList("o.fdwoptions"),
}

var servers = other{
	catalog: "pg_foreign_server", owner: "srvowner", join: ` JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = o.srvfdw`,
	facts:  `, 'wrapper', w.fdwname::pg_catalog.text, 'type', coalesce(o.srvtype, ''), 'version', coalesce(o.srvversion, '')`,
	many:   []string{options("o.srvoptions")},
	rights: rights("'S'", "o.srvacl", "o.srvowner") + `, pg_catalog.format('FOREIGN SERVER %I', o.srvname)`,
	sql: `pg_catalog.format('CREATE SERVER %I%s%s FOREIGN DATA WRAPPER %I%s', o.srvname, coalesce(' TYPE ' || pg_catalog.quote_literal(o.srvtype), ''), coalesce(' VERSION ' || pg_catalog.quote_literal(o.srvversion), ''), w.fdwname,
		` + optionList("o.srvoptions") + `)`,
}

// The options of a user mapping may be secret. So facts contain only their names, which are
// compared with the target's. All options are compared with those at the time of the load, by a
// hash. A role that may not see them gets none.
var mappings = other{
	catalog:    "pg_user_mappings",
	name:       `pg_catalog.format('%s on server %I', CASE o.umuser WHEN 0 THEN 'public' ELSE pg_catalog.quote_ident(o.usename) END, o.srvname)`,
	facts:      `, 'mapping options', coalesce((SELECT pg_catalog.string_agg(pg_catalog.split_part(x.x, '=', 1), ', ' ORDER BY x.x) FROM pg_catalog.unnest(o.umoptions) x(x)), '')`,
	definition: `pg_catalog.array_to_string(o.umoptions, ' ')`,
	sql:        `CASE WHEN o.umoptions IS NULL THEN pg_catalog.format('CREATE USER MAPPING FOR %s SERVER %I', CASE o.umuser WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(o.usename) END, o.srvname) ELSE '' END`,
}

// Publications of a migration are excluded. They are named after a slot, or have pgsluice's
// comment.
func publications(v int) other {
	row := since(v, 150000, `coalesce(' (' || nullif(`+names("r.prattrs::pg_catalog.int2[]", "r.prrelid")+`, '') || ')', '')`, `''`)
	filter := since(v, 150000, `coalesce(' WHERE (' || pg_catalog.pg_get_expr(r.prqual, r.prrelid) || ')', '')`, `''`)
	filtered := since(v, 150000, `CASE WHEN r.prqual IS NULL THEN '' ELSE ' filtered' END`, `''`)
	schemas := since(v, 150000,
		`(SELECT pg_catalog.string_agg(pg_catalog.format('TABLES IN SCHEMA %I', pn.nspname), ', ' ORDER BY pn.nspname) FROM pg_catalog.pg_publication_namespace s JOIN pg_catalog.pg_namespace pn ON pn.oid = s.pnnspid WHERE s.pnpubid = o.oid)`,
		`NULL::pg_catalog.text`)
	publish := `pg_catalog.concat_ws(', ', CASE WHEN o.pubinsert THEN 'insert' END, CASE WHEN o.pubupdate THEN 'update' END, CASE WHEN o.pubdelete THEN 'delete' END` + since(v, 110000, `, CASE WHEN o.pubtruncate THEN 'truncate' END`, ``) + `)`
	root, generated := since(v, 130000, "o.pubviaroot", "false"), since(v, 180000, "o.pubgencols = 's'", "false")
	x := other{
		catalog: "pg_publication", owner: "pubowner",
		where: ` AND coalesce(d.description, '') NOT LIKE '%pgsluice slot=%' AND NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots s WHERE o.pubname IN (s.slot_name, pg_catalog.left(s.slot_name || '_insert_only', 63)))`,
		facts: `, 'all tables', ` + yes("o.puballtables") + `, 'publish', ` + publish +
			`, 'via root', ` + yes(root) + `, 'generated columns', ` + yes(generated),
		many: []string{`SELECT pg_catalog.format('table %s', r.prrelid::pg_catalog.regclass), 'yes' || ` +
			row + ` || ` + filtered + ` FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = o.oid`},
		definition: since(v, 150000, `(SELECT pg_catalog.string_agg(r.prrelid::pg_catalog.regclass || `+
			filter+`, ', ' ORDER BY r.prrelid::pg_catalog.regclass::pg_catalog.text) FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = o.oid AND r.prqual IS NOT NULL)`, ``),
		sql: `pg_catalog.format('CREATE PUBLICATION %I%s WITH (publish = %L', o.pubname, CASE WHEN o.puballtables THEN ' FOR ALL TABLES' ELSE coalesce(' FOR ' || nullif(pg_catalog.concat_ws(', ',
			(SELECT pg_catalog.string_agg('TABLE ' || CASE c.relkind WHEN 'r' THEN 'ONLY ' ELSE '' END || r.prrelid::pg_catalog.regclass || ` + row + ` || ` + filter + `, ', ' ORDER BY r.prrelid::pg_catalog.regclass::pg_catalog.text)
				FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_class c ON c.oid = r.prrelid WHERE r.prpubid = o.oid), ` + schemas + `), ''), '') END, ` + publish + `)
			|| CASE WHEN ` + root + ` THEN ', publish_via_partition_root = true' ELSE '' END || CASE WHEN ` + generated + ` THEN ', publish_generated_columns = stored' ELSE '' END || ')'`,
	}
	if v < 150000 { // before 15, TABLE is written once and not before each table
		x.sql = strings.Replace(x.sql, "string_agg('TABLE ' ||", "string_agg(", 1)
		x.sql = strings.Replace(x.sql, "coalesce(' FOR ' ||", "coalesce(' FOR TABLE ' ||", 1)
	}
	if v >= 150000 {
		x.many = append(x.many, `SELECT pg_catalog.format('schema %I', pn.nspname), 'yes' FROM pg_catalog.pg_publication_namespace s JOIN pg_catalog.pg_namespace pn ON pn.oid = s.pnnspid WHERE s.pnpubid = o.oid`)
	}
	return x
}

// The database itself. Its owner may differ on the target.
var database = `SELECT 'database', '', '', 'database', 'database', ARRAY[` + owner("o.datdba") + `]::pg_catalog.text[], ` + rights("'d'", "o.datacl", "o.datdba") + `, pg_catalog.format('DATABASE %I', o.datname), '', ''
	FROM pg_catalog.pg_database o WHERE o.datname = pg_catalog.current_database()`

// DatabaseRights returns the privileges on the database as they would be if its owner had granted
// CONNECT to these roles only, and to each with or without grant option.
func DatabaseRights(ctx context.Context, c *pgx.Conn, to []uint32, option []bool) (acl [][]string, err error) {
	err = c.QueryRow(ctx, `SELECT `+granted("o.acl", "o.datdba")+` FROM (SELECT d.datdba, ARRAY(
			SELECT pg_catalog.makeaclitem(a.grantee, a.grantor, a.privilege_type, a.is_grantable) FROM pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) a WHERE a.privilege_type <> 'CONNECT'
			UNION ALL SELECT pg_catalog.makeaclitem(x.oid, d.datdba, 'CONNECT', x.option) FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.oid[]), pg_catalog.unnest($2::pg_catalog.bool[])) x(oid, option)
				WHERE x.oid = 0 OR EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = x.oid)) AS acl
		FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()) o`, to, option).Scan(&acl)
	return acl, err
}

// labels returns an object for each security label of a schema or of an object in one.
var labels = `SELECT 'security label', coalesce(i.schema, ''), s.provider, pg_catalog.format('%s %s', i.type, i.identity), 'security label', ARRAY['label', s.label, 'of', i.type]::pg_catalog.text[], ` + none + `, '',
	pg_catalog.format('SECURITY LABEL FOR %I ON %s %s IS %L', s.provider, CASE i.type WHEN 'table column' THEN 'COLUMN' WHEN 'view column' THEN 'COLUMN' WHEN 'materialized view column' THEN 'COLUMN' WHEN 'foreign table column' THEN 'COLUMN' ELSE pg_catalog.upper(i.type) END, i.identity, s.label)
	FROM pg_catalog.pg_seclabel s CROSS JOIN LATERAL pg_catalog.pg_identify_object(s.classoid, s.objoid, s.objsubid) i
	WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.classid = s.classoid AND x.objid = s.objoid AND x.objsubid = 0 AND x.deptype = 'e') AND coalesce(i.schema, '') NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'pgsluice')`
