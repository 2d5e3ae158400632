package main

import (
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// With ddl install, what waits for the cutover is renamed, or dropped and made anew, in one
// transaction, or its table is moved or dropped: the target has it in the end as the source does,
// and until then it does not act, although the target's role may not set session_replication_role.
func TestAwaitedMoved_C5(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	m := begin(t, source, target)
	mover := "mover_" + source.Name
	target.Exec("CREATE ROLE "+mover+" LOGIN", "GRANT postgres TO "+mover, "ALTER DATABASE "+target.Name+" OWNER TO "+mover)
	t.Cleanup(func() {
		target.Exec("ALTER DATABASE "+target.Name+" OWNER TO postgres", "DROP OWNED BY "+mover+" CASCADE", "DROP ROLE "+mover)
	})
	m.Env.Target = target.As(mover, "")
	const double = "FOR EACH ROW EXECUTE PROCEDURE double()"
	source.Exec("CREATE SCHEMA new", "CREATE TABLE up (id int PRIMARY KEY, n int)", "CREATE TABLE down (id int PRIMARY KEY, a int CONSTRAINT renamed REFERENCES up, b int CONSTRAINT replaced REFERENCES up)",
		"CREATE TABLE moved (id int PRIMARY KEY, n int, a int CONSTRAINT stays REFERENCES up)", "CREATE TABLE away (id int PRIMARY KEY, a int CONSTRAINT away REFERENCES up)",
		"CREATE FUNCTION double() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.n := 2 * NEW.n; RETURN NEW; END'", "CREATE TRIGGER away BEFORE INSERT ON away "+double,
		"CREATE TRIGGER renamed BEFORE INSERT ON up "+double, "CREATE TRIGGER replaced BEFORE INSERT ON up "+double, "CREATE TRIGGER kept BEFORE INSERT ON moved "+double, "COMMENT ON TRIGGER kept ON moved IS 'it''s'")
	m.cut(0, "ddl", "install")
	m.load()
	source.Exec(`BEGIN; INSERT INTO up VALUES (1, 1); ALTER TRIGGER renamed ON up RENAME TO "re'named"; INSERT INTO up VALUES (2, 1); COMMIT`,
		`BEGIN; INSERT INTO down VALUES (1, 1, 1); ALTER TABLE down RENAME CONSTRAINT renamed TO "re'named"; INSERT INTO up VALUES (3, 1); COMMIT`,
		"BEGIN; ALTER TABLE down DROP CONSTRAINT replaced; ALTER TABLE down ADD CONSTRAINT replaced FOREIGN KEY (b) REFERENCES up ON DELETE CASCADE; INSERT INTO up VALUES (4, 1); COMMIT",
		"BEGIN; DROP TRIGGER replaced ON up; CREATE TRIGGER replaced BEFORE UPDATE ON up "+double+"; INSERT INTO up VALUES (5, 1); UPDATE up SET n = n + 1 WHERE id = 1; COMMIT",
		`BEGIN; INSERT INTO moved VALUES (1, 1, 1); ALTER TABLE moved RENAME TO "mo'ved"; INSERT INTO "mo'ved" VALUES (2, 1, 1); COMMIT`, `ALTER TABLE "mo'ved" SET SCHEMA new`, `INSERT INTO new."mo'ved" VALUES (3, 1, 1)`,
		"DROP TABLE away", "INSERT INTO down VALUES (2, 1, 1)")
	pgtest.Wait(t, 60*time.Second, "the row behind them arrives", func() bool { return target.Query("SELECT count(*) FROM down") == "2" })
	const rows = `SELECT (SELECT string_agg(id || ':' || n, ' ' ORDER BY id) FROM up) || '; ' || (SELECT string_agg(id || ':' || n, ' ' ORDER BY id) FROM new."mo'ved")`
	if s, d := source.Query(rows), target.Query(rows); s != d {
		t.Errorf("the source has %s, the target %s", s, d)
	}
	m.nothingMissing()
	// What waits for the cutover follows a column that is renamed, without more ado.
	source.Exec(`ALTER TABLE down RENAME a TO "a'a"; INSERT INTO down VALUES (3, 1, 1)`)
	pgtest.Wait(t, 60*time.Second, "the row behind it arrives", func() bool { return target.Query("SELECT count(*) FROM down") == "3" })
	for _, verb := range []string{"fence", "drain", "open", "finish"} {
		m.cut(0, verb)
	}
	const all = `SELECT string_agg(x, chr(10) ORDER BY x COLLATE "C") FROM (SELECT concat_ws(' ', conname, convalidated, pg_get_constraintdef(oid), conrelid::regclass) FROM pg_constraint WHERE contype = 'f' AND connamespace::regnamespace::text IN ('public', 'new')
		UNION ALL SELECT concat_ws(' ', tgname, tgenabled, pg_get_triggerdef(oid), obj_description(oid, 'pg_trigger')) FROM pg_trigger WHERE NOT tgisinternal) q(x)`
	if s, d := source.Query(all), target.Query(all); s != d {
		t.Errorf("the source has\n%s\nthe target has\n%s", s, d)
	}
	if got := target.Query("SELECT count(*) FROM pgsluice.deferred WHERE state <> 'done'"); got != "0" {
		t.Errorf("%s objects were not created: %s", got, target.Query("SELECT string_agg(name || coalesce(error, ''), ' ') FROM pgsluice.deferred WHERE state <> 'done'"))
	}
}
