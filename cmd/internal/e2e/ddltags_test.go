package e2e

import (
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/cmd/internal/sqltext"
)

// For which statements the server's event triggers fire, and with which tag: what counts them here
// must know as much. A statement that a version does not have is passed over.
func TestEventTriggersFire_P4(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	server := pgtest.Source(t)
	if server.Major < 14 {
		t.Skip("statements are recorded from 14 on")
	}
	d := server.Database(t, "")
	r := "fires_" + d.Name
	t.Cleanup(func() { d.Exec("DROP OWNED BY "+r, "DROP ROLE "+r) })
	d.Exec("CREATE ROLE "+r, `CREATE FUNCTION fired() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
			PERFORM set_config('fired.tag', current_setting('fired.tag', true) || tg_tag || ';', false); END $$`,
		"CREATE TABLE t (a int, b text)", "CREATE TABLE database (a int)", "CREATE VIEW v AS SELECT 1 AS a",
		"CREATE TYPE c AS (a int)", "CREATE DOMAIN dom AS int", "CREATE SEQUENCE s",
		"CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
		"CREATE PROCEDURE p() LANGUAGE sql AS 'SELECT 1'", "CREATE MATERIALIZED VIEW m AS SELECT 1 AS a",
		"CREATE SCHEMA sch",
		"CREATE FOREIGN DATA WRAPPER w", "CREATE SERVER srv FOREIGN DATA WRAPPER w", "CREATE INDEX i ON t (a)",
		"CREATE EVENT TRIGGER fired ON ddl_command_end EXECUTE FUNCTION fired()")
	for _, sql := range []string{
		"CREATE TEMP TABLE x (a int)", "CREATE UNLOGGED TABLE x (a int)",
		"CREATE TABLE x (a int) PARTITION BY LIST (a)", "CREATE TABLE x AS SELECT 1 AS a",
		"CREATE TABLE IF NOT EXISTS t (a int)",
		"CREATE TABLE IF NOT EXISTS t AS SELECT 1", `CREATE TABLE "as" (a int)`, "SELECT 1 AS a INTO x",
		"WITH q AS (SELECT 1 AS a) SELECT * INTO x FROM q", "SELECT 1",
		"WITH q AS (SELECT 1 AS a) INSERT INTO t (a) SELECT a FROM q", "INSERT INTO t VALUES (1)",
		"CREATE OR REPLACE VIEW x AS SELECT 1 AS a", "CREATE TEMP VIEW x AS SELECT 1 AS a",
		"CREATE RECURSIVE VIEW x (a) AS SELECT 1", "CREATE MATERIALIZED VIEW x AS SELECT 1 AS a",
		"REFRESH MATERIALIZED VIEW m",
		"CREATE UNIQUE INDEX ON t (a)", "CREATE SEQUENCE x", "CREATE SCHEMA x",
		"CREATE SCHEMA x CREATE TABLE y (a int)", "CREATE TYPE x AS ENUM ('a')", "CREATE TYPE x",
		"CREATE DOMAIN x AS int",
		"CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2'",
		"CREATE FUNCTION x() RETURNS int BEGIN ATOMIC SELECT 1 AS end; SELECT CASE WHEN true THEN 1 END; END",
		"CREATE PROCEDURE x() LANGUAGE sql AS 'SELECT 1'",
		"CREATE AGGREGATE x (int) (sfunc = int4pl, stype = int)",
		"CREATE CAST (c AS int) WITH FUNCTION g(c)",
		"CREATE OPERATOR === (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int)", "CREATE OPERATOR FAMILY x USING btree",
		"CREATE OPERATOR CLASS x FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 btint4cmp(int, int)",
		"CREATE COLLATION x FROM \"C\"",
		"CREATE DEFAULT CONVERSION x FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8",
		"CREATE STATISTICS x ON a, b FROM t",
		"CREATE RULE x AS ON DELETE TO t DO INSTEAD (SELECT 1; SELECT 2)",
		"CREATE TRIGGER x BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
		"CREATE CONSTRAINT TRIGGER x AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
		"CREATE POLICY x ON t", "CREATE FOREIGN DATA WRAPPER x", "CREATE SERVER x FOREIGN DATA WRAPPER w",
		"CREATE USER MAPPING FOR CURRENT_USER SERVER srv", "CREATE FOREIGN TABLE x (a int) SERVER srv",
		"CREATE TEXT SEARCH CONFIGURATION x (COPY = simple)",
		"CREATE TEXT SEARCH DICTIONARY x (TEMPLATE = simple)",
		"CREATE TEXT SEARCH PARSER x (start = prsd_start, gettoken = prsd_nexttoken, end = prsd_end, lextypes = prsd_lextype)",
		"CREATE TEXT SEARCH TEMPLATE x (lexize = dsimple_lexize)",
		"CREATE ACCESS METHOD x TYPE INDEX HANDLER bthandler",
		"CREATE TRANSFORM FOR int LANGUAGE sql (FROM SQL WITH FUNCTION prsd_lextype(internal))",
		"CREATE EXTENSION hstore", "CREATE ROLE x_" + d.Name, "CREATE USER x_" + d.Name,
		"CREATE GROUP x_" + d.Name, "CREATE EVENT TRIGGER x ON sql_drop EXECUTE FUNCTION fired()",
		"ALTER TABLE t ADD x int", "ALTER TABLE t RENAME a TO x", "ALTER TABLE IF EXISTS nothing ADD x int",
		"ALTER TABLE t RENAME TO x", "ALTER TABLE v RENAME TO x", "ALTER TABLE i RENAME TO x",
		"ALTER INDEX i RENAME TO x",
		"ALTER VIEW v RENAME a TO x", "ALTER TYPE c RENAME ATTRIBUTE a TO x",
		"ALTER TYPE c ADD ATTRIBUTE x int", "ALTER DOMAIN dom SET DEFAULT 1",
		"ALTER DOMAIN dom ADD CONSTRAINT x CHECK (VALUE > 0)", "ALTER SEQUENCE s INCREMENT 2",
		"ALTER SEQUENCE s OWNER TO " + r, "ALTER TABLE s OWNER TO " + r, "ALTER FUNCTION f() IMMUTABLE",
		"ALTER ROUTINE f() RENAME TO x", "ALTER PROCEDURE p() RENAME TO x",
		"ALTER FUNCTION f() OWNER TO " + r,
		"ALTER MATERIALIZED VIEW m RENAME TO x", "ALTER SCHEMA sch RENAME TO x",
		"ALTER SERVER srv OPTIONS (ADD a 'b')", "ALTER FOREIGN DATA WRAPPER w OPTIONS (ADD a 'b')",
		"ALTER TABLE t SET SCHEMA sch", "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
		"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO " + r, "ALTER ROLE " + r + " NOLOGIN",
		"ALTER USER " + r + " NOLOGIN", "ALTER DATABASE " + d.Name + " SET work_mem = '4MB'",
		"ALTER EVENT TRIGGER fired ENABLE",
		"DROP TABLE t CASCADE", "DROP TABLE IF EXISTS nothing", "DROP VIEW v", "DROP TYPE c",
		"DROP FUNCTION f()", "DROP ROUTINE f()", "DROP PROCEDURE p", "DROP INDEX i", "DROP SCHEMA sch",
		"DROP SERVER srv", "DROP FOREIGN DATA WRAPPER w CASCADE",
		"DROP OWNED BY " + r, "REASSIGN OWNED BY " + r + " TO CURRENT_USER", "DROP ROLE IF EXISTS nobody",
		"DROP USER MAPPING IF EXISTS FOR CURRENT_USER SERVER srv", "DROP EVENT TRIGGER IF EXISTS nothing",
		"DROP CAST IF EXISTS (c AS int)",
		"DROP TEXT SEARCH CONFIGURATION IF EXISTS nothing",
		"DROP OPERATOR CLASS IF EXISTS nothing USING btree", "DROP PROCEDURAL LANGUAGE IF EXISTS nothing",
		"COMMENT ON TABLE t IS 'x'", "COMMENT ON COLUMN t.a IS 'x'",
		"COMMENT ON DATABASE " + d.Name + " IS 'x'", "COMMENT ON ROLE " + r + " IS 'x'",
		"COMMENT ON EVENT TRIGGER fired IS 'x'", "COMMENT ON TEXT SEARCH CONFIGURATION simple IS 'x'",
		"GRANT SELECT ON t TO " + r, "GRANT SELECT ON database TO " + r,
		"GRANT SELECT ON ALL TABLES IN SCHEMA public TO " + r,
		"GRANT CREATE ON DATABASE " + d.Name + " TO " + r,
		`GRANT CREATE ON DATABASE "` + d.Name + `" TO ` + r,
		"GRANT " + r + " TO CURRENT_USER", "GRANT USAGE ON SCHEMA sch TO " + r,
		"GRANT CREATE ON TABLESPACE pg_default TO " + r, "GRANT SET ON PARAMETER work_mem TO " + r,
		"GRANT USAGE ON FOREIGN SERVER srv TO " + r,
		"REVOKE SELECT ON t FROM " + r, "REVOKE CREATE ON DATABASE " + d.Name + " FROM " + r, "REVOKE " + r + " FROM CURRENT_USER",
		"CREATE PUBLICATION x", "LOCK TABLE t", "TRUNCATE t", "ANALYZE t", "CLUSTER t USING i",
		"REINDEX TABLE t", "SET work_mem = '4MB'", "DO $$BEGIN END$$",
		"EXPLAIN ANALYZE CREATE TABLE x AS SELECT 1 AS a", "COPY t TO STDOUT", "TABLE t",
	} {
		c := d.Connect()
		ctx := pgtest.Context(t)
		if _, err := c.Exec(ctx, "SET fired.tag = ''; BEGIN"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Exec(ctx, sql); err != nil {
			if !strings.Contains(err.Error(), "42601") && !strings.Contains(sql, "CREATE CAST") && !strings.Contains(sql, "TRANSFORM") {
				t.Errorf("%s: %v", sql, err)
			}
			_ = c.Close(ctx)
			continue
		}
		var tag string
		if err := c.QueryRow(ctx, "SELECT current_setting('fired.tag')").Scan(&tag); err != nil {
			t.Fatal(err)
		}
		_ = c.Close(ctx)
		s := sqltext.Rules{}.Split(sql)
		if len(s) != 1 {
			t.Errorf("%s: %d statements", sql, len(s))
			continue
		}
		want := ""
		if s[0].Fires() {
			want = s[0].Tag() + ";"
		}
		if strings.Contains(sql, "PUBLICATION") || strings.HasPrefix(sql, "REINDEX") || strings.HasPrefix(sql, "CREATE EXTENSION") {
			continue // the triggers themselves leave these out, or the statements of the script
		}
		if tag != want {
			t.Errorf("%s: the server fires for %q, we think %q", sql, tag, want)
		}
	}
}
