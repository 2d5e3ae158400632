package main

import (
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Whatever the owner of the target's database presets, no constant of the source becomes a
// statement of those who execute what missing --sql prints: neither with psql, nor as one query,
// which the server reads before it executes the settings in it.
func TestMissingStrings(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE t (a int PRIMARY KEY)")
	m := &migration{source: source, target: target, slot: "mig_" + source.Name, Env: pgtest.NewEnv(t, source, target)}
	m.Bash("pgextract --slot " + m.slot + " | pgapply")
	target.Exec("ALTER DATABASE " + target.Name + " SET standard_conforming_strings = off")
	const constants = `'a\', '; CREATE TABLE pwned (); --'`
	source.Exec(`CREATE VIEW v AS SELECT * FROM (VALUES (`+constants+`)) v`, `ALTER TABLE t ADD b text DEFAULT 'c\'`,
		`COMMENT ON TABLE t IS '\'`, `ALTER TABLE t ADD CONSTRAINT c CHECK (b <> ALL (ARRAY[`+constants+`]))`)
	out, _ := m.cut(1, "missing", "--sql")
	if text, _ := m.cut(1, "missing"); strings.Contains(text, `'a\'`) {
		t.Errorf("a remedy is not safe:\n%s", text)
	}
	if _, err := target.Try(out); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	target.Exec("DROP VIEW v")
	if status, _, errs := m.Run([]byte(out), "psql", "-Xqf", "-", target.URI); status != 0 {
		t.Errorf("psql: %s", errs)
	}
	if got := target.Query("SELECT v.*, pg_catalog.to_regclass('pwned') FROM v"); got != `a\`+"\t; CREATE TABLE pwned (); --\tNULL" {
		t.Errorf("the view has %q", got)
	}
	m.nothingMissing()
}
