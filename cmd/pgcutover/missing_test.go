package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

type line struct {
	ID, Kind, Name, Problem, Class, Cause, Remedy string
	SQL                                           []string
	Allowed                                       bool
}

// missing returns the ledger, and fails the test unless pgcutover missing ends as it has to.
func (m *migration) missing() (lines []line) {
	m.T.Helper()
	status, out, errs := m.Run(nil, "pgcutover", "missing", "--json", "--slot", m.slot)
	if err := json.Unmarshal(out, &lines); err != nil {
		m.T.Fatalf("%v: %s%s", err, out, errs)
	}
	blocking := 0
	for _, l := range lines {
		if !l.Allowed {
			blocking++
		}
	}
	if status != min(blocking, 1) {
		m.T.Fatalf("exit status %d with %d lines\n%s", status, blocking, errs)
	}
	return lines
}

// nothingMissing fails the test unless the ledger is empty.
func (m *migration) nothingMissing() {
	m.T.Helper()
	for _, l := range m.missing() {
		m.T.Errorf("%s %s %s: %s; %s", l.Problem, l.Kind, l.Name, l.Cause, l.Remedy)
	}
	if got, _ := m.cut(0, "status", "--get", "missing.count"); got != "0\n" {
		m.T.Errorf("status has %s missing", got)
	}
}

// mend executes what pgcutover missing --sql prints.
func (m *migration) mend() {
	m.T.Helper()
	out, _ := m.cut(1, "missing", "--sql")
	if _, err := m.target.Try(out); err != nil {
		m.T.Fatalf("%v\n%s", err, out)
	}
}

func named(lines []line, name string) *line {
	for i := range lines {
		if lines[i].Name == name {
			return &lines[i]
		}
	}
	return nil
}

// What the source's schema becomes after the load, without ddl install, is named before the source
// is closed, and the statements that are printed make the target the same.
func TestSchemaDrift_C5(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	m := begin(t, source, target)
	source.Exec(`CREATE TABLE "It's" ("Old ""one" int, kept text DEFAULT 'a')`,
		"CREATE TYPE mood AS ENUM ('good')", "CREATE VIEW shown AS SELECT id FROM customer",
		"CREATE TABLE policed (a int)", "ALTER TABLE policed ENABLE ROW LEVEL SECURITY",
		"CREATE POLICY p ON policed USING (a > 0)", "CREATE DOMAIN positive AS int CHECK (VALUE > 0)")
	m.load()
	m.nothingMissing()
	nothing := target.Query("SELECT result FROM pgsluice.comparisons")
	source.Exec(`CREATE UNIQUE INDEX "drift index" ON customer (name)`,
		`ALTER TABLE "It's" DROP COLUMN "Old ""one"`,
		`ALTER TABLE "It's" ADD COLUMN fresh numeric(5,2) DEFAULT 1 NOT NULL`,
		`ALTER TABLE "Order" ADD CONSTRAINT positive CHECK (id > 0)`,
		"CREATE VIEW drift_view AS SELECT 1 AS x",
		"CREATE FUNCTION drift() RETURNS int LANGUAGE sql AS 'SELECT 1'",
		"REVOKE EXECUTE ON FUNCTION drift() FROM PUBLIC", "ALTER TYPE mood ADD VALUE 'it''s bad'",
		"CREATE SEQUENCE drift_seq START 77", `ALTER TABLE customer ALTER COLUMN name SET NOT NULL`,
		"CREATE SCHEMA drift", "CREATE TYPE drift.pair AS (a int, b text)",
		"CREATE DOMAIN drift.small AS int CHECK (VALUE < 10)",
		"COMMENT ON TABLE log IS 'lines; of a ''log'''",
		"CREATE TRIGGER later BEFORE UPDATE ON customer FOR EACH ROW EXECUTE PROCEDURE stamp()",
		"CREATE STATISTICS drift_stats ON id, customer FROM \"Order\"",
		"CREATE RULE drift_rule AS ON DELETE TO policed DO INSTEAD NOTHING",
		"CREATE POLICY q ON policed FOR SELECT USING (a > 1)", "ALTER TABLE policed FORCE ROW LEVEL SECURITY",
		"CREATE MATERIALIZED VIEW drift_mv AS SELECT 1 AS a",
		"ALTER DOMAIN positive ADD CONSTRAINT small CHECK (VALUE < 100)",
		"ALTER FUNCTION stamp() COST 77")
	counted, _ := m.cut(0, "status", "--get", "missing.count")
	lines := m.missing()
	if counted != fmt.Sprintf("%d\n", len(lines)) {
		t.Errorf("status has %s missing, not %d", counted, len(lines))
	}
	for _, name := range []string{"public.customer.drift index", `public.It's.Old "one`, "public.It's.fresh",
		"public.Order.positive", "public.drift_view", "public.drift()", "public.mood", "public.drift_seq",
		"public.customer.name", "drift", "drift.pair", "drift.small", "public.log", "public.customer.later",
		"public.drift_stats", "public.policed.drift_rule", "public.policed.q", "public.policed",
		"public.drift_mv",
		"public.positive.small", "public.stamp()"} {
		if named(lines, name) == nil {
			t.Errorf("%s is not named", name)
		}
	}
	if l := named(lines, "public.customer.drift index"); l != nil && l.Class != "integrity" {
		t.Errorf("%+v", l)
	}
	_, errs := m.cut(78, "fence")
	says(t, errs, "drift index", "pgcutover missing")
	source.Exec("INSERT INTO log VALUES ('open')") // nothing was changed
	// status keeps the comparison. Whatever is kept, the other commands compare again.
	for kept, want := range map[string]string{nothing: "0\n", `\x01`: counted} {
		target.Exec("UPDATE pgsluice.comparisons SET result = '" + kept + "'")
		if got, _ := m.cut(0, "status", "--get", "missing.count"); got != want {
			t.Errorf("with %.20s kept, status has %s missing, not %s", kept, got, want)
		}
		target.Exec("UPDATE pgsluice.comparisons SET result = '" + nothing + "'")
		_, errs = m.cut(78, "fence")
		says(t, errs, "drift index")
	}
	if got, _ := m.cut(0, "status", "--get", "missing.count"); got != counted {
		t.Errorf("status has %s missing, not %s", got, counted)
	}
	target.Exec("GRANT DELETE ON log TO PUBLIC")
	if got, _ := m.cut(0, "status", "--get", "missing.count"); got == counted {
		t.Errorf("status has %s missing after a change of the target", got)
	}
	target.Exec("REVOKE DELETE ON log FROM PUBLIC")
	m.mend()
	m.nothingMissing()
	m.cut(0, "fence")
	m.cut(0, "drain")
	m.cut(0, "open")
	m.cut(0, "verify")
	m.cut(0, "finish")
	m.cut(0, "cleanup")
}

// What only its own server can compare is compared with what it was at the load; what the source
// has dropped is named; what both sides have changed alike is no difference.
func TestDefinitionDrift_C5(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	m := begin(t, source, target)
	source.Exec("CREATE VIEW shown AS SELECT id, name FROM customer", "CREATE VIEW gone AS SELECT 1 AS x",
		"CREATE TABLE d (a int DEFAULT 1, b text CHECK (b IN ('x', 'y')), c varchar(5) CONSTRAINT c CHECK (c IN ('x', 'y')))",
		"CREATE INDEX partly ON d (a) WHERE a > 0", "CREATE INDEX gone_index ON d (b)",
		"CREATE TABLE alike (a int DEFAULT 1)", "CREATE RULE r AS ON DELETE TO d DO INSTEAD NOTHING",
		"CREATE SEQUENCE gone_seq", "CREATE DOMAIN dom AS int DEFAULT 1",
		"CREATE FUNCTION with_default(a int DEFAULT 1) RETURNS int LANGUAGE sql AS 'SELECT 1'")
	m.load()
	m.nothingMissing()
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("ALTER TABLE alike ALTER COLUMN a SET DEFAULT 2", "ALTER TABLE alike ADD COLUMN b int", "CREATE VIEW also AS SELECT 1 AS x")
	}
	m.nothingMissing()
	source.Exec("CREATE OR REPLACE VIEW shown AS SELECT id, upper(name) AS name FROM customer",
		"DROP VIEW gone", "ALTER TABLE d ALTER COLUMN a SET DEFAULT 7", "ALTER TABLE d DROP CONSTRAINT c",
		"ALTER TABLE d ADD CONSTRAINT c CHECK (c IN ('x', 'z'))",
		"DROP INDEX partly", "CREATE INDEX partly ON d (a) WHERE a > 10", "DROP INDEX gone_index",
		"DROP SEQUENCE gone_seq", "ALTER DOMAIN dom SET DEFAULT 2", "ALTER TABLE d DROP COLUMN b",
		"CREATE OR REPLACE FUNCTION with_default(a int DEFAULT 5) RETURNS int LANGUAGE sql AS 'SELECT 1'")
	lines := m.missing()
	names := []string{"public.shown", "public.gone", "public.d.a", "public.d.c", "public.d.partly",
		"public.d.b", "public.gone_seq", "public.dom", "public.with_default(integer)"}
	for _, name := range names {
		if named(lines, name) == nil {
			t.Errorf("%s is not named", name)
		}
	}
	m.mend()
	m.nothingMissing()
}

// Servers since November 2026 keep an option of their own with each column, with another value on
// each server. An option that a user set stays a difference.
func TestColumnOptionOfServer_C5(t *testing.T) {
	source, target := pgtest.Pair(t)
	m := begin(t, source, target)
	source.Exec("CREATE TABLE o (a int, b int)")
	m.load()
	for number, d := range map[int]*pgtest.DB{7: source, 8: target} {
		d.Exec(fmt.Sprintf("UPDATE pg_attribute SET attoptions = '{n_distinct=5,pg_attver=%d}' WHERE attrelid = 'o'::regclass AND attname = 'a'", number))
	}
	m.nothingMissing()
	source.Exec("ALTER TABLE o ALTER b SET (n_distinct = 3)")
	if lines := m.missing(); len(lines) != 1 || lines[0].Name != "public.o.b" {
		t.Errorf("%+v", lines)
	}
}

// What the load was told to leave out is no difference, nor is how a schema was made by hand.
func TestSelectionIsNoDrift_C5(t *testing.T) {
	pgtest.Slow(t)
	t.Run("selection", func(t *testing.T) {
		source, target := pgtest.Pair(t)
		m := begin(t, source, target)
		role := "left_" + source.Name
		source.Exec("CREATE SCHEMA app", "CREATE TABLE app.a (id serial PRIMARY KEY)",
			"CREATE TABLE app.b (id serial PRIMARY KEY)", "CREATE ROLE "+role,
			"GRANT SELECT ON app.a TO "+role, "ALTER TABLE app.a OWNER TO "+role)
		t.Cleanup(func() { source.Exec("DROP OWNED BY "+role, "DROP ROLE "+role) })
		m.Bash("pgextract --slot " + m.slot + " --schema app --exclude-table app.b --no-owner --no-acl | pgapply")
		m.startSync()
		m.nothingMissing()
		source.Exec("CREATE VIEW seen AS SELECT 1 AS x", "ALTER TABLE app.b ADD COLUMN x int", "GRANT INSERT ON app.a TO PUBLIC")
		m.nothingMissing()
		source.Exec("CREATE INDEX late ON app.a ((id + 1))")
		if lines := m.missing(); len(lines) != 1 || lines[0].Name != "app.a.late" {
			t.Errorf("%+v", lines)
		}
	})
	t.Run("by hand", func(t *testing.T) {
		source, target := pgtest.Pair(t)
		m := begin(t, source, target)
		target.Exec(`CREATE TABLE customer (id bigserial PRIMARY KEY, note text, name text, more int)`,
			`CREATE TABLE "Order" (id serial PRIMARY KEY, customer bigint, at timestamptz, total numeric, ratio float8, ratios real[])`,
			"CREATE SEQUENCE apart", "CREATE TABLE log (line text)", "CREATE TABLE none ()",
			"CREATE TABLE event (id int NOT NULL, customer bigint)",
			"CREATE TABLE event_1 () INHERITS (event)", "CREATE TABLE event_2 () INHERITS (event)")
		m.Bash("pgextract --slot " + m.slot + " --data-only | pgapply")
		m.startSync()
		m.nothingMissing()
		source.Exec("CREATE UNIQUE INDEX late ON customer (name)")
		if lines := m.missing(); len(lines) != 1 || lines[0].Name != "public.customer.late" {
			t.Errorf("%+v", lines)
		}
	})
}

// A line that is named lets the cutover pass; the others hold it up.
func TestAllowMissing_C5(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	m := begin(t, source, target)
	m.load()
	source.Exec("CREATE VIEW one AS SELECT 1 AS x", "CREATE VIEW two AS SELECT 2 AS x")
	lines := m.missing()
	if len(lines) != 2 {
		t.Fatalf("%+v", lines)
	}
	again := m.missing()
	if again[0].ID != lines[0].ID {
		t.Errorf("the id was %s, and is %s", lines[0].ID, again[0].ID)
	}
	m.cut(78, "fence", "--allow-missing", lines[0].ID)
	if left := m.missing(); !left[0].Allowed && !left[1].Allowed || left[0].Allowed && left[1].Allowed {
		t.Errorf("%+v", left)
	}
	m.cut(0, "fence", "--allow-missing", lines[1].ID)
	m.cut(0, "drain")
	m.cut(0, "open")
}

// A sequence is set by the column that it belongs to, or feeds, whatever it is called by then.
func TestSequencesByColumn_C4(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	m := begin(t, source, target)
	source.Exec("CREATE SCHEMA other", "CREATE TABLE a (id serial PRIMARY KEY, x int)",
		"CREATE TABLE b (id serial PRIMARY KEY, x int)", "CREATE SEQUENCE loose",
		"CREATE TABLE c (id int PRIMARY KEY DEFAULT nextval('loose'), x int)",
		"CREATE TABLE d (id serial PRIMARY KEY, x int)",
		"CREATE TABLE e (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, x int)")
	m.load()
	source.Exec("ALTER SEQUENCE a_id_seq RENAME TO spare", "ALTER SEQUENCE b_id_seq RENAME TO a_id_seq",
		"ALTER SEQUENCE loose RENAME TO tied", "ALTER SEQUENCE tied SET SCHEMA other",
		"ALTER SEQUENCE e_id_seq RENAME TO e_seq",
		"INSERT INTO a (x) SELECT g FROM generate_series(1, 10) g",
		"INSERT INTO b (x) SELECT g FROM generate_series(1, 20) g",
		"INSERT INTO c (x) SELECT g FROM generate_series(1, 30) g",
		"INSERT INTO e (x) SELECT g FROM generate_series(1, 50) g",
		// Another sequence takes a column over.
		"CREATE SEQUENCE d_new START 1000", "ALTER TABLE d ALTER COLUMN id SET DEFAULT nextval('d_new')",
		"DROP SEQUENCE d_id_seq", "INSERT INTO d (x) VALUES (1)")
	lines := m.missing()
	for _, name := range []string{"public.spare", "public.a_id_seq", "other.tied", "public.e_seq", "public.d_new"} {
		if named(lines, name) == nil {
			t.Errorf("%s is not named", name)
		}
	}
	m.cut(78, "fence")
	var allow []string
	for _, l := range lines {
		allow = append(allow, "--allow-missing", l.ID)
	}
	m.cut(0, append([]string{"fence"}, allow...)...)
	m.cut(0, "drain")
	m.cut(0, "open")
	for table, want := range map[string]string{"a": "11", "b": "21", "c": "31", "d": "1001", "e": "51"} {
		if got := target.Query("INSERT INTO " + table + " (x) VALUES (0) RETURNING id"); got != want {
			t.Errorf("table %s goes on with %s, not %s", table, got, want)
		}
	}
}

// What the target's default privileges open is closed again before the cutover.
func TestRightsWider_C26(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	role := "wide_" + target.Name
	target.Exec("CREATE ROLE "+role, "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
		"ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO "+role,
		"ALTER DEFAULT PRIVILEGES GRANT USAGE ON SEQUENCES TO "+role,
		"ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO "+role+" WITH GRANT OPTION")
	t.Cleanup(func() { target.Exec("DROP OWNED BY "+role, "DROP ROLE "+role) })
	m := begin(t, source, target)
	source.Exec("CREATE SCHEMA closed", "CREATE TABLE closed.secret (a int)", "REVOKE EXECUTE ON FUNCTION stamp() FROM PUBLIC")
	m.load()
	wide := func() string {
		return target.Query("SELECT has_table_privilege('" + role +
			"', 'closed.secret', 'SELECT'), has_schema_privilege('" + role +
			"', 'closed', 'USAGE'), has_function_privilege('" + role + "', 'stamp()', 'EXECUTE')")
	}
	if wide() == "f\tf\tf" {
		t.Fatal("nothing is open")
	}
	for _, l := range m.missing() {
		if l.Class != "rights" || !strings.HasPrefix(l.Remedy, "on the target: REVOKE ") {
			t.Errorf("%+v", l)
		}
	}
	m.cut(78, "fence")
	m.mend()
	m.nothingMissing()
	if got := wide(); got != "f\tf\tf" {
		t.Errorf("still open: %s", got)
	}
}

// Settings of the database, and of roles in it, are named.
func TestDatabaseSettings_C28(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	m := begin(t, source, target)
	role := "settings_" + source.Name
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("CREATE ROLE " + role)
		t.Cleanup(func() { d.Exec("DROP OWNED BY "+role, "DROP ROLE "+role) })
	}
	source.Exec("ALTER DATABASE "+source.Name+` SET search_path = "$user", public, "It's"`,
		"ALTER DATABASE "+source.Name+" SET work_mem = '8MB'",
		"ALTER ROLE "+role+" IN DATABASE "+source.Name+` SET my.own = 'a\b''c'`)
	m.load()
	if lines := m.missing(); len(lines) != 3 {
		t.Errorf("%+v", lines)
	}
	m.cut(78, "fence")
	m.mend()
	m.nothingMissing()
	const q = "SELECT setrole::regrole, setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE datname = current_database() ORDER BY 1::text"
	if a, b := source.Query(q), target.Query(q); a != b {
		t.Errorf("source %s, target %s", a, b)
	}
}

// What the load could not create is named with the reason, holds up the cutover, and is in the way
// of cleanup: it has the only list.
func TestFailedObjects_C6(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	m := begin(t, source, target)
	role := "absent_" + source.Name
	source.Exec("CREATE ROLE "+role, "GRANT SELECT ON customer TO "+role, "ALTER TABLE log OWNER TO "+role,
		"REVOKE EXECUTE ON FUNCTION stamp() FROM PUBLIC", "GRANT EXECUTE ON FUNCTION stamp() TO "+role)
	t.Cleanup(func() {
		source.Exec("BEGIN READ WRITE; DROP OWNED BY " + role + "; DROP ROLE " + role + "; COMMIT")
	})
	m.Bash("pgextract --slot " + m.slot + " | pgapply || true")
	m.startSync()
	lines := m.missing()
	for _, name := range []string{"public.customer", "public.log", "public.stamp()"} {
		if l := named(lines, name); l == nil || l.Class != "rights" || !strings.Contains(l.Cause, role) {
			t.Errorf("%s: %+v", name, l)
		}
	}
	m.cut(78, "fence")
	var allow []string
	for _, l := range lines {
		allow = append(allow, "--allow-missing", l.ID)
	}
	m.cut(0, append([]string{"fence"}, allow...)...)
	m.cut(0, "drain")
	m.cut(0, "open")
	m.cut(0, "finish")
	target.Exec("DELETE FROM pgsluice.allowed")
	m.cut(78, "cleanup")
	target.Exec("CREATE ROLE " + role)
	t.Cleanup(func() { target.Exec("DROP OWNED BY "+role, "DROP ROLE "+role) })
	m.mend()
	m.nothingMissing()
	m.cut(0, "cleanup")
}
