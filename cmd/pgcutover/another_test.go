package main

import (
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// small makes a database with one table.
func small(t *testing.T, source, target *pgtest.DB) *migration {
	t.Helper()
	source.Exec("CREATE TABLE log (line text PRIMARY KEY)", "INSERT INTO log VALUES ('a'), ('b')")
	return &migration{source: source, target: target, slot: "mig_" + source.Name, Env: pgtest.NewEnv(t, source, target)}
}

// closedToApplication fails the test if new sessions can write to the source.
func (m *migration) closedToApplication(when string) {
	m.T.Helper()
	if _, err := m.source.Try("INSERT INTO log VALUES ('" + when + "')"); err == nil {
		m.T.Errorf("%s: the source takes writes", when)
	}
}

// A source that another migration has left, or closed, is closed by no other one, and so no failure
// of that one gives it back: neither to a slot of another name nor to one of the same name.
func TestFenceOfAnother_F14(t *testing.T) {
	source, target := pgtest.Pair(t)
	first := small(t, source, target)
	first.load()
	trial := pgtest.Target(t).Database(t, "")
	second := &migration{source: source, target: trial, slot: "trial_" + source.Name, Env: pgtest.NewEnv(t, source, trial)}
	second.Bash("pgextract --slot " + second.slot + " | pgapply")
	refused := func(m *migration, why string, verbs ...string) {
		t.Helper()
		for _, verb := range append(verbs, "fence") {
			_, errs := m.cut(78, strings.Fields(verb)...)
			says(t, errs, why)
		}
		_, errs := m.cut(78, "unfence")
		says(t, errs, "--slot")
		if state, _ := m.cut(0, "status", "--get", "state"); state != "stopped\n" {
			t.Errorf("the state is %s", state)
		}
	}
	first.cut(0, "fence")
	refused(second, "pgcutover unfence --slot "+first.slot+"\n")
	first.closedToApplication("fenced")
	for _, verb := range []string{"drain", "open"} {
		first.cut(0, verb)
	}
	left := "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()"
	record := source.Query(left)
	refused(second, "the source is no longer the primary", "fence --check", "rehearse")
	first.closedToApplication("open")
	out, _ := second.cut(0, "status")
	says(t, out, "problem", "no longer the primary")
	// The migration is over, and somebody migrates the old primary with a slot of the same name.
	first.cut(0, "cleanup")
	second.cut(0, "cleanup", "--force")
	trial.Exec("DROP TABLE log")
	source.Exec("BEGIN READ WRITE; ALTER DATABASE " + source.Name + " RESET default_transaction_read_only; COMMIT")
	again := &migration{source: source, target: trial, slot: first.slot, Env: second.Env}
	again.Bash("pgextract --slot " + again.slot + " | pgapply")
	refused(again, "pgcutover unfence --slot "+first.slot+" --force\n")
	if now := source.Query(left); now != record {
		t.Errorf("the record of the fence was\n%s\nand is\n%s", record, now)
	}
	again.cut(0, "unfence", "--force")
	source.Exec("INSERT INTO log VALUES ('free')")
	again.cut(0, "fence", "--check")
}
