package old

import (
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/sqltext"
)

// The publications of 9.6 are functions in schema pgsluice, which nobody calls: a function has a
// name, an owner and a comment, any role that may create a publication may create it, and it comes
// and goes in transactions. Its body says which operations are carried of which tables:
//
//	CREATE FUNCTION pgsluice.mig() … AS 'SELECT ''insert,update,delete''::pg_catalog.text, ''{16385,16391}''::pg_catalog.oid[]'
//
// The slot has the plugin test_decoding, which knows no publications. pgdecode reads them, as it
// does in newer versions.

const returns = "RETURNS TABLE (publishes pg_catalog.text, tables pg_catalog.oid[]) LANGUAGE sql"

// published are the functions that stand for publications.
const published = `pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace AND n.nspname = 'pgsluice'
	WHERE p.pronargs = 0 AND p.prosrc ~ '^SELECT ''insert[a-z,]*''::pg_catalog.text, ''\{[0-9,]*\}''::pg_catalog.oid\[\]$'`

const publications = `SELECT p.oid, p.xmin, p.ctid, p.proname AS pubname, p.proowner AS pubowner, false AS puballtables, true AS pubinsert,
	p.prosrc ~ '^[^{]*update' AS pubupdate, p.prosrc ~ '^[^{]*delete' AS pubdelete FROM ` + published

// members finds the publications of one table without looking at the others.
var members = `SELECT p.oid AS prpubid, p.proname AS pubname, p.xmin, p.ctid, c.oid AS prrelid
	FROM ` + strings.Replace(published, "WHERE", "CROSS JOIN pg_catalog.pg_class c WHERE c.oid = ANY (pg_catalog.substring(p.prosrc, '\\{.*\\}')::pg_catalog.oid[]) AND", 1)

// change is the block that makes a publication, or that adds tables to it or takes them away. It
// takes a verb, a name, the operations and the tables.
const change = `DECLARE
	verb CONSTANT pg_catalog.text := @verb;
	id CONSTANT pg_catalog.text := @name;
	does pg_catalog.text := @does;
	given CONSTANT pg_catalog.oid[] := ARRAY[@tables]::pg_catalog.regclass[]::pg_catalog.oid[];
	list pg_catalog.oid[] := '{}';
	old pg_catalog.text;
BEGIN
	SELECT p.prosrc INTO old FROM ` + published + ` AND p.proname = id;
	IF verb = 'CREATE' AND old IS NOT NULL THEN
		RAISE EXCEPTION 'publication "%" already exists', id USING ERRCODE = 'duplicate_object';
	ELSIF verb <> 'CREATE' AND old IS NULL THEN
		RAISE EXCEPTION 'publication "%" does not exist', id USING ERRCODE = 'undefined_object';
	ELSIF old IS NOT NULL THEN
		list := pg_catalog.substring(old, '\{.*\}')::pg_catalog.oid[];
		does := pg_catalog.substring(old, '''([a-z,]*)''');
	END IF;
	IF pg_catalog.to_regnamespace('pgsluice') IS NULL THEN
		CREATE SCHEMA pgsluice;
	ELSIF EXISTS (SELECT FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner
		WHERE n.nspname = 'pgsluice' AND NOT r.rolsuper AND NOT pg_catalog.pg_has_role(n.nspowner, 'USAGE')) THEN
		RAISE EXCEPTION 'schema pgsluice belongs to another role, which could drop the publication' USING ERRCODE = 'insufficient_privilege';
	END IF;
	IF verb = 'DROP' THEN
		list := ARRAY(SELECT x FROM pg_catalog.unnest(list) x WHERE x <> ALL (given));
	ELSE
		list := ARRAY(SELECT x FROM pg_catalog.unnest(list || given) x GROUP BY x ORDER BY x);
	END IF;
	EXECUTE pg_catalog.format('CREATE OR REPLACE FUNCTION pgsluice.%I() ` + returns + ` AS %L', id, pg_catalog.format('SELECT %L::pg_catalog.text, %L::pg_catalog.oid[]', does, list));
END `

// drop is the block that drops a publication, and the schema with its last object.
const drop = `BEGIN
	IF EXISTS (SELECT FROM ` + published + ` AND p.proname = @name) THEN
		EXECUTE pg_catalog.format('DROP FUNCTION pgsluice.%I()', @name::pg_catalog.text);
	END IF;
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND d.refobjid = pg_catalog.to_regnamespace('pgsluice')::pg_catalog.oid)
		AND EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = 'pgsluice' AND pg_catalog.pg_has_role(n.nspowner, 'USAGE')) THEN
		DROP SCHEMA pgsluice;
	END IF;
END `

// publication translates a statement about a publication, if one begins at the next token.
func (t *translator) publication() bool {
	i := t.i
	verb := t.word(i)
	switch {
	case verb == "COMMENT" && t.word(i+2) == "PUBLICATION":
		t.replace(i, i+4, "COMMENT ON FUNCTION pgsluice."+t.tokens[i+3].Text+"()")
		return true
	case t.word(i+1) != "PUBLICATION" || verb != "CREATE" && verb != "ALTER" && verb != "DROP":
		return false
	}
	end := i
	for end < len(t.tokens) && t.tokens[end].Text != ";" {
		end++
	}
	at := i + 2
	if t.word(at) == "IF" {
		at += 2
	}
	in := []string{"@name", literal(sqltext.Unquoted(t.tokens[at].Text))}
	sql := drop
	if verb != "DROP" {
		does := "insert,update,delete"
		for j := at; j < end; j++ {
			if t.word(j) == "PUBLISH" {
				does = "insert"
			}
		}
		if verb == "ALTER" {
			verb = t.word(at + 1) // ADD or DROP
		}
		sql, in = change, append(in, "@verb", literal(verb), "@does", literal(does), "@tables", strings.Join(t.list(at, end), ", "))
	}
	// At once: the name of a table may have one of these words.
	t.replace(i, end, "DO "+dollarQuoted(strings.NewReplacer(in...).Replace(sql)))
	return true
}

// dollarQuoted quotes a block. A name in it may look like the end of a quote.
func dollarQuoted(block string) string {
	tag := "$pgsluice$"
	for strings.Contains(block, tag) {
		tag = "$_" + tag[1:]
	}
	return tag + "\n" + block + tag
}

// list returns the names of the tables after the word TABLE, as literals.
func (t *translator) list(i, end int) (tables []string) {
	for i < end && t.word(i) != "TABLE" {
		i++
	}
	for i++; i < end && t.word(i) != "WITH"; i++ {
		from := i
		if t.word(i) == "ONLY" {
			from++
		}
		for i < end && t.tokens[i].Text != "," && t.word(i) != "WITH" {
			i++
		}
		last := t.tokens[i-1]
		tables = append(tables, literal(t.q[t.tokens[from].At:last.At+len(last.Text)]))
		if i < end && t.word(i) == "WITH" {
			break
		}
	}
	return tables
}

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
