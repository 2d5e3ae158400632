package main

import (
	"regexp"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Policies of the referenced table hold for its owner, too: finish says that they stand in the way
// of its foreign keys, and what it prints makes them valid, by the owner as by a superuser.
func TestForcedForeignKey_C6(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	app, mover := "app_"+source.Name, "mover_"+source.Name
	source.Exec("CREATE ROLE " + app)
	t.Cleanup(func() {
		source.Exec("BEGIN READ WRITE; DROP OWNED BY " + app + " CASCADE; DROP ROLE " + app + "; COMMIT")
	})
	target.Exec("CREATE ROLE "+app+" LOGIN", "CREATE ROLE "+mover+" LOGIN", "GRANT "+app+" TO "+mover, "ALTER DATABASE "+target.Name+" OWNER TO "+mover)
	t.Cleanup(func() {
		target.Exec("ALTER DATABASE "+target.Name+" OWNER TO postgres", "DROP OWNED BY "+app+", "+mover+" CASCADE", "DROP ROLE "+app+", "+mover)
	})
	source.Exec("CREATE SCHEMA app AUTHORIZATION "+app, "SET ROLE "+app+`; SET search_path = app; CREATE TABLE "p'1" (id int PRIMARY KEY); CREATE TABLE p2 (id int PRIMARY KEY); CREATE TABLE plain (id int PRIMARY KEY);
		CREATE TABLE "c'1" (id int PRIMARY KEY, a int CONSTRAINT "to'p1" REFERENCES "p'1", b int CONSTRAINT fine REFERENCES plain); CREATE TABLE c2 (id int PRIMARY KEY, a int CONSTRAINT top2 REFERENCES p2);
		INSERT INTO "p'1" VALUES (1); INSERT INTO p2 VALUES (1); INSERT INTO plain VALUES (1); INSERT INTO "c'1" VALUES (1, 1, 1); INSERT INTO c2 VALUES (1, 1);
		ALTER TABLE "p'1" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY p ON "p'1" USING (false); ALTER TABLE p2 ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; ALTER TABLE c2 ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY`)
	m := &migration{source: source, target: target, slot: "mig_" + source.Name, Env: pgtest.NewEnv(t, source, target)}
	m.Env.Target = target.As(mover, "")
	m.load()
	for _, verb := range []string{"fence", "drain", "open"} {
		m.cut(0, verb)
	}
	const valid = "SELECT string_agg(conname, ' ' ORDER BY conname) FROM pg_constraint WHERE contype = 'f' AND convalidated AND connamespace = 'app'::regnamespace"
	const forced = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relforcerowsecurity"
	if got := target.Query(forced); got != "c2 p'1 p2" {
		t.Errorf("after open, row level security is forced for %s", got)
	}
	_, errs := m.cut(77, "finish")
	says(t, errs, "to'p1", "top2", "app.p2", "finish --slot")
	if got := target.Query(valid); got != "fine" {
		t.Errorf("valid are %s", got)
	}
	hint := errs[strings.Index(errs, "hint:"):]
	// One of them by a superuser, all of them by the owner.
	for _, sql := range regexp.MustCompile("ALTER TABLE ONLY app.c2 VALIDATE CONSTRAINT [^;]*;").FindAllString(hint, 1) {
		target.Exec(sql)
	}
	_, errs = m.cut(77, "finish")
	sql := regexp.MustCompile("BEGIN; .* COMMIT;").FindString(errs)
	if _, err := (&pgtest.DB{Server: target.Server, Name: target.Name, URI: m.Env.Target}).Try(sql); err != nil {
		t.Errorf("%v: %s", err, sql)
	}
	m.cut(0, "finish")
	if got := target.Query(valid); got != "fine to'p1 top2" {
		t.Errorf("valid are %s", got)
	}
	if got := target.Query(forced); got != "c2 p'1 p2" {
		t.Errorf("row level security is forced for %s", got)
	}
}
