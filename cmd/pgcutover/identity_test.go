package main

import (
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// cleanup drops only what a migration of its own database can have made.
func TestCleanupForeignSlot_I5(t *testing.T) {
	source, target := pgtest.Pair(t)
	other := pgtest.Source(t).Database(t, "")
	m := begin(t, source, target)
	physical, theirs := "standby_"+source.Name, "theirs_"+source.Name
	source.Exec("SELECT pg_create_physical_replication_slot('" + physical + "')")
	t.Cleanup(func() {
		_, _ = pgtest.Source(t).Database(t, "").Try("SELECT pg_drop_replication_slot('" + physical + "')")
	})
	other.Exec("SELECT pg_create_logical_replication_slot('" + theirs + "', 'pgoutput')")
	source.Exec("SELECT pg_create_logical_replication_slot('plain_" + source.Name + "', 'test_decoding')")
	for _, slot := range []string{physical, theirs, "plain_" + source.Name} {
		for _, args := range [][]string{{"cleanup", "--slot", slot}, {"cleanup", "--slot", slot, "--force"}} {
			if status, _, errs := m.Run(nil, "pgcutover", args...); status != 78 || !strings.Contains(errs, slot) {
				t.Errorf("%v: status %d\n%s", args, status, errs)
			}
		}
		if n := source.Query("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '" + slot + "'"); n != "1" {
			t.Errorf("slot %s is gone", slot)
		}
		// Nobody is sent there, either.
		if _, out, _ := m.Run(nil, "pgcutover", "check", "--slot", slot); strings.Contains(string(out), "drop_replication_slot") {
			t.Errorf("check: %s", out)
		}
	}
	// Its own, it drops.
	m.Bash("pgextract --slot " + m.slot + " | pgapply")
	m.cut(0, "cleanup", "--force")
	if n := source.Query("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '" + m.slot + "'"); n != "0" {
		t.Error("its own slot is there")
	}
}

// Every program says where it is before it changes anything, without the password.
func TestEndsAreNamed_I9(t *testing.T) {
	source, target := pgtest.Pair(t)
	m := begin(t, source, target)
	m.Source, m.Target = source.As("postgres", "s3cret"), target.As("postgres", "s3cret")
	end := func(side string, d *pgtest.DB) string {
		return side + "  postgres@127.0.0.1:" + strings.TrimSuffix(strings.TrimPrefix(d.Server.URI("x"),
			"postgres://postgres@127.0.0.1:"), "/x?sslmode=disable") + "/" + d.Name + " (PostgreSQL "
	}
	from, to := end("source", source), end("target", target)
	both := func(what, text string) {
		t.Helper()
		says(t, text, from, to)
		if strings.Contains(text, "s3cret") {
			t.Errorf("%s prints a password: %s", what, text)
		}
	}
	status, stream, errs := m.Run(nil, "pgextract", "--slot", m.slot)
	if status != 0 || !strings.HasPrefix(errs, "pgextract: "+from) || strings.Contains(errs, to) {
		t.Errorf("pgextract: %d %s", status, errs)
	}
	if status, _, errs = m.Run(stream, "pgapply"); status != 0 || !strings.HasPrefix(errs, "pgapply: "+to) || strings.Contains(errs, from) {
		t.Errorf("pgapply: %d %s", status, errs)
	}
	if _, _, errs = m.Run(nil, "pgextract", "--slot", m.slot, "--resume"); !strings.HasPrefix(errs, "pgextract: "+from) {
		t.Errorf("pgextract --resume: %s", errs)
	}
	both("pgextract --resume", errs)
	if _, _, errs = m.Run(nil, "pgdecode", "--slot", m.slot, "--until", "now"); !strings.Contains(errs, "pgdecode: "+from) {
		t.Errorf("pgdecode: %s", errs)
	}
	_, out, errs := m.Run(nil, "pgcutover", "check", "--slot", m.slot)
	both("check", string(out))
	if strings.Contains(errs, "  postgres@") {
		t.Errorf("check says it twice: %s", errs)
	}
	report, _ := m.cut(0, "status")
	says(t, report, from[8:], to[8:])
	report, _ = m.cut(0, "status", "--json")
	says(t, report, `"source": "`+from[8:], `"target": "`+to[8:])
	m.startSync()
	_, errs = m.cut(0, "fence")
	both("fence", errs)
	_, errs = m.cut(0, "unfence")
	both("unfence", errs)
	_, errs = m.cut(0, "cleanup", "--force")
	both("cleanup", errs)
}

// A migration that cannot go on says how it is begun again, and to the letter that is the way.
func TestWayBack_I8(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	m := begin(t, source, target)
	m.Bash("pgextract --slot " + m.slot + " | pgapply")
	source.Exec("SELECT pg_drop_replication_slot('" + m.slot + "')")
	said := func(text string) {
		t.Helper()
		says(t, text, "pgcutover cleanup --slot "+m.slot+" --force", "pgextract --slot "+m.slot+" | pgapply")
	}
	_, errs := m.cut(69, "wait", "caught-up")
	said(errs)
	report, _ := m.cut(0, "status")
	said(report)
	status, _, errs := m.Run(nil, "pgdecode", "--slot", m.slot)
	if status != 69 {
		t.Errorf("pgdecode: %d", status)
	}
	said(errs)
	// What a new slot brings does not get onto the old rows.
	stream := m.Must(nil, "pgextract", "--slot", m.slot)
	status, _, errs = m.Run(stream, "pgapply")
	if status != 78 {
		t.Errorf("pgapply: %d", status)
	}
	said(errs)

	statements, _ := m.cut(0, "cleanup", "--force")
	if status, _, errs = m.Run(nil, "bash", "-o", "pipefail", "-c",
		"pgextract --slot "+m.slot+" | pgapply"); status == 0 ||
		!strings.Contains(errs, strings.Split(statements, ";")[0]) {
		t.Errorf("onto the old rows: status %d: %s", status, errs)
	}
	m.cut(0, "cleanup", "--force")
	admin := target.Server.Database(t, "")
	for line := range strings.Lines(statements) {
		admin.Exec(line)
	}
	m.load()
	source.Exec("INSERT INTO log VALUES ('after')")
	m.cut(0, "wait", "caught-up", "--lag", "0")
	pgtest.Equal(t, source, target)
}
