package main_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// acting is what acts on rows that are written to a schema made by hand, in all its states: on the
// source it has acted before.
const acting = `CREATE SCHEMA app;
	CREATE TABLE app.log (id int PRIMARY KEY, v text);
	CREATE TABLE app.doubled (id int PRIMARY KEY, v text);
	CREATE TABLE app."Swallowed ""2""" (id int PRIMARY KEY, v text);
	CREATE TABLE app.changed (id int PRIMARY KEY, v text);
	CREATE TABLE app.hidden (id int PRIMARY KEY, v text);
	CREATE TABLE app.parts (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
	CREATE TABLE app.parts_1 PARTITION OF app.parts FOR VALUES FROM (MINVALUE) TO (10);
	CREATE TABLE app.parts_2 PARTITION OF app.parts FOR VALUES FROM (10) TO (MAXVALUE);`

const acts = `SET search_path = app;
	CREATE RULE "Also it's" AS ON INSERT TO doubled DO ALSO INSERT INTO log VALUES (new.id + 1000, 'by the rule');
	CREATE RULE upd AS ON UPDATE TO doubled DO INSTEAD NOTHING;
	ALTER TABLE doubled ENABLE ALWAYS RULE upd;
	CREATE RULE del AS ON DELETE TO doubled DO INSTEAD NOTHING;
	ALTER TABLE doubled ENABLE REPLICA RULE del;
	CREATE RULE off AS ON INSERT TO "Swallowed ""2""" WHERE new.id = 3 DO INSTEAD NOTHING;
	ALTER TABLE "Swallowed ""2""" DISABLE RULE off;
	CREATE RULE swallow AS ON INSERT TO "Swallowed ""2""" DO INSTEAD NOTHING;
	ALTER TABLE "Swallowed ""2""" ENABLE ALWAYS RULE swallow;
	CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := TG_NAME; RETURN NEW; END $$;
	CREATE TRIGGER origin BEFORE INSERT ON changed FOR EACH ROW EXECUTE FUNCTION other();
	CREATE TRIGGER always BEFORE UPDATE ON changed FOR EACH ROW EXECUTE FUNCTION other();
	CREATE TRIGGER replica BEFORE INSERT ON changed FOR EACH ROW EXECUTE FUNCTION other();
	CREATE TRIGGER never BEFORE INSERT ON changed FOR EACH ROW EXECUTE FUNCTION other();
	ALTER TABLE changed ENABLE ALWAYS TRIGGER always, ENABLE REPLICA TRIGGER replica, DISABLE TRIGGER never;
	CREATE TRIGGER whole BEFORE INSERT OR UPDATE ON parts FOR EACH ROW EXECUTE FUNCTION other();
	ALTER TABLE parts_1 ENABLE ALWAYS TRIGGER whole;
	ALTER TABLE parts_2 DISABLE TRIGGER whole;
	ALTER TABLE hidden ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
	CREATE POLICY none ON hidden FOR SELECT USING (false);
	REVOKE ALL ON FUNCTION other() FROM PUBLIC`

// states says in which state all of it is.
const states = `SELECT string_agg(x, ' ' ORDER BY x) FROM (SELECT tgrelid::regclass::text || '.' || tgname || '=' || tgenabled::text FROM pg_trigger WHERE NOT tgisinternal
	UNION ALL SELECT ev_class::regclass::text || '.' || rulename || '=' || ev_enabled::text FROM pg_rewrite WHERE ev_class::regclass::text LIKE 'app.%'
	UNION ALL SELECT oid::regclass::text || '=' || relrowsecurity || relforcerowsecurity FROM pg_class WHERE relnamespace = 'app'::regnamespace AND relkind IN ('r', 'p')) s(x)`

// fenced closes the source, although the schemas differ: they were made by hand.
const fenced = `allow=$(pgcutover missing --slot "$1" 2>/dev/null | awk '/^[a-z0-9]/ && length($1) == 8 { printf " --allow-missing %s", $1 }') || true; pgcutover fence --slot "$1" $allow`

// restricted makes a role that owns the target's database and has no other right.
func restricted(target *pgtest.DB) (role string) {
	role = "restricted_" + target.Name
	target.Exec("CREATE ROLE "+role+" LOGIN", "ALTER DATABASE "+target.Name+" OWNER TO "+role, "GRANT ALL ON SCHEMA public TO "+role)
	return role
}

// Triggers, rules and row level security of a schema made by hand wait for the cutover, and are
// then what they were: whoever applies, however it ends, and whatever was interrupted.
func TestActingWaits_C8_C25(t *testing.T) {
	if pgtest.Source(t).Major < 13 || pgtest.Target(t).Major < 13 {
		t.Skip("partitioned tables have BEFORE triggers for rows from PostgreSQL 13 on")
	}
	for _, c := range []struct {
		super bool
		end   string
	}{{false, "cutover"}, {false, "cleanup"}, {true, "cutover"}} {
		t.Run(fmt.Sprintf("super=%v,%s", c.super, c.end), func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Pair(t)
			slot := source.Name
			source.Exec(acting, `INSERT INTO app.log VALUES (1, 'x'); INSERT INTO app.doubled SELECT g, 'x' FROM generate_series(1, 9) g; INSERT INTO app."Swallowed ""2""" SELECT g, 'x' FROM generate_series(1, 9) g;
				INSERT INTO app.changed SELECT g, 'x' FROM generate_series(1, 9) g; INSERT INTO app.hidden SELECT g, 'x' FROM generate_series(1, 9) g; INSERT INTO app.parts SELECT g, 'x' FROM generate_series(1, 19) g`)
			e := pgtest.NewEnv(t, source, target)
			role := restricted(target)
			target.Exec("SET ROLE "+role+"; "+acting, "SET ROLE "+role+"; "+acts)
			if !c.super {
				e.Target = target.As(role, "")
			}
			before := target.Query(states)
			changes := func(n int) {
				for _, table := range []string{"log", "doubled", `"Swallowed ""2"""`, "changed", "hidden", "parts"} {
					source.Exec(fmt.Sprintf("INSERT INTO app.%s SELECT g, 'y' FROM generate_series(%d, %[2]d + 5) g; UPDATE app.%[1]s SET v = 'z%[2]d' WHERE id IN (1, 2, 15); DELETE FROM app.%[1]s WHERE id = 3", table, n))
				}
			}
			equal := func() {
				t.Helper()
				// As a superuser reads it, whom no policy binds.
				pgtest.Equal(t, source, target)
			}
			loadInto(t, e, nil, "--slot", slot, "--data-only")
			equal()
			changes(100)
			e.Bash("pgdecode --slot " + slot + " --until now | pgapply >/dev/null")
			equal()
			// A second time, and with a table loaded again in between.
			loadInto(t, e, nil, "--slot", slot, "--data-only", "--table", "app.hidden", "--reload")
			changes(200)
			e.Bash("pgdecode --slot " + slot + " --until now | pgapply >/dev/null")
			equal()
			if c.end == "cutover" {
				// The owner's code is not the role's to call, and need not be.
				e.Bash(fenced+`; pgdecode --slot "$1" | pgapply >/dev/null & sync=$!
					pgcutover drain --slot "$1"; pgcutover open --slot "$1"; wait $sync || true; pgcutover unfence --force --slot "$1"`, slot)
			} else {
				e.Bash("pgcutover cleanup --force --slot " + slot)
			}
			if after := target.Query(states); after != before {
				t.Errorf("it is not what it was:\n%s\n%s", before, after)
			}
		})
	}
}

// What a role may not make wait is refused before anything is written, with the statement that
// helps.
func TestActingNotOurs_C8_C25(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	slot := source.Name
	const tables = "CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE log (v text); CREATE TABLE secret (id int PRIMARY KEY, v text);"
	source.Exec(tables, "INSERT INTO a VALUES (1, 'x')", "INSERT INTO secret VALUES (1, 'x')")
	role, owner := restricted(target), "owner_"+target.Name
	target.Exec("CREATE ROLE "+owner, "GRANT ALL ON SCHEMA public TO "+owner, "SET ROLE "+owner+"; "+tables+
		"CREATE RULE r AS ON INSERT TO a DO ALSO INSERT INTO log VALUES (new.v); GRANT ALL ON ALL TABLES IN SCHEMA public TO "+role+
		"; ALTER TABLE secret ENABLE ROW LEVEL SECURITY")
	e := pgtest.NewEnv(t, source, target)
	e.Target = target.As(role, "")
	_, said, _, status := pipe(e, nil, []string{"--slot", slot, "--data-only"})
	if status != 77 || target.Query("SELECT (SELECT count(*) FROM a) + (SELECT count(*) FROM log) + (SELECT count(*) FROM secret)") != "0" {
		t.Fatalf("status %d\n%s", status, said)
	}
	_, grant, _ := strings.Cut(said, "As superuser on the target: ")
	grant, _, _ = strings.Cut(grant, ";")
	target.Exec(grant)
	loadInto(t, e, nil, "--slot", slot, "--data-only", "--resume")
	source.Exec("INSERT INTO a VALUES (2, 'y')", "INSERT INTO secret VALUES (2, 'y')")
	e.Bash("pgdecode --slot " + slot + " --until now | pgapply >/dev/null")
	pgtest.Equal(t, source, target)
}

// The source's own schema, with policies that bind its owner: sync of a role without superuser goes
// on, and the policy is there in the end.
func TestForcedSecurity_C8(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	slot := source.Name
	role := restricted(target)
	source.Exec("CREATE TABLE secret (id int PRIMARY KEY, v text)",
		"INSERT INTO secret SELECT g, 'x' FROM generate_series(1, 20) g",
		"ALTER TABLE secret ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
		"CREATE POLICY few ON secret USING (id < 5)")
	e := pgtest.NewEnv(t, source, target)
	e.Target = target.As(role, "")
	loadInto(t, e, nil, "--slot", slot, "--no-owner", "--no-acl")
	source.Exec("INSERT INTO secret VALUES (100, 'y')", "UPDATE secret SET v = 'z' WHERE id > 10", "DELETE FROM secret WHERE id IN (1, 12)")
	e.Bash("pgdecode --slot " + slot + " --until now | pgapply >/dev/null")
	pgtest.Equal(t, source, target)
	// A load of it again meets the policy, too.
	loadInto(t, e, nil, "--slot", slot, "--no-owner", "--no-acl", "--table", "public.secret", "--reload")
	e.Bash(fenced+`; pgdecode --slot "$1" | pgapply >/dev/null & sync=$!
		pgcutover drain --slot "$1"; pgcutover open --slot "$1"; wait $sync || true`, slot)
	// Now the policy hides rows from the role. What cannot be seen is neither equal nor different.
	status, out, errs := e.Run(nil, "pgcutover", "verify", "--slot", slot)
	if status != 78 || !strings.Contains(string(out), "unverified\tpublic.secret\t") ||
		!strings.Contains(errs, "ALTER ROLE \""+role+"\" BYPASSRLS;") {
		t.Errorf("verify under a policy: status %d\n%s\n%s", status, out, errs)
	}
	if out := e.Must(nil, "pgcutover", "status", "--slot", slot, "--get", "verified"); string(out) != "none\n" {
		t.Errorf("verified: %q", out)
	}
	target.Exec(`ALTER ROLE "` + role + `" BYPASSRLS`)
	if status, out, errs := e.Run(nil, "pgcutover", "verify", "--slot", slot); status != 0 {
		t.Errorf("verify: status %d\n%s\n%s", status, out, errs)
	}
	e.Bash(`pgcutover unfence --force --slot "$1"`, slot)
	pgtest.Equal(t, source, target)
	if got := target.Query("SELECT relrowsecurity AND relforcerowsecurity FROM pg_class WHERE relname = 'secret'"); got != "t" {
		t.Error("row level security is not what it was")
	}
}

// Statements that are recorded during sync make, change and drop what acts: it waits in the state
// that it was given last.
func TestActingRecorded_C25(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	slot := source.Name
	source.Exec("CREATE TABLE a (id int PRIMARY KEY, v text)", "CREATE TABLE b (id int PRIMARY KEY, v text)",
		"CREATE TABLE log (id int PRIMARY KEY, v text)",
		"CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := NEW.v || '!'; RETURN NEW; END $$")
	e := pgtest.NewEnv(t, source, target)
	e.Must(nil, "pgcutover", "ddl", "install")
	loadInto(t, e, nil, "--slot", slot)
	sync := func() {
		t.Helper()
		e.Bash("pgdecode --slot " + slot + " --until now | pgapply >/dev/null")
		pgtest.Equal(t, source, target)
	}
	source.Exec("CREATE TRIGGER always BEFORE INSERT ON a FOR EACH ROW EXECUTE PROCEDURE other()",
		"ALTER TABLE a ENABLE ALWAYS TRIGGER always",
		"CREATE TRIGGER gone BEFORE INSERT ON b FOR EACH ROW EXECUTE PROCEDURE other()", "ALTER TABLE b ENABLE ALWAYS TRIGGER gone",
		"CREATE RULE also AS ON INSERT TO b DO ALSO INSERT INTO log VALUES (new.id, new.v)", "ALTER TABLE b ENABLE ALWAYS RULE also",
		"INSERT INTO a VALUES (1, 'x')", "INSERT INTO b VALUES (1, 'x')")
	sync()
	source.Exec("ALTER TABLE a DISABLE TRIGGER always", "DROP TRIGGER gone ON b",
		"ALTER TABLE b ENABLE RULE also", "ALTER TABLE b ENABLE ALWAYS RULE also",
		"INSERT INTO a VALUES (2, 'x')", "INSERT INTO b VALUES (2, 'x')")
	sync()
	e.Bash(fenced+`; pgdecode --slot "$1" | pgapply >/dev/null & sync=$!
		pgcutover drain --slot "$1"; pgcutover open --slot "$1"; wait $sync || true; pgcutover unfence --force --slot "$1"`, slot)
	pgtest.Equal(t, source, target)
	const states = `SELECT string_agg(x, ' ' ORDER BY x) FROM (SELECT tgname || '=' || tgenabled::text FROM pg_trigger WHERE tgrelid IN ('a'::regclass, 'b'::regclass) AND NOT tgisinternal
		UNION ALL SELECT rulename || '=' || ev_enabled::text FROM pg_rewrite WHERE ev_class = 'b'::regclass) s(x)`
	if a, b := source.Query(states), target.Query(states); a != b {
		t.Errorf("on the source %s, on the target %s", a, b)
	}
}
