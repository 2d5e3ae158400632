package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// oldSchema has what 9.6 can have, and other names than usual.
const oldSchema = `SET ROLE app_owner; CREATE SCHEMA app;
	CREATE TABLE app.t (id bigserial PRIMARY KEY, v text); CREATE TABLE app.child (id int PRIMARY KEY REFERENCES app.t);
	CREATE TABLE app."Odd ""name" ("a b" int PRIMARY KEY, n numeric, b bytea, z timestamptz DEFAULT now(), list text[], big text);
	CREATE TABLE app.whole (a int, b text); ALTER TABLE app.whole REPLICA IDENTITY FULL;
	CREATE TABLE app.parent (id int PRIMARY KEY, k text); CREATE TABLE app.kid (PRIMARY KEY (id)) INHERITS (app.parent);
	CREATE TABLE public.log (line text); CREATE TABLE app.bare (); INSERT INTO app.bare DEFAULT VALUES; CREATE SEQUENCE app.down INCREMENT -3 START -3 MINVALUE -900 CACHE 1 CYCLE;
	CREATE FUNCTION app.stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v := NEW.v || ''!''; RETURN NEW; END';
	CREATE VIEW app.w AS SELECT * FROM app.t; CREATE MATERIALIZED VIEW app.m AS SELECT count(*) FROM app.t; GRANT SELECT ON app.t TO reader;
	INSERT INTO app.t (v) SELECT 'v' FROM generate_series(1, 500) g; INSERT INTO app.child SELECT g FROM generate_series(1, 100) g; REFRESH MATERIALIZED VIEW app.m;
	INSERT INTO app."Odd ""name" SELECT g, g / 3.0, decode(md5(g::text), 'hex'), '2020-02-02 02:02:02.5+01', ARRAY['a', NULL, E'b"\\''c'], repeat(md5(g::text), 200) FROM generate_series(1, 60) g;
	CREATE TRIGGER stamp BEFORE INSERT ON app.t FOR EACH ROW EXECUTE PROCEDURE app.stamp();
	ALTER TABLE app.t ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON app.t TO reader USING (id > 3); SELECT lo_from_bytea(0, 'abc'), nextval('app.down')`

// oldPair starts a server of 9.6 and one of another version, with the roles of an application, and
// a role of pgsluice on each side. Sessions use TLS and passwords.
func oldPair(t *testing.T, major int, schema string) (e *pgtest.Env, source, target *pgtest.DB) {
	t.Helper()
	settings, certificate := pgtest.TLS(t)
	source, target = pgtest.Old(t, settings...).Database(t, ""), pgtest.Start(t, major, settings...).Database(t, "")
	for _, d := range []*pgtest.DB{source, target} {
		d.URI = strings.Replace(d.URI, "sslmode=disable", "sslmode=verify-full&sslrootcert="+certificate, 1)
		d.Exec("CREATE ROLE app_owner; CREATE ROLE app LOGIN PASSWORD 'x'; GRANT app_owner TO app; CREATE ROLE reader; ALTER DATABASE " + d.Name + " OWNER TO app_owner; REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT ALL ON SCHEMA public TO app_owner")
	}
	source.Exec(schema)
	e = pgtest.NewEnv(t, source, target)
	e.LeastPrivilege(source, target, "mover")
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("ALTER ROLE mover PASSWORD 'Secret 1'")
		d.AskPasswords(t)
	}
	e.Source, e.Target = source.As("mover", "Secret%201"), target.As("mover", "Secret%201")
	return e, source, target
}

// A whole migration from 9.6, with roles of no more rights than needed: there is no way back, which
// check says before.
func TestOld(t *testing.T) {
	t.Parallel()
	e, source, target := oldPair(t, 0, oldSchema)
	status, out, errs := e.Run(nil, "pgcutover", "check", "--slot", "mig")
	for _, want := range []string{"[source-version]", "[output-plugin]", "[way-back]", "[truncate-not-decoded]"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("check does not report %s", want)
		}
	}
	if status != 1 || strings.Contains(string(out), "not-examined") {
		t.Fatalf("check: status %d\n%s\n%s", status, out, errs)
	}
	if status, _, errs := e.Run(nil, "pgextract", "--slot", "mig", "--plugin", "pgoutput"); status != 78 || !strings.Contains(errs, "no output plugin pgoutput") {
		t.Errorf("pgoutput: status %d, %s", status, errs)
	}
	e.Bash("pgextract --slot mig | pgapply; pgcutover missing --slot mig")
	source.Exec("INSERT INTO app.t (v) VALUES ('more')")
	e.Bash("pgextract --slot mig --table app.t --reload | pgapply")
	e.Bash("pgextract --slot mig --resume | pgapply")
	sync := e.Start(nil, nil, "bash", script("sync"), "mig")
	source.Exec("INSERT INTO app.t (v) SELECT 'new' FROM generate_series(1, 50); UPDATE app.t SET v = 'b' WHERE id < 10; DELETE FROM app.child WHERE id = 2; INSERT INTO public.log VALUES ('x')",
		`UPDATE app."Odd ""name" SET n = n + 1, z = z + '1 day' WHERE "a b" % 3 = 0; DELETE FROM app."Odd ""name" WHERE "a b" = 7; UPDATE app."Odd ""name" SET "a b" = 1000 WHERE "a b" = 8`,
		"INSERT INTO app.whole VALUES (1, 'a'), (1, 'a'), (NULL, 'x'); DELETE FROM app.whole WHERE ctid = '(0,1)'; INSERT INTO app.parent VALUES (1, 'p'); INSERT INTO app.kid VALUES (2, 'k'); UPDATE app.parent SET k = k || '!'",
		"SELECT nextval('app.down'), nextval('app.down')")
	app, err := pgx.Connect(pgtest.Context(t), source.As("app", "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close(pgtest.Context(t))
	e.Bash("pgcutover wait caught-up --timeout 60s --slot mig; pgcutover status --slot mig; pgcutover rehearse --slot mig")
	status, _, errs = e.Run(nil, "bash", script("cutover"), "mig", "--yes")
	if status != 0 || !strings.Contains(errs, "as with --no-reverse") || !strings.Contains(errs, "all tables are equal") {
		t.Fatalf("cutover: status %d\n%s\nsync: %s", status, errs, sync.Errors())
	}
	if status := sync.Wait(soon); status != 0 {
		t.Errorf("sync: status %d, %s", status, sync.Errors())
	}
	source.Exec("BEGIN READ WRITE; REFRESH MATERIALIZED VIEW app.m; COMMIT")
	pgtest.Equal(t, source, target)
	if err := app.Ping(pgtest.Context(t)); err == nil {
		t.Error("the application's session has outlived the fence")
	}
	if s := target.Query("SELECT nextval('app.down'), nextval('app.t_id_seq')"); s != "-12\t552" {
		t.Errorf("the sequences go on with %s", s)
	}
	if status, _, errs := e.Run(nil, "pgcutover", "watch", "--slot", "mig"); status != 0 {
		t.Errorf("watch: status %d, %s", status, errs)
	}
	e.Bash("pgcutover cleanup --slot mig")
	if s := source.Query("SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_namespace WHERE nspname = 'pgsluice')"); s != "0" {
		t.Error("something is left on the source")
	}
	source.Exec("BEGIN READ WRITE")
	e.DropLeastPrivilege(source, target, "mover")
}

// Nobody sees what a superuser's session does on 9.6: check and the fence name it, until somebody
// vouches for the superuser.
func TestOldSuperuser(t *testing.T) {
	t.Parallel()
	e, source, _ := oldPair(t, 0, "CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t OWNER TO app_owner")
	e.Bash("pgextract --slot mig | pgapply")
	source.Connect()
	for _, args := range [][]string{{"check"}, {"fence", "--check"}} {
		args = append(args, "--slot", "mig")
		if status, out, errs := e.Run(nil, "pgcutover", args...); status != 78 || !strings.Contains(string(out)+errs, "role postgres") {
			t.Errorf("%s: status %d\n%s%s", args, status, out, errs)
		}
		if status, out, errs := e.Run(nil, "pgcutover", append(args, "--trust", "postgres")...); status > 1 {
			t.Errorf("%s --trust: status %d\n%s%s", args, status, out, errs)
		}
	}
}

// A cutover that fails gives a source of 9.6 back as it was.
func TestOldUnfence(t *testing.T) {
	t.Parallel()
	e, source, _ := oldPair(t, 0, "CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t OWNER TO app_owner; INSERT INTO t VALUES (1)")
	before := "SELECT coalesce(datacl, acldefault('d', datdba)), (SELECT count(*) FROM pg_db_role_setting) FROM pg_database WHERE datname = current_database()"
	was := source.Query(before)
	e.Bash("pgextract --slot mig | pgapply")
	sync := e.Start(nil, nil, "bash", script("sync"), "mig")
	e.Bash("pgcutover wait caught-up --timeout 60s --slot mig; pgcutover prepare --slot mig; pgcutover fence --slot mig; pgcutover drain --slot mig")
	if _, err := source.Try("INSERT INTO t VALUES (2)"); err == nil {
		t.Error("the source is not closed")
	}
	e.Bash("pgcutover unfence --slot mig")
	source.Exec("INSERT INTO t VALUES (3)")
	if now := source.Query(before); now != was {
		t.Errorf("the database was %s and is %s", was, now)
	}
	_ = sync.Process.Signal(os.Interrupt)
	sync.Wait(soon)
	e.Bash("pgcutover cleanup --force --slot mig")
	if s := source.Query("SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_namespace WHERE nspname = 'pgsluice')"); s != "0" {
		t.Error("something is left on the source")
	}
}

// older are the words of older versions for what the sample database has since a version.
var older = []struct {
	since int
	from  *regexp.Regexp
	to    string
}{
	{10, regexp.MustCompile(`int GENERATED (?:ALWAYS|BY DEFAULT) AS IDENTITY(?: \(.*?\))? PRIMARY KEY`), "serial PRIMARY KEY"},
	{10, regexp.MustCompile(` AS smallint MAXVALUE`), " MAXVALUE"},
	{10, regexp.MustCompile(`- '\{synopsis,poster,search\}'::text\[\]`), "- 'synopsis'::text - 'poster'::text - 'search'::text"},
	{11, regexp.MustCompile(`\) PARTITION BY RANGE \(paid_at\);`), ");"},
	{11, regexp.MustCompile(`CREATE TABLE shop.payments_other .*`), ""},
	{11, regexp.MustCompile(`DO \$\$\nDECLARE\n    month(?s:.*?)END \$\$;`), "ALTER SEQUENCE shop.rentals_id_seq INCREMENT 2 START 2 RESTART 2;"},
	{11, regexp.MustCompile(`EXECUTE FUNCTION`), "EXECUTE PROCEDURE"},
	{11, regexp.MustCompile(`hashint8extended\(\$1, \$2\)`), "hashint8($1 + 7919 * $2)"},
	{12, regexp.MustCompile(`GENERATED ALWAYS AS \(.*\) STORED`), ""},
}

// sampleOf returns the sample database for a version.
func sampleOf(t *testing.T, major int) string {
	t.Helper()
	var sql strings.Builder
	for _, name := range []string{"schema.sql", "data.sql"} {
		text, err := os.ReadFile(filepath.Join(pgtest.Root(), "scripts", "sample", name))
		if err != nil {
			t.Fatal(err)
		}
		sql.Write(text)
	}
	s := sql.String()
	for _, o := range older {
		if major >= o.since {
			continue
		}
		if !o.from.MatchString(s) {
			t.Fatalf("the sample database has nothing like %v", o.from)
		}
		s = o.from.ReplaceAllLiteralString(s, o.to)
	}
	return "BEGIN;" + s + "; REVOKE ALL ON SCHEMA shop FROM PUBLIC; COMMIT"
}

// The sample database under its application, from 9.6 to two newer versions.
func TestOldSample(t *testing.T) {
	pgtest.Slow(t)
	for _, major := range []int{15, 18} {
		e, source, target := oldPair(t, major, "SET ROLE app_owner; "+sampleOf(t, 9))
		e.Bash("pgextract --slot mig | pgapply")
		sync := e.Start(nil, nil, "bash", script("sync"), "mig")
		uri := filepath.Join(t.TempDir(), "uri")
		if err := os.WriteFile(uri, []byte(source.As("app", "x")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		write := e.Start(nil, nil, "bash", script("sample/write"), uri, "--rate", "60", "--clients", "3")
		e.Bash("pgcutover wait caught-up --timeout 120s --slot mig")
		pgtest.Wait(t, soon, "the application writes", func() bool {
			return target.Query("SELECT count(*) > 400 FROM log.changes WHERE at > '2026-09-01'") == "t"
		})
		status, _, errs := e.Run(nil, "bash", script("cutover"), "mig", "--yes", "--switch", "echo '"+target.As("app", "x")+"' > '"+uri+"'")
		t.Log(errs)
		if status != 0 || !strings.Contains(errs, "all tables are equal") {
			t.Fatalf("cutover: status %d\nsync: %s", status, sync.Errors())
		}
		_ = write.Process.Signal(os.Interrupt)
		write.Wait(soon)
		if status := sync.Wait(soon); status != 0 {
			t.Errorf("sync: status %d, %s", status, sync.Errors())
		}
		e.Bash("pgcutover cleanup --slot mig")
	}
}
