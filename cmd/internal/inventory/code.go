package inventory

// Functions, types, sequences, and objects outside any schema.

// functions excludes functions that the server creates with a type, such as the constructors of
// ranges. They belong to the type.
func functions(v int) string {
	kind := since(v, 110000, "p.prokind", "CASE WHEN p.proisagg THEN 'a' WHEN p.proiswindow THEN 'w' ELSE 'f' END")
	body := since(v, 140000, "coalesce(' ' || pg_catalog.pg_get_function_sqlbody(p.oid), '')", "''")
	return `SELECT 'function', n.nspname, '', pg_catalog.format('%s(%s)', p.proname, s.args), CASE ` + kind + ` WHEN 'a' THEN 'aggregate' WHEN 'p' THEN 'procedure' ELSE 'function' END,
	ARRAY[` + owner("p.proowner") + `, ` + says + `, 'language', (l.lanname)::pg_catalog.text, 'returns', (CASE WHEN p.proretset THEN 'SETOF ' ELSE '' END || coalesce(pg_catalog.format_type(p.prorettype, NULL), ''))::pg_catalog.text,
		'volatility', (p.provolatile)::pg_catalog.text, 'strict', ` + yes("p.proisstrict") + `, 'security definer', ` + yes("p.prosecdef") + `, 'leakproof', ` + yes("p.proleakproof") + `, 'parallel', (p.proparallel)::pg_catalog.text,
		'cost', (p.procost)::pg_catalog.text, 'transforms', coalesce((SELECT pg_catalog.string_agg(pg_catalog.format_type(u.u, NULL), ', ' ORDER BY u.o) FROM pg_catalog.unnest(p.protrftypes) WITH ORDINALITY u(u, o)), ''),
		'support', ` + since(v, 120000, "coalesce(nullif(p.prosupport, 0)::pg_catalog.regproc::pg_catalog.text, '')", "''") + `, 'rows', (p.prorows)::pg_catalog.text, 'settings', ` + joined("p.proconfig") + `, 'source', (pg_catalog.md5(p.prosrc))::pg_catalog.text, 'argument names', coalesce(p.proargnames::pg_catalog.text, ''), 'argument modes', coalesce(p.proargmodes::pg_catalog.text, ''),
		'aggregate', coalesce((SELECT pg_catalog.concat_ws(' ', g.aggkind, g.aggtransfn::pg_catalog.regproc, g.aggfinalfn::pg_catalog.regproc, g.aggcombinefn::pg_catalog.regproc, pg_catalog.format_type(g.aggtranstype, NULL), g.agginitval)
			FROM pg_catalog.pg_aggregate g WHERE g.aggfnoid = p.oid), '')]::pg_catalog.text[],
	` + rights("'f'", "p.proacl", "p.proowner") + `,
	pg_catalog.format('%s %I.%I(%s)', CASE ` + kind + ` WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, n.nspname, p.proname, s.args),
	pg_catalog.pg_get_function_arguments(p.oid) || ` + body + `, CASE ` + kind + ` WHEN 'a' THEN '' ELSE pg_catalog.rtrim(pg_catalog.pg_get_functiondef(p.oid), E'\n') END
	FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace JOIN pg_catalog.pg_language l ON l.oid = p.prolang` + comment("pg_proc", "p.oid", "0") + `
	CROSS JOIN LATERAL (SELECT coalesce(pg_catalog.string_agg(pg_catalog.format_type(u.u, NULL), ', ' ORDER BY u.o), '') AS args FROM pg_catalog.unnest(p.proargtypes::pg_catalog.oid[]) WITH ORDINALITY u(u, o)) s
	WHERE ` + ours + ` AND ` + own("pg_proc", "p.oid") + ` AND p.oid NOT IN (SELECT x.objid FROM pg_catalog.pg_depend x WHERE x.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND x.deptype = 'i') ORDER BY p.oid`
}

// A pseudo-type of a user (p) is a shell: its functions can be created, and then the type itself.
func types(v int) string {
	return `SELECT 'type', n.nspname, '', t.typname, CASE t.typtype WHEN 'd' THEN 'domain' ELSE 'type' END,
	ARRAY[` + owner("t.typowner") + `, ` + says + `, 'kind', (t.typtype)::pg_catalog.text, 'labels', coalesce(e.labels, ''), 'attributes', coalesce(at.attributes, ''),
		'base', (CASE t.typtype WHEN 'd' THEN pg_catalog.format_type(t.typbasetype, t.typtypmod) ELSE '' END)::pg_catalog.text, 'not null', ` + yes("t.typtype = 'd' AND t.typnotnull") + `,
		'collation', (CASE WHEN t.typtype = 'd' AND t.typcollation <> b.typcollation THEN (SELECT pg_catalog.format('%I.%I', cn.nspname, co.collname) FROM pg_catalog.pg_collation co JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace WHERE co.oid = t.typcollation) ELSE '' END)::pg_catalog.text,
		'range', coalesce((SELECT pg_catalog.concat_ws(' ', pg_catalog.format_type(r.rngsubtype, NULL), oc.opcname, nullif(r.rngcanonical, 0)::pg_catalog.regproc, nullif(r.rngsubdiff, 0)::pg_catalog.regproc) FROM pg_catalog.pg_range r JOIN pg_catalog.pg_opclass oc ON oc.oid = r.rngsubopc WHERE r.rngtypid = t.oid), ''),
		'input', (CASE t.typtype WHEN 'b' THEN pg_catalog.concat_ws(' ', t.typinput, t.typoutput, t.typlen, t.typalign, t.typstorage, t.typcategory, ` + yes("t.typbyval") + `) ELSE '' END)::pg_catalog.text]::pg_catalog.text[],
	` + rights("'T'", "t.typacl", "t.typowner") + `, pg_catalog.format('TYPE %I.%I', n.nspname, t.typname), CASE t.typtype WHEN 'd' THEN coalesce(t.typdefault, '') ELSE '' END,
	CASE t.typtype WHEN 'p' THEN pg_catalog.format('CREATE TYPE %I.%I', n.nspname, t.typname) WHEN 'e' THEN pg_catalog.format('CREATE TYPE %I.%I AS ENUM (%s)', n.nspname, t.typname, coalesce(e.labels, ''))
		WHEN 'c' THEN pg_catalog.format('CREATE TYPE %I.%I AS (%s)', n.nspname, t.typname, coalesce(at.attributes, ''))
		WHEN 'd' THEN pg_catalog.format('CREATE DOMAIN %I.%I AS %s%s%s', n.nspname, t.typname, pg_catalog.format_type(t.typbasetype, t.typtypmod), coalesce(' DEFAULT ' || t.typdefault, ''), CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END) ELSE '' END
	FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_catalog.pg_type b ON b.oid = t.typbasetype` + comment("pg_type", "t.oid", "0") + `
	LEFT JOIN LATERAL (SELECT pg_catalog.string_agg(pg_catalog.quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) AS labels FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid) e ON t.typtype = 'e'
	LEFT JOIN LATERAL (SELECT pg_catalog.string_agg(pg_catalog.format('%I %s', a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum) AS attributes
		FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) at ON t.typtype = 'c'
	WHERE t.typtype IN ('b', 'c', 'd', 'e', 'r', 'p') AND (t.typrelid = 0 OR EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.oid = t.typelem AND e.typarray = t.oid) AND ` + ours + ` AND ` + own("pg_type", "t.oid") + ` ORDER BY t.oid`
}

// A sequence that belongs to a column, or feeds one, is identified on the target by that column.
var sequences = `SELECT 'sequence', n.nspname, '', c.relname, 'sequence',
	ARRAY[` + owner("c.relowner") + `, ` + says + `, 'type', (pg_catalog.format_type(s.seqtypid, NULL))::pg_catalog.text, 'start', (s.seqstart)::pg_catalog.text, 'increment', (s.seqincrement)::pg_catalog.text, 'minimum', (s.seqmin)::pg_catalog.text, 'maximum', (s.seqmax)::pg_catalog.text,
		'cache', (s.seqcache)::pg_catalog.text, 'cycle', ` + yes("s.seqcycle") + `, 'table schema', coalesce(o.nspname, ''), 'table', coalesce(o.relname, ''), 'column', coalesce(o.attname, ''), 'identity', ` + yes("o.deptype = 'i'") + `, 'feeds', coalesce(u.feeds, '')]::pg_catalog.text[],
	` + rights("'s'", "c.relacl", "c.relowner") + `, pg_catalog.format('SEQUENCE %I.%I', n.nspname, c.relname), '',
	CASE WHEN o.deptype = 'i' THEN '' ELSE pg_catalog.format('CREATE SEQUENCE %I.%I AS %s START WITH %s INCREMENT BY %s MINVALUE %s MAXVALUE %s CACHE %s%s', n.nspname, c.relname, pg_catalog.format_type(s.seqtypid, NULL),
		s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, CASE WHEN s.seqcycle THEN ' CYCLE' ELSE '' END) || CASE WHEN o.attname IS NULL THEN '' ELSE pg_catalog.format(E';\nALTER SEQUENCE %I.%I OWNED BY %I.%I.%I', n.nspname, c.relname, o.nspname, o.relname, o.attname) END END
	FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace` + comment("pg_class", "c.oid", "0") + `
	LEFT JOIN LATERAL (SELECT pn.nspname, p.relname, a.attname, x.deptype FROM pg_catalog.pg_depend x JOIN pg_catalog.pg_class p ON p.oid = x.refobjid JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
		JOIN pg_catalog.pg_attribute a ON a.attrelid = p.oid AND a.attnum = x.refobjsubid
		WHERE x.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND x.objid = c.oid AND x.refclassid = x.classid AND x.deptype IN ('a', 'i') LIMIT 1) o ON true
	LEFT JOIN (SELECT x.refobjid, pg_catalog.string_agg(DISTINCT pg_catalog.json_build_array(pn.nspname, p.relname, a.attname)::pg_catalog.text, ',') AS feeds FROM pg_catalog.pg_depend x
		JOIN pg_catalog.pg_attrdef f ON f.oid = x.objid JOIN pg_catalog.pg_class p ON p.oid = f.adrelid JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
		JOIN pg_catalog.pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
		WHERE x.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND x.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass GROUP BY x.refobjid) u ON u.refobjid = c.oid
	WHERE c.relpersistence <> 't' AND ` + ours + ` AND ` + own("pg_class", "c.oid")

var extensions = `SELECT 'extension', '', '', e.extname, 'extension', ARRAY['schema', (pg_catalog.quote_ident(n.nspname))::pg_catalog.text]::pg_catalog.text[], ` + none + `, '',
	pg_catalog.format('CREATE EXTENSION %I WITH SCHEMA %I', e.extname, n.nspname) FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace`

// Statistics created without a list of kinds have every kind that the server supports. pg_dump then
// lists none.
func statistics(v int) string {
	return `SELECT 'statistics', n.nspname, '', s.stxname, 'statistics', ARRAY[` + owner("s.stxowner") + `, ` + says + `, 'table', (s.stxrelid::pg_catalog.regclass)::pg_catalog.text, 'target', (` + since(v, 130000, "CASE WHEN s.stxstattarget >= 0 THEN s.stxstattarget::pg_catalog.text ELSE '' END", "''") + `)::pg_catalog.text, 'kinds', (CASE WHEN s.stxkind @> ARRAY[` + since(v, 120000, "'d', 'f', 'm'", "'d', 'f'") + `]::"char"[] THEN 'all' ELSE (SELECT pg_catalog.string_agg(k.k::pg_catalog.text, '' ORDER BY k.k) FROM pg_catalog.unnest(s.stxkind) k(k) WHERE k.k <> 'e') END)::pg_catalog.text,
	'columns', ` + names("s.stxkeys::pg_catalog.int2[]", "s.stxrelid") + `]::pg_catalog.text[],
	` + none + `, pg_catalog.pg_get_statisticsobjdef(s.oid), pg_catalog.pg_get_statisticsobjdef(s.oid)
	FROM pg_catalog.pg_statistic_ext s JOIN pg_catalog.pg_namespace n ON n.oid = s.stxnamespace` + comment("pg_statistic_ext", "s.oid", "0") + ` WHERE ` + ours + ` AND ` + own("pg_statistic_ext", "s.oid")
}

var eventTriggers = `SELECT 'event trigger', '', '', e.evtname, 'event trigger', ARRAY[` + owner("e.evtowner") + `, ` + says + `, 'event', (e.evtevent)::pg_catalog.text, 'enabled', (e.evtenabled)::pg_catalog.text, 'function', (e.evtfoid::pg_catalog.regprocedure)::pg_catalog.text, 'tags', ` + joined("e.evttags") + `]::pg_catalog.text[],
	` + none + `, '', pg_catalog.format('CREATE EVENT TRIGGER %I ON %I%s EXECUTE PROCEDURE %s', e.evtname, e.evtevent,
		coalesce(' WHEN TAG IN (' || (SELECT pg_catalog.string_agg(pg_catalog.quote_literal(g.g), ', ') FROM pg_catalog.unnest(e.evttags) g(g)) || ')', ''), e.evtfoid::pg_catalog.regprocedure) ||
		CASE e.evtenabled WHEN 'O' THEN '' ELSE pg_catalog.format(E';\nALTER EVENT TRIGGER %I %s', e.evtname, CASE e.evtenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END) END
	FROM pg_catalog.pg_event_trigger e` + comment("pg_event_trigger", "e.oid", "0") + ` WHERE e.evtname NOT LIKE 'pgsluice\_%' AND ` + own("pg_event_trigger", "e.oid")

// Default privileges are named after the role whose objects get them.
var privileges = `SELECT 'default privileges', coalesce(n.nspname, ''), '', pg_catalog.format('%I %s', pg_catalog.pg_get_userbyid(p.defaclrole), o.objects), 'default privileges', ARRAY[]::pg_catalog.text[],
	` + rights("CASE p.defaclobjtype WHEN 'S' THEN 's' ELSE p.defaclobjtype END", "p.defaclacl", "p.defaclrole") + `,
	pg_catalog.format('ALTER DEFAULT PRIVILEGES FOR ROLE %I%s %%s %s', pg_catalog.pg_get_userbyid(p.defaclrole), CASE WHEN n.oid IS NULL THEN '' ELSE pg_catalog.format(' IN SCHEMA %I', n.nspname) END, o.objects), '', ''
	FROM pg_catalog.pg_default_acl p LEFT JOIN pg_catalog.pg_namespace n ON n.oid = p.defaclnamespace
	CROSS JOIN LATERAL (SELECT CASE p.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' WHEN 'T' THEN 'TYPES' WHEN 'n' THEN 'SCHEMAS' ELSE 'LARGE OBJECTS' END AS objects) o
	WHERE n.oid IS NULL OR ` + ours

// The cutover's fence is such a setting, default_transaction_read_only, and is excluded.
var settings = `SELECT 'setting', '', '', pg_catalog.concat_ws(' ', nullif(s.setrole, 0)::pg_catalog.regrole::pg_catalog.text, pg_catalog.split_part(x.x, '=', 1)), 'setting of the database',
	ARRAY['role', coalesce(nullif(s.setrole, 0)::pg_catalog.regrole::pg_catalog.text, ''), 'parameter', (pg_catalog.split_part(x.x, '=', 1))::pg_catalog.text, 'value', (pg_catalog.substr(x.x, pg_catalog.strpos(x.x, '=') + 1))::pg_catalog.text]::pg_catalog.text[], ` + none + `, '', ''
	FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_database b ON b.oid = s.setdatabase AND b.datname = pg_catalog.current_database(), pg_catalog.unnest(s.setconfig) x(x)
	WHERE pg_catalog.split_part(x.x, '=', 1) <> 'default_transaction_read_only'`
