package main

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// With many tables, a status does not compare the schemas. It says when they were compared, and
// whether that still holds.
func TestStatusOfManyTables(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	m := &migration{source: source, target: target, slot: "mig_" + source.Name, Env: pgtest.NewEnv(t, source, target)}
	source.Exec("CREATE TABLE a (id int PRIMARY KEY, b int)")
	m.Bash("pgextract --slot " + m.slot + " | pgapply")
	target.Exec(`INSERT INTO pgsluice.tables (stream_id, schema_name, table_name, source_schema, source_table, status)
		SELECT stream_id, 'more', 't' || g, 'more', 't' || g, 'loaded' FROM pgsluice.streams, generate_series(1, 1001) g`)
	type missing struct {
		Count   int
		At      time.Time
		Current bool
	}
	status := func() *missing {
		t.Helper()
		var s struct{ Missing *missing }
		out, _ := m.cut(0, "status", "--json")
		if err := json.Unmarshal([]byte(out), &s); err != nil {
			t.Fatal(err)
		}
		return s.Missing
	}
	text := func(want string) {
		t.Helper()
		out, _ := m.cut(0, "status")
		says(t, out, want)
	}
	if x := status(); x != nil {
		t.Errorf("never compared: %+v", x)
	}
	text("not compared yet")
	m.get(78, "missing.current")
	if n := m.get(0, "missing.count"); n != "0" { // compares
		t.Errorf("%s missing", n)
	}
	if x := status(); x == nil || x.Count != 0 || !x.Current {
		t.Errorf("compared: %+v", x)
	}
	target.Exec("UPDATE pgsluice.comparisons SET compared_at = compared_at - interval '1 hour'")
	source.Exec("CREATE INDEX i ON a (b)")
	text("nothing, as of 1h0m")
	if got := m.get(0, "missing.current"); got != "false" {
		t.Errorf("current: %s", got)
	}
	if n := m.get(0, "missing.count"); n != "1" {
		t.Errorf("%s missing", n)
	}
	// A repeated status compares beside it.
	target.Exec("UPDATE pgsluice.comparisons SET compared_at = compared_at - interval '1 hour'")
	source.Exec("CREATE INDEX j ON a (b, id)")
	x := status()
	if x == nil || x.Count != 1 || x.Current || time.Since(x.At) < 59*time.Minute {
		t.Errorf("changed since then: %+v", x)
	}
	watch := m.Start(nil, nil, "pgcutover", "status", "--watch", "--every", "100ms", "--slot", m.slot)
	defer watch.Kill()
	pgtest.Wait(t, time.Minute, "it is compared", func() bool { return m.get(0, "missing.current") == "true" })
	text("2 objects of the source that the target lacks, or has otherwise: ")
}
