package main

import (
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Foreign keys, triggers and rules wait for the cutover. What the source makes of them meanwhile is
// named, and the statements that are printed make the target get them as they are by then.
func TestAwaitedDrift_C5(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	m := begin(t, source, target)
	const stamps = "FOR EACH ROW EXECUTE PROCEDURE stamps()"
	source.Exec("CREATE TABLE up (id int PRIMARY KEY)",
		`CREATE TABLE "do'wn" (id int PRIMARY KEY, up int, other int, CONSTRAINT changed FOREIGN KEY (up) REFERENCES up, CONSTRAINT "go'ne" FOREIGN KEY (other) REFERENCES up, CONSTRAINT "no'ted" FOREIGN KEY (id) REFERENCES up)`,
		"CREATE FUNCTION stamps() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
		"CREATE TRIGGER changed BEFORE INSERT ON up "+stamps,
		"CREATE TRIGGER gone BEFORE INSERT ON up "+stamps,
		"CREATE TRIGGER off BEFORE UPDATE ON up "+stamps,
		`CREATE TRIGGER "no'ted" BEFORE UPDATE ON up `+stamps, "COMMENT ON TRIGGER gone ON up IS 'x'",
		"COMMENT ON TRIGGER changed ON up IS 'before'", "CREATE TRIGGER kept BEFORE UPDATE ON up "+stamps,
		"CREATE RULE changed AS ON DELETE TO up WHERE old.id = 1 DO INSTEAD NOTHING",
		"CREATE RULE gone AS ON DELETE TO up WHERE old.id = 2 DO INSTEAD NOTHING",
		"INSERT INTO up VALUES (1)", `INSERT INTO "do'wn" VALUES (1, 1, 1)`)
	m.load()
	m.nothingMissing()
	source.Exec(`ALTER TABLE "do'wn" DROP CONSTRAINT changed, ADD CONSTRAINT changed FOREIGN KEY (up) REFERENCES up ON DELETE CASCADE, DROP CONSTRAINT "go'ne"`,
		`COMMENT ON CONSTRAINT "no'ted" ON "do'wn" IS 'it''s \'`,
		"DROP TRIGGER changed ON up", "CREATE TRIGGER changed AFTER INSERT ON up "+stamps,
		"COMMENT ON TRIGGER changed ON up IS 'after'", "DROP TRIGGER gone ON up",
		"ALTER TABLE up DISABLE TRIGGER off", `COMMENT ON TRIGGER "no'ted" ON up IS 'new'`,
		"CREATE OR REPLACE RULE changed AS ON DELETE TO up WHERE old.id = 3 DO INSTEAD NOTHING", "DROP RULE gone ON up",
		"CREATE TRIGGER fresh BEFORE INSERT ON up "+stamps, `COMMENT ON TRIGGER fresh ON up IS 'it''s new'`,
		"CREATE RULE fresh AS ON DELETE TO up WHERE old.id = 4 DO INSTEAD NOTHING")
	lines := m.missing()
	for _, name := range []string{"public.do'wn.changed", "public.do'wn.go'ne", "public.do'wn.no'ted",
		"public.up.changed", "public.up.gone", "public.up.off", "public.up.no'ted"} {
		if named(lines, name) == nil {
			t.Errorf("%s is not named", name)
		}
	}
	if len(lines) != 11 { // a trigger and a rule each are changed, gone, and new
		t.Errorf("%d lines: %+v", len(lines), lines)
	}
	m.cut(78, "fence")
	m.mend()
	m.nothingMissing()
	const created = "SELECT (SELECT count(*) FROM pg_trigger WHERE tgname = 'fresh') + (SELECT count(*) FROM pg_rewrite WHERE rulename = 'fresh')"
	if n := target.Query(created); n != "0" {
		t.Errorf("%s triggers and rules act before the cutover", n)
	}
	m.cut(0, "fence")
	m.cut(0, "drain")
	m.cut(0, "open")
	m.cut(0, "finish")
	const all = `SELECT string_agg(x, chr(10) ORDER BY x COLLATE "C") FROM (SELECT concat_ws(' ', conname, convalidated, pg_get_constraintdef(oid), obj_description(oid, 'pg_constraint')) FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace
		UNION ALL SELECT concat_ws(' ', tgname, tgenabled, pg_get_triggerdef(oid), obj_description(oid, 'pg_trigger')) FROM pg_trigger WHERE NOT tgisinternal
		UNION ALL SELECT pg_get_ruledef(r.oid) FROM pg_rewrite r JOIN pg_class c ON c.oid = ev_class WHERE c.relkind = 'r' AND c.oid >= 16384) q(x)`
	if s, d := source.Query(all), target.Query(all); s != d {
		t.Errorf("the source has\n%s\nthe target has\n%s", s, d)
	}
}

// With ddl install, a recorded statement about what waits for the cutover is executed all the same.
func TestAwaitedRecorded_C5(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	m := begin(t, source, target)
	const stamps = "FOR EACH ROW EXECUTE PROCEDURE stamps()"
	source.Exec("CREATE TABLE up (id int PRIMARY KEY)",
		"CREATE TABLE down (id int PRIMARY KEY, up int CONSTRAINT fk REFERENCES up)",
		"CREATE FUNCTION stamps() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
		"CREATE TRIGGER tg BEFORE INSERT ON up "+stamps, "CREATE TRIGGER off BEFORE INSERT ON up "+stamps,
		"CREATE RULE ru AS ON DELETE TO up WHERE old.id = 2 DO INSTEAD NOTHING")
	m.cut(0, "ddl", "install")
	m.load()
	source.Exec("ALTER TABLE down DROP CONSTRAINT fk", "DROP TRIGGER tg ON up",
		"ALTER TABLE up DISABLE TRIGGER off", "DROP RULE ru ON up", "INSERT INTO up VALUES (1)")
	pgtest.Wait(t, 60*time.Second, "the row behind them arrives", func() bool { return target.Query("SELECT count(*) FROM up") == "1" })
	m.nothingMissing()
	m.cut(0, "fence")
	m.cut(0, "drain")
	m.cut(0, "open")
	if got := target.Query("SELECT (SELECT count(*) FROM pg_constraint WHERE conname = 'fk') || (SELECT string_agg(tgname || tgenabled::text, ' ') FROM pg_trigger WHERE tgrelid = 'up'::regclass) || (SELECT count(*) FROM pg_rewrite WHERE rulename = 'ru')"); got != "0offD0" {
		t.Errorf("the target has %s", got)
	}
}
