package main

import (
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// mendAs executes the blocks of what pgcutover missing --sql prints as the roles that they name,
// and returns those roles.
func (m *migration) mendAs() (roles map[string]int) {
	m.T.Helper()
	out, _ := m.cut(1, "missing", "--sql")
	head, rest, _ := strings.Cut(out, "\n-- On the target, as ")
	roles = make(map[string]int)
	for _, block := range strings.Split(rest, "\n-- On the target, as ") {
		role, sql, _ := strings.Cut(block, ":\n")
		as := &pgtest.DB{Server: m.target.Server, Name: m.target.Name, URI: m.target.URI}
		if roles[role]++; role != "superuser" {
			as.URI = m.target.As(strings.Trim(role, `"`), "")
		}
		if _, err := as.Try(head + "\n" + sql); err != nil {
			m.T.Errorf("as %s: %v\n%s", role, err, sql)
		}
	}
	return roles
}

// A role without superuser that owns the target's database, and may become the owners, mends what
// missing --sql has for it; afterwards missing is silent.
func TestMissingRestricted_C5_C6(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	app, reader, mover := "App "+source.Name, "reader_"+source.Name, "mover_"+source.Name
	quoted := `"` + app + `"`
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("CREATE ROLE "+quoted, "CREATE ROLE "+reader)
		t.Cleanup(func() {
			d.Exec("DROP OWNED BY "+quoted+" CASCADE", "DROP OWNED BY "+reader+" CASCADE", "DROP ROLE "+quoted+", "+reader)
		})
	}
	target.Exec("CREATE ROLE "+mover+" LOGIN", "GRANT "+quoted+" TO "+mover, "ALTER DATABASE "+target.Name+" OWNER TO "+mover)
	t.Cleanup(func() {
		target.Exec("ALTER DATABASE "+target.Name+" OWNER TO postgres", "DROP OWNED BY "+mover+" CASCADE", "DROP ROLE "+mover)
	})
	source.Exec("CREATE SCHEMA app AUTHORIZATION "+quoted, "SET ROLE "+quoted+`; SET search_path = app; CREATE TABLE "It's" ("Old ""one" int, kept text DEFAULT 'a', n int, changing int); CREATE TYPE mood AS ENUM ('good', 'bad');
		CREATE TABLE policed (a int PRIMARY KEY, b text NOT NULL, c numeric(5,1)); ALTER TABLE policed ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON policed USING (a > 0); CREATE DOMAIN positive AS int DEFAULT 1 CHECK (VALUE > 0);
		CREATE VIEW shown AS SELECT a FROM policed; CREATE VIEW gone AS SELECT 1 AS x; CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE FUNCTION g(a int) RETURNS int LANGUAGE sql AS 'SELECT 1';
		CREATE TRIGGER t BEFORE INSERT ON policed FOR EACH ROW EXECUTE PROCEDURE f(); CREATE SEQUENCE numbers; CREATE SEQUENCE "Old"; CREATE INDEX i ON policed (b); CREATE MATERIALIZED VIEW mv AS SELECT a FROM policed;
		CREATE TABLE child (a int REFERENCES policed, up int); ALTER TABLE child ADD CONSTRAINT positive CHECK (up > 0); CREATE RULE r AS ON DELETE TO child DO INSTEAD NOTHING; CREATE STATISTICS s ON a, b FROM policed;
		CREATE TEXT SEARCH CONFIGURATION texts (COPY = pg_catalog.english); CREATE TEXT SEARCH DICTIONARY words (TEMPLATE = pg_catalog.simple); CREATE OPERATOR === (PROCEDURE = int4eq, LEFTARG = int, RIGHTARG = int)`)
	m := &migration{source: source, target: target, slot: "mig_" + source.Name, Env: pgtest.NewEnv(t, source, target)}
	m.Env.Target = target.As(mover, "")
	m.load()
	m.nothingMissing()
	source.Exec("SET ROLE "+quoted+`; SET search_path = app; ALTER TABLE "It's" DROP COLUMN "Old ""one"; ALTER TABLE "It's" ADD COLUMN fresh numeric(5,2) DEFAULT 1 NOT NULL; ALTER TABLE "It's" ALTER COLUMN kept SET DEFAULT 'it''s';
		ALTER TABLE "It's" ALTER COLUMN kept SET STORAGE EXTERNAL, ALTER COLUMN kept SET STATISTICS 7, ALTER COLUMN n SET NOT NULL, ALTER COLUMN changing TYPE bigint;
		ALTER TABLE policed FORCE ROW LEVEL SECURITY, ALTER b DROP NOT NULL; ALTER POLICY p ON policed USING (a > 1); CREATE POLICY q ON policed AS RESTRICTIVE FOR SELECT TO `+reader+` USING (true); ALTER DOMAIN positive SET DEFAULT 2;
		ALTER DOMAIN positive ADD CONSTRAINT small CHECK (VALUE < 100); ALTER DOMAIN positive SET NOT NULL; CREATE OR REPLACE VIEW shown AS SELECT a FROM policed WHERE a > 5; DROP VIEW gone; CREATE OR REPLACE FUNCTION g(a int DEFAULT 7) RETURNS int STABLE LANGUAGE sql AS 'SELECT 2';
		DROP TRIGGER t ON policed; CREATE TRIGGER t AFTER INSERT ON policed FOR EACH ROW WHEN (NEW.a > 1) EXECUTE PROCEDURE f(); CREATE TRIGGER off BEFORE DELETE ON policed FOR EACH ROW EXECUTE PROCEDURE f(); ALTER TABLE policed DISABLE TRIGGER off;
		ALTER SEQUENCE numbers INCREMENT 3 MINVALUE -5 MAXVALUE 700 CACHE 9 CYCLE; ALTER SEQUENCE "Old" RENAME TO "New"; DROP INDEX i; CREATE UNIQUE INDEX i ON policed (b, (a + 1)) WHERE a > 0; CREATE INDEX later ON policed (c);
		ALTER TABLE child DROP CONSTRAINT positive; ALTER TABLE child ADD CONSTRAINT positive CHECK (up > 1); ALTER TABLE child ADD CONSTRAINT u UNIQUE (up) DEFERRABLE; ALTER TABLE child ADD CONSTRAINT parent FOREIGN KEY (up) REFERENCES policed ON DELETE CASCADE;
		DROP RULE r ON child; CREATE RULE r AS ON DELETE TO child WHERE old.a > 1 DO INSTEAD NOTHING; DROP STATISTICS s; CREATE STATISTICS s (ndistinct) ON a, c FROM policed; CREATE MATERIALIZED VIEW mv2 AS SELECT 1 AS a;
		CREATE TABLE "Un migrated" (a int); DROP TABLE "Un migrated"; CREATE SEQUENCE feeds OWNED BY child.up; CREATE TYPE pair AS (a int, b text); CREATE FUNCTION secret() RETURNS int LANGUAGE sql AS 'SELECT 1'; REVOKE ALL ON FUNCTION secret() FROM PUBLIC;
		GRANT SELECT, INSERT ON policed TO `+reader+` WITH GRANT OPTION; GRANT UPDATE (b) ON policed TO `+reader+`; GRANT USAGE ON SCHEMA app TO `+reader+`; GRANT EXECUTE ON FUNCTION g(int) TO `+reader+`; REVOKE ALL ON FUNCTION g(int) FROM PUBLIC; GRANT USAGE ON SEQUENCE numbers TO `+reader+`;
		REVOKE USAGE ON TYPE mood FROM PUBLIC; GRANT SELECT ON shown TO PUBLIC; ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO `+reader+`; ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
		COMMENT ON TABLE policed IS 'a ; ''b'' \ c'; COMMENT ON COLUMN policed.b IS 'b'; COMMENT ON INDEX later IS 'i'; COMMENT ON CONSTRAINT parent ON child IS 'c'; COMMENT ON FUNCTION g(int) IS 'g'; COMMENT ON TYPE mood IS 'm'; COMMENT ON SEQUENCE numbers IS 'n';
		COMMENT ON POLICY p ON policed IS 'p'; COMMENT ON SCHEMA app IS 's'; COMMENT ON VIEW shown IS 'v'; COMMENT ON MATERIALIZED VIEW mv IS 'mv'; COMMENT ON DOMAIN positive IS 'd'; COMMENT ON TEXT SEARCH CONFIGURATION texts IS 't';
		ALTER TABLE policed REPLICA IDENTITY FULL; ALTER TABLE policed CLUSTER ON policed_pkey; ALTER TEXT SEARCH CONFIGURATION texts ALTER MAPPING FOR word WITH words, pg_catalog.simple; CREATE OPERATOR !== (PROCEDURE = int4ne, LEFTARG = int, RIGHTARG = int);
		CREATE CAST (pair AS mood) WITH INOUT; CREATE CONVERSION conv FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8; CREATE COLLATION sorts (lc_collate = 'C', lc_ctype = 'C')`,
		"ALTER TYPE app.mood ADD VALUE 'it''s bad' BEFORE 'bad'",
		"ALTER DATABASE "+source.Name+" SET work_mem = '8MB'",
		"ALTER ROLE "+reader+" IN DATABASE "+source.Name+" SET work_mem = '9MB'",
		"GRANT CREATE ON DATABASE "+source.Name+" TO "+reader, "CREATE OPERATOR FAMILY app.fam USING btree")
	roles := m.mendAs()
	if roles[mover] == 0 || roles["superuser"] == 0 {
		t.Errorf("as %v", roles)
	}
	m.nothingMissing()
}
