package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// get asks for one field of the status, and returns what is printed without the newline at its end.
func (m *migration) get(status int, field string) string {
	m.T.Helper()
	out, errs := m.cut(status, "status", "--get", field)
	if status != 0 {
		if out != "" || errs == "" {
			m.T.Errorf("%s: output %q, errors %q", field, out, errs)
		}
		return ""
	}
	if value := strings.TrimSuffix(out, "\n"); out == value+"\n" && !strings.Contains(value, "\n") && errs == "" {
		return value
	}
	m.T.Errorf("%s: output %q, errors %q", field, out, errs)
	return ""
}

// Scripts ask for one field, and get it exactly or not at all. What the target knows needs no
// source.
func TestStatusGet_P11(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Start(t, pgtest.Source(t).Major).Database(t, ""), pgtest.Target(t).Database(t, "")
	m := begin(t, source, target)
	away := *m
	env := *m.Env
	away.Env, env.Source = &env, "host=127.0.0.1 port=1 user=nobody dbname=none"
	is := func(m *migration, want map[string]string) {
		t.Helper()
		for field, value := range want {
			if got := m.get(0, field); got != value {
				t.Errorf("%s is %s, not %s", field, got, value)
			}
		}
	}
	m.get(78, "state") // the target knows nothing of it
	m.Bash("pgextract --slot " + m.slot + " | pgapply")
	is(m, map[string]string{"state": "stopped", "source_slot.active": "false", "lag_bytes": m.get(0, "lag_bytes")})
	m.get(0, "source_slot.wal_status")
	target.Exec("UPDATE pgsluice.streams SET database = 'of' || E'\\n' || 'two' WHERE slot = '" + m.slot + "'")
	is(&away, map[string]string{"database": `"of\ntwo"`})
	target.Exec("UPDATE pgsluice.streams SET database = '" + source.Name + "' WHERE slot = '" + m.slot + "'")
	m.startSync()
	m.cut(0, "wait", "caught-up", "--timeout", "30s")
	source.Exec(`CREATE TABLE late (a int PRIMARY KEY)`, "CREATE TABLE \"x\ny\" (a int PRIMARY KEY)")
	pgtest.Wait(t, 20*time.Second, "it is applied", func() bool { return m.get(0, "applying") == "true" })
	known := map[string]string{"slot": m.slot, "database": source.Name, "load": "loaded", "applying": "true",
		"conflicts": "0", "failed_objects": "0",
		"verified": "none", "target_open": "false", "tables.count": "6", "cutover": "[]"}
	is(m, known)
	is(&away, known)
	is(m, map[string]string{"state": "syncing", "source_slot.active": "true", "missing_tables.count": "2", "insert_only_tables.count": "4",
		"missing_tables": `[{"schema":"public","table":"late"},{"schema":"public","table":"x\ny"}]`})
	for _, field := range []string{"state", "source_lsn", "lag_bytes", "lag_seconds", "source_slot",
		"source_slot.active", "missing_tables", "missing_tables.count", "insert_only_tables"} {
		away.get(75, field)
	}
	source.Exec("DROP TABLE late", "DROP TABLE \"x\ny\"")
	// The whole has the same fields.
	var all map[string]json.RawMessage
	out, _ := away.cut(0, "status", "--json")
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatal(err)
	}
	for field := range all {
		if v := string(all[field]); (v == "null") != (field == "state" || strings.HasPrefix(field, "lag") ||
			strings.HasPrefix(field, "source") || strings.HasSuffix(field, "y_tables") ||
			strings.HasPrefix(field, "missing") || strings.HasPrefix(field, "uncarried") || field == "way_back" || field == "left_slot") {
			t.Errorf("without the source, %s is %s", field, v)
		}
		if field != "way_back" && field != "left_slot" { // there may be one once the target is open
			m.get(0, field)
		}
	}
	out, _ = away.cut(0, "status")
	says(t, out, "problem", "is not known")
	for _, field := range []string{"nonsense", "tables.0", "state.x", "source_slot.", "asked", "State", "conflicts.count"} {
		_, errs := m.cut(64, "status", "--get", field)
		says(t, errs, `no field "`+field+`"`, "source_slot.active", "missing_tables.count")
	}
	m.cut(64, "status", "--get", "state", "--json")
	m.cut(64, "status", "--get", "state", "--watch")
	m.cut(64, "status", "--get", "")

	// A difference, and what could not be compared, are different outcomes.
	m.cut(78, "verify")
	m.cut(0, "fence")
	m.cut(0, "drain")
	is(m, map[string]string{"state": "drained"})
	away.get(75, "state")
	target.Exec("UPDATE customer SET name = 'x' WHERE id = 7")
	out, _ = m.cut(1, "verify", "--only-different")
	if !strings.HasPrefix(out, "different\tpublic.customer\t") || strings.Contains(out, "equal") {
		t.Errorf("%q", out)
	}
	is(&away, map[string]string{"verified": "differs"})
	target.Exec("UPDATE customer SET name = 'c7' WHERE id = 7")
	if out, _ = m.cut(0, "verify", "--only-different"); out != "" {
		t.Errorf("%q", out)
	}
	is(&away, map[string]string{"verified": "equal"})
	// Nothing can be compared: the server fails.
	target.Exec("ALTER TABLE customer RENAME COLUMN name TO named", "ALTER TABLE customer ADD name regclass")
	target.Exec("CREATE FUNCTION public.fails() RETURNS text LANGUAGE plpgsql STABLE AS 'BEGIN RAISE EXCEPTION ''no''; END'",
		"CREATE SCHEMA hidden",
		"ALTER TABLE customer SET SCHEMA hidden",
		"CREATE VIEW public.customer AS SELECT id, public.fails() AS name, note FROM hidden.customer")
	_, errs := m.cut(78, "verify")
	says(t, errs, "could not")
	is(&away, map[string]string{"verified": "equal"})
	target.Exec("DROP VIEW public.customer", "ALTER TABLE hidden.customer SET SCHEMA public",
		"ALTER TABLE customer DROP COLUMN name", "ALTER TABLE customer RENAME COLUMN named TO name")
	m.cut(0, "open")
	is(&away, map[string]string{"target_open": "true", "state": "complete"})
	m.get(78, "lag_bytes") // there is none any more
	m.get(78, "lag_seconds")
}
