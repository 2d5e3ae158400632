package inventory

// queries returns the queries of Read. Their columns are class, schema, table, name, kind, facts,
// rights, name in GRANT, definition and statement. Facts and definitions do not depend on OIDs.
func queries(v int) []string {
	list := []string{
		schemas, relations(v), columns(v), indexes(v), constraints(v), domainConstraints, triggers(v), rules, policies,
		functions(v), types(v), sequences, extensions, statistics(v), eventTriggers, privileges, settings, database, labels,
	}
	return append(list, others(v)...)
}

// The initial privileges of schema public differ between versions. pg_dump carries only the changes
// to them, so the query marks unchanged ones as initial.
var schemas = `SELECT 'schema', '', '', n.nspname, 'schema', ARRAY['owner', CASE WHEN n.nspname = 'public' AND (n.nspowner = 10 OR pg_catalog.pg_get_userbyid(n.nspowner) = 'pg_database_owner') THEN '' ELSE pg_catalog.pg_get_userbyid(n.nspowner)::pg_catalog.text END, 'comment', CASE n.nspname WHEN 'public' THEN '' ELSE coalesce(d.description, '') END, 'initial', ` + yes("i.initprivs IS NOT NULL AND n.nspacl IS NOT DISTINCT FROM i.initprivs") + `]::pg_catalog.text[],
	` + rights("'n'", "n.nspacl", "n.nspowner") + `, pg_catalog.format('SCHEMA %I', n.nspname), '', pg_catalog.format('CREATE SCHEMA %I', n.nspname)
	FROM pg_catalog.pg_namespace n` + comment("pg_namespace", "n.oid", "0") + `
	LEFT JOIN pg_catalog.pg_init_privs i ON i.classoid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND i.objoid = n.oid AND i.privtype = 'i'
	WHERE ` + ours + ` AND ` + own("pg_namespace", "n.oid")

func relations(v int) string {
	return `SELECT 'relation', n.nspname, '', c.relname,
	CASE c.relkind WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' ELSE 'table' END,
	ARRAY[` + owner("c.relowner") + `, ` + says + `, 'unlogged', ` + yes("c.relpersistence = 'u'") + `, 'row security', ` + yes("c.relrowsecurity") + `, 'forced row security', ` + yes("c.relforcerowsecurity") + `,
		'options', ` + joined("c.reloptions") + `, 'type', (CASE c.reloftype WHEN 0 THEN '' ELSE pg_catalog.format_type(c.reloftype, NULL) END)::pg_catalog.text,
		'parents', (CASE WHEN c.relhassubclass OR c.relkind <> 'v' THEN coalesce((SELECT pg_catalog.string_agg(i.inhparent::pg_catalog.regclass::pg_catalog.text, ', ' ORDER BY i.inhseqno) FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid), '') ELSE '' END)::pg_catalog.text,
		'populated', ` + yes("c.relkind = 'm' AND c.relispopulated") + `, 'partition', ` + yes("c.relispartition") + `,
		'replica identity', CASE WHEN c.relkind NOT IN ('r', 'p') THEN '' ELSE CASE c.relreplident WHEN 'd' THEN 'default' WHEN 'n' THEN 'nothing' WHEN 'f' THEN 'full'
			ELSE coalesce((SELECT pg_catalog.format('using index %I', x.relname) FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid AND i.indisreplident), 'nothing') END END,
		'access method', ` + since(v, 120000, "CASE WHEN c.relam IN (0, 2) THEN '' ELSE coalesce((SELECT m.amname::pg_catalog.text FROM pg_catalog.pg_am m WHERE m.oid = c.relam AND m.amname <> 'heap'), '') END", "''") + `,
		'toast options', CASE c.reltoastrelid WHEN 0 THEN '' ELSE coalesce((SELECT ` + joined("t.reloptions") + ` FROM pg_catalog.pg_class t WHERE t.oid = c.reltoastrelid), '') END,
		'server', CASE WHEN c.relkind <> 'f' THEN '' ELSE coalesce((SELECT pg_catalog.quote_ident(s.srvname) FROM pg_catalog.pg_foreign_table f JOIN pg_catalog.pg_foreign_server s ON s.oid = f.ftserver WHERE f.ftrelid = c.oid), '') END,
		'foreign options', CASE WHEN c.relkind <> 'f' THEN '' ELSE coalesce((SELECT ` + joined("f.ftoptions") + ` FROM pg_catalog.pg_foreign_table f WHERE f.ftrelid = c.oid), '') END]::pg_catalog.text[],
	` + rights("'r'", "c.relacl", "c.relowner") + `, pg_catalog.format('TABLE %I.%I', n.nspname, c.relname),
	CASE WHEN c.relkind IN ('v', 'm') THEN coalesce(p.definition, '') ELSE coalesce(pg_catalog.pg_get_expr(c.relpartbound, c.oid), '') ||
		CASE c.relkind WHEN 'p' THEN coalesce(' PARTITION BY ' || pg_catalog.pg_get_partkeydef(c.oid), '') ELSE '' END END,
	CASE WHEN c.relkind IN ('v', 'm') THEN pg_catalog.format('CREATE %s %I.%I%s AS%s', CASE c.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END, n.nspname, c.relname,
		coalesce(' WITH (' || pg_catalog.array_to_string(c.reloptions, ', ') || ')', ''), E'\n' || pg_catalog.rtrim(p.definition, ';')) ELSE '' END
	FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace` + comment("pg_class", "c.oid", "0") + printed("CASE WHEN c.relkind IN ('v', 'm') THEN pg_catalog.pg_get_viewdef(c.oid) END") + `
	WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't' AND ` + ours + ` AND ` + own("pg_class", "c.oid") + ` ORDER BY c.oid`
}

// A default without column references is printed without its table. Then the server need not open
// the table, which would take most of the time.
func columns(v int) string {
	generated := since(v, 120000, "a.attgenerated", "''")
	return `SELECT 'column', n.nspname, c.relname, a.attname, 'column',
	ARRAY['type', (pg_catalog.format_type(a.atttypid, a.atttypmod))::pg_catalog.text, 'not null', ` + yes("a.attnotnull") + `, 'identity', (a.attidentity)::pg_catalog.text, 'generated', (` + generated + `)::pg_catalog.text,
		'collation', (CASE WHEN a.attcollation <> t.typcollation AND a.attcollation <> 0 THEN (SELECT pg_catalog.format('%I.%I', cn.nspname, co.collname) FROM pg_catalog.pg_collation co JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace WHERE co.oid = a.attcollation) ELSE '' END)::pg_catalog.text,
		'storage', (CASE WHEN a.attstorage <> t.typstorage THEN a.attstorage::pg_catalog.text ELSE '' END)::pg_catalog.text, 'statistics', (CASE WHEN a.attstattarget >= 0 THEN a.attstattarget::pg_catalog.text ELSE '' END)::pg_catalog.text,
		'default', ` + yes("f.oid IS NOT NULL") + `, 'options', ` + joined("a.attoptions") + `, 'foreign options', ` + joined("a.attfdwoptions") + `,
		'compression', (` + since(v, 140000, "CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' ELSE '' END", "''") + `)::pg_catalog.text, ` + says + `]::pg_catalog.text[],
	CASE WHEN a.attacl IS NULL THEN NULL ELSE ` + rights("'c'", "a.attacl", "c.relowner") + ` END, pg_catalog.format('TABLE %I.%I', n.nspname, c.relname), coalesce(p.definition, ''),
	pg_catalog.format('ALTER TABLE %I.%I ADD COLUMN %I %s%s%s%s', n.nspname, c.relname, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
		CASE WHEN f.oid IS NULL THEN '' WHEN ` + generated + ` = 's' THEN pg_catalog.format(' GENERATED ALWAYS AS (%s) STORED', p.definition)
			WHEN ` + generated + ` = 'v' THEN pg_catalog.format(' GENERATED ALWAYS AS (%s)', p.definition) ELSE ' DEFAULT ' || p.definition END,
		CASE a.attidentity WHEN 'a' THEN ' GENERATED ALWAYS AS IDENTITY' WHEN 'd' THEN ' GENERATED BY DEFAULT AS IDENTITY' ELSE '' END, CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END)
	FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
	LEFT JOIN pg_catalog.pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum` + comment("pg_class", "a.attrelid", "a.attnum") + printed("CASE WHEN f.oid IS NOT NULL THEN pg_catalog.pg_get_expr(f.adbin, CASE "+generated+" WHEN '' THEN 0::pg_catalog.oid ELSE f.adrelid END) END") + `
	WHERE a.attnum > 0 AND NOT a.attisdropped AND (c.relkind IN ('r', 'p', 'f') OR c.relkind IN ('v', 'm') AND (a.attacl IS NOT NULL OR d.description IS NOT NULL OR f.oid IS NOT NULL))
	AND c.relpersistence <> 't' AND ` + ours + ` AND ` + own("pg_class", "c.oid")
}

// Parts of a partitioned table's index are covered by that index. Indexes of constraints are
// covered by the constraints.
func indexes(v int) string {
	return `SELECT 'index', n.nspname, t.relname, x.relname, CASE WHEN i.indisunique THEN 'unique index' ELSE 'index' END,
	ARRAY['method', (m.amname)::pg_catalog.text, 'columns', ` + names("i.indkey::pg_catalog.int2[]", "t.oid") + `, 'valid', ` + yes("i.indisvalid") + `, 'clustered', ` + yes("i.indisclustered") + `,
		'nulls not distinct', ` + yes(since(v, 150000, "i.indnullsnotdistinct", "false")) + `, 'partial', ` + yes("i.indpred IS NOT NULL") + `, 'options', ` + joined("x.reloptions") + `, ` + says + `]::pg_catalog.text[],
	` + none + `, p.definition, p.definition
	FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid JOIN pg_catalog.pg_class t ON t.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace JOIN pg_catalog.pg_am m ON m.oid = x.relam` + comment("pg_class", "x.oid", "0") + printed(indexDefinition(v)) + `
	WHERE t.relkind IN ('r', 'p', 'm') AND t.relpersistence <> 't' AND ` + ours + ` AND ` + own("pg_class", "t.oid") + `
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = x.oid AND k.conrelid = t.oid AND k.contype IN ('p', 'u', 'x')) AND NOT x.relispartition`
}

// indexDefinition returns an expression for the output of pg_get_indexdef. That function opens the
// table, which takes most of the time. An index of plain columns does not need it.
func indexDefinition(v int) string {
	return `CASE WHEN i.indexprs IS NULL AND i.indpred IS NULL AND x.reloptions IS NULL AND x.relkind = 'i' AND NOT ` + since(v, 150000, "i.indnullsnotdistinct", "false") + since(v, 110000, " AND i.indnkeyatts = i.indnatts", "") + ` AND NOT EXISTS (
		SELECT FROM pg_catalog.generate_series(0, i.indnatts - 1) k(k) WHERE i.indoption[k.k] <> 0 OR NOT EXISTS (
			SELECT FROM pg_catalog.pg_attribute ka JOIN pg_catalog.pg_opclass ko ON ko.oid = i.indclass[k.k] AND ko.opcdefault AND ko.opcintype = ka.atttypid
			WHERE ka.attrelid = i.indrelid AND ka.attnum = i.indkey[k.k] AND ka.attcollation = i.indcollation[k.k]))
		THEN pg_catalog.format('CREATE %sINDEX %I ON %I.%I USING %I (%s)', CASE WHEN i.indisunique THEN 'UNIQUE ' END, x.relname, n.nspname, t.relname, m.amname, ` + names("i.indkey::pg_catalog.int2[]", "t.oid") + `)
		ELSE pg_catalog.pg_get_indexdef(x.oid) END`
}

func constraints(v int) string {
	return `SELECT 'constraint', n.nspname, t.relname, k.conname,
	CASE k.contype WHEN 'p' THEN 'primary key' WHEN 'u' THEN 'unique constraint' WHEN 'x' THEN 'exclusion constraint' WHEN 'f' THEN 'foreign key' ELSE 'check constraint' END,
	ARRAY['columns', (CASE k.contype WHEN 'c' THEN '' ELSE ` + names("k.conkey", "t.oid") + ` END)::pg_catalog.text, 'deferrable', ` + yes("k.condeferrable") + `, 'deferred', ` + yes("k.condeferred") + `,
		'references', (CASE k.contype WHEN 'f' THEN pg_catalog.format('%s (%s) %s%s%s', k.confrelid::pg_catalog.regclass, ` + names("k.confkey", "k.confrelid") + `, k.confmatchtype, k.confupdtype, k.confdeltype) ELSE '' END)::pg_catalog.text,
		'not enforced', ` + yes(since(v, 180000, "NOT k.conenforced", "false")) + `, 'without overlaps', ` + yes(since(v, 180000, "k.conperiod", "false")) + `,
		'no inherit', ` + yes("k.contype = 'c' AND k.connoinherit") + `, 'clustered', ` + yes("EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indexrelid = k.conindid AND i.indrelid = k.conrelid AND i.indisclustered)") + `, ` + says + `]::pg_catalog.text[],
	` + none + `, p.definition, pg_catalog.format('ALTER TABLE %I.%I ADD CONSTRAINT %I %s', n.nspname, t.relname, k.conname, p.definition)
	FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class t ON t.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace` + comment("pg_constraint", "k.oid", "0") + printed("pg_catalog.pg_get_constraintdef(k.oid)") + `
	WHERE k.contype IN ('p', 'u', 'x', 'f', 'c') AND (k.conislocal OR k.contype <> 'c') ` + since(v, 110000, "AND k.conparentid = 0", "") + ` AND t.relpersistence <> 't' AND ` + ours + ` AND ` + own("pg_class", "t.oid") + ` ORDER BY k.contype = 'f', k.oid`
}

var domainConstraints = `SELECT 'domain constraint', n.nspname, t.typname, k.conname, 'constraint of a domain', ARRAY[` + says + `]::pg_catalog.text[], ` + none + `, pg_catalog.pg_get_constraintdef(k.oid),
	pg_catalog.format('ALTER DOMAIN %I.%I ADD CONSTRAINT %I %s', n.nspname, t.typname, k.conname, pg_catalog.pg_get_constraintdef(k.oid))
	FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_type t ON t.oid = k.contypid JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace` + comment("pg_constraint", "k.oid", "0") + `
	WHERE k.contype = 'c' AND ` + ours + ` AND ` + own("pg_type", "t.oid")

func triggers(v int) string {
	return `SELECT 'trigger', n.nspname, t.relname, g.tgname, 'trigger',
	ARRAY['enabled', (g.tgenabled)::pg_catalog.text, 'when', (g.tgtype)::pg_catalog.text, 'function', (g.tgfoid::pg_catalog.regprocedure)::pg_catalog.text, 'columns', ` + names("g.tgattr::pg_catalog.int2[]", "t.oid") + `, 'arguments', (pg_catalog.encode(g.tgargs, 'escape'))::pg_catalog.text,
		'deferrable', ` + yes("g.tgdeferrable") + `, 'deferred', ` + yes("g.tginitdeferred") + `, ` + says + `]::pg_catalog.text[],
	` + none + `, p.definition, p.definition || CASE g.tgenabled WHEN 'O' THEN '' ELSE pg_catalog.format(E';\nALTER TABLE %I.%I %s TRIGGER %I', n.nspname, t.relname,
		CASE g.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, g.tgname) END
	FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_class t ON t.oid = g.tgrelid JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace` + comment("pg_trigger", "g.oid", "0") + printed("pg_catalog.pg_get_triggerdef(g.oid)") + `
	WHERE NOT g.tgisinternal ` + since(v, 130000, "AND g.tgparentid = 0", "") + ` AND t.relpersistence <> 't' AND ` + ours + ` AND ` + own("pg_trigger", "g.oid") + ` AND ` + own("pg_class", "t.oid")
}

// The rule of a view (ON SELECT) is part of the view. Any other rule may have the same name,
// _RETURN: older servers let it be renamed to that.
var rules = `SELECT 'rule', n.nspname, t.relname, w.rulename, 'rule', ARRAY['enabled', (w.ev_enabled)::pg_catalog.text, 'event', (w.ev_type)::pg_catalog.text, 'instead', ` + yes("w.is_instead") + `, ` + says + `]::pg_catalog.text[],
	` + none + `, pg_catalog.pg_get_ruledef(w.oid), pg_catalog.rtrim(pg_catalog.pg_get_ruledef(w.oid), ';') || CASE w.ev_enabled WHEN 'O' THEN '' ELSE pg_catalog.format(E';\nALTER TABLE %I.%I %s RULE %I', n.nspname, t.relname,
		CASE w.ev_enabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, w.rulename) END
	FROM pg_catalog.pg_rewrite w JOIN pg_catalog.pg_class t ON t.oid = w.ev_class JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace` + comment("pg_rewrite", "w.oid", "0") + `
	WHERE w.ev_type <> '1' AND t.relpersistence <> 't' AND ` + ours + ` AND ` + own("pg_class", "t.oid")

var policies = `SELECT 'policy', n.nspname, t.relname, p.polname, 'policy',
	ARRAY['command', (p.polcmd)::pg_catalog.text, 'permissive', ` + yes("p.polpermissive") + `, 'roles', (r.roles)::pg_catalog.text, 'using', ` + yes("p.polqual IS NOT NULL") + `, 'with check', ` + yes("p.polwithcheck IS NOT NULL") + `, ` + says + `]::pg_catalog.text[],
	` + none + `, pg_catalog.concat_ws(' CHECK ', pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)),
	pg_catalog.format('CREATE POLICY %I ON %I.%I AS %s FOR %s TO %s%s%s', p.polname, n.nspname, t.relname, CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
		CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END, r.roles,
		coalesce(' USING (' || pg_catalog.pg_get_expr(p.polqual, p.polrelid) || ')', ''), coalesce(' WITH CHECK (' || pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) || ')', ''))
	FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class t ON t.oid = p.polrelid JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace` + comment("pg_policy", "p.oid", "0") + `
	CROSS JOIN LATERAL (SELECT pg_catalog.string_agg(CASE u.u WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(u.u)) END, ', ' ORDER BY pg_catalog.pg_get_userbyid(u.u)) AS roles FROM pg_catalog.unnest(p.polroles) u(u)) r
	WHERE ` + ours + ` AND ` + own("pg_class", "t.oid")
