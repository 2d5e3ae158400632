package main

import (
	"strings"
	"testing"
	"time"

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
func TestFenceOfAnother(t *testing.T) {
	t.Parallel()
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

// cleanup drops no slot that another target needs, or somebody else: a wrong PGSLUICE_TARGET and a
// wrong --slot cost nobody a new load. It says only what it has removed.
func TestCleanupOfAnother_I5(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	wrong := pgtest.Target(t).Database(t, "")
	m := small(t, source, target)
	mistaken := &migration{source: source, target: wrong, slot: m.slot, Env: pgtest.NewEnv(t, source, wrong)}
	m.Bash("pgextract --slot " + m.slot + " | pgapply")
	_, errs := mistaken.cut(78, "cleanup") // nobody has read it yet
	says(t, errs, "has no record of its migration", "--target", "--force")
	m.startSync()
	source.Exec("INSERT INTO log VALUES ('c')")
	m.cut(0, "wait", "caught-up", "--lag", "0")
	pgtest.Wait(t, 20*time.Second, "the slot is bound", func() bool {
		return source.Query("SELECT count(*) FROM pg_publication WHERE obj_description(oid, 'pg_publication') LIKE '% target=%'") == "1"
	})
	for _, args := range [][]string{{"cleanup"}, {"cleanup", "--force"}} {
		out, errs := mistaken.cut(78, args...)
		says(t, errs, "another target than this one", "read by pgdecode")
		if strings.Contains(errs, "removed") || out != "" {
			t.Errorf("%v: %s%s", args, out, errs)
		}
	}
	// A subscription's slot, alone and with a publication of the same name.
	theirs := "theirs_" + source.Name
	source.Exec("SELECT pg_create_logical_replication_slot('" + theirs + "', 'pgoutput')")
	other := &migration{source: source, target: target, slot: theirs, Env: m.Env}
	_, errs = other.cut(78, "cleanup", "--force")
	says(t, errs, "no publication")
	source.Exec("CREATE PUBLICATION " + theirs + " FOR TABLE log")
	_, errs = other.cut(78, "cleanup")
	says(t, errs, "has no record of its migration")
	if n := source.Query("SELECT count(*) FROM pg_replication_slots WHERE slot_name IN ('" + theirs + "', '" + m.slot + "')"); n != "2" {
		t.Errorf("%s slots are left", n)
	}
	// Without a reader, force is enough.
	m.stopSync()
	out, errs := mistaken.cut(0, "cleanup", "--force")
	says(t, errs, "cleanup: removed slot and publications \""+m.slot+"\" from the source\n")
	if out != "" {
		t.Errorf("statements that would empty the wrong target: %s", out)
	}
	_, errs = m.cut(0, "cleanup", "--force")
	says(t, errs, "cleanup: removed the state from the target\n")
}

// A source that a DBA has made read-only is not one that a cutover has closed: unfence, as the undo
// of scripts/cutover runs it, leaves it alone, and after a fence it is what it was.
func TestFrozenSource(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	m := small(t, source, target)
	m.Bash("pgextract --slot " + m.slot + " | pgapply")
	setting := "SELECT setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = setdatabase WHERE datname = current_database()"
	frozen := func(when string) {
		t.Helper()
		m.closedToApplication(when)
		if s := source.Query(setting); s != "{default_transaction_read_only=on}" {
			t.Errorf("%s: the setting is %s", when, s)
		}
	}
	source.Exec("ALTER DATABASE " + source.Name + " SET default_transaction_read_only = on")
	if state, _ := m.cut(0, "status", "--get", "state"); state != "stopped\n" {
		t.Errorf("the state is %s", state)
	}
	out, _ := m.cut(0, "check")
	says(t, out, "warning\tthe source's database is read-only already")
	_, errs := m.cut(0, "unfence")
	says(t, errs, "no fence has closed it", "RESET default_transaction_read_only")
	frozen("unfence without a fence")
	_, errs = m.cut(0, "fence")
	says(t, errs, "read-only already")
	if state, _ := m.cut(0, "status", "--get", "state"); state != "fenced\n" {
		t.Errorf("the state is %s", state)
	}
	_, errs = m.cut(0, "unfence")
	says(t, errs, "read-only, as it was before the fence")
	frozen("unfence")
	// Without its record, a fence cannot be told from somebody else's setting.
	m.cut(0, "fence")
	source.Exec("BEGIN READ WRITE; COMMENT ON DATABASE " + source.Name + " IS 'shop'; COMMIT")
	_, errs = m.cut(78, "unfence")
	says(t, errs, "no record of a fence", "--force")
	frozen("unfence without the record")
	m.cut(0, "unfence", "--force")
	source.Exec("INSERT INTO log VALUES ('free')")
}
