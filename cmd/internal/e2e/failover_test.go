package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A slot is made to survive a failover when it is created, and when it is adopted; where the server
// cannot, nothing is created.
func TestFailoverSlot(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	server := pgtest.Start(t, 17)
	source := server.Database(t, "")
	source.Exec("CREATE TABLE t (a int PRIMARY KEY)")
	env := &pgtest.Env{T: t, Dir: pgtest.Programs(t, false), Source: source.URI}
	failover := func() string {
		return source.Query("SELECT failover FROM pg_replication_slots WHERE slot_name = '" + source.Name + "'")
	}
	// The schema needs a pg_dump of that version; the slot does not.
	args := []string{"--data-only", "--slot", source.Name}
	env.Must(nil, "pgextract", args...)
	if got := failover(); got != "f" {
		t.Errorf("failover is %q without being asked for", got)
	}
	env.Must(nil, "pgextract", append(args, "--failover")...)
	if got := failover(); got != "t" {
		t.Errorf("failover is %q after the slot was adopted", got)
	}
	source.Exec("SELECT pg_drop_replication_slot('" + source.Name + "')")
	env.Must(nil, "pgextract", append(args, "--failover")...)
	if got := failover(); got != "t" {
		t.Errorf("failover is %q after the slot was created", got)
	}

	old := pgtest.Start(t, 16).Database(t, "")
	env.Source = old.URI
	status, out, errs := env.Run(nil, "pgextract", append(args, "--failover")...)
	if status != 78 || len(out) != 0 || !strings.Contains(errs, "PostgreSQL 17") {
		t.Errorf("16: status %d, %d bytes: %s", status, len(out), errs)
	}
	if n := old.Query("SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)"); n != "0" {
		t.Error("16: something was created")
	}
	if status, _, errs := env.Run(nil, "pgextract", "--failover"); status != 64 {
		t.Errorf("without a slot: status %d: %s", status, errs)
	}
}

// After a failover to a standby that has the synchronized slot, sync continues on the new timeline.
func TestFailover_I4(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	major := pgtest.Source(t).Major
	if major < 17 {
		major = 18
	}
	primary := pgtest.Start(t, major)
	source := primary.Database(t, "")
	target := pgtest.Target(t).Database(t, "")
	e := pgtest.NewEnv(t, source, target)
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("CREATE TABLE t (id int PRIMARY KEY, v text)")
	}
	source.Exec("SELECT pg_create_physical_replication_slot('standby', true)")
	standby := primary.Standby(t, "primary_slot_name=standby", "sync_replication_slots=on", "hot_standby_feedback=on")
	promoted := *source
	promoted.Server, promoted.URI = standby, standby.URI(source.Name)
	// The schema needs a pg_dump of that version.
	e.Bash(`pgextract --slot "$1" --failover --data-only | pgapply`, source.Name)
	applied := filepath.Join(t.TempDir(), "applied")
	once := func() {
		t.Helper()
		e.Bash(`pgdecode --slot "$1" --until now --confirm-from "$2" | pgapply >"$2"`, source.Name, applied)
	}
	rows(source, "old", 1, 3)
	once()
	pgtest.Wait(t, 2*time.Minute, "the slot is on the standby", func() bool {
		// The standby keeps its copy only when the slot has come to where the standby's own WAL
		// begins.
		source.Exec("SELECT pg_log_standby_snapshot()")
		once()
		return promoted.Query("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '"+source.Name+
			"' AND synced AND NOT temporary") == "1"
	})
	rows(source, "old", 4, 6)
	once()
	rows(source, "old", 7, 9)
	at := source.Query("SELECT pg_current_wal_flush_lsn()")
	pgtest.Wait(t, time.Minute, "the standby has it",
		func() bool { return promoted.Query("SELECT pg_last_wal_replay_lsn() >= '"+at+"'") == "t" })
	primary.Stop()
	promoted.Exec("SELECT pg_promote()")
	e.Source = promoted.URI
	rows(&promoted, "new", 11, 13)
	once()
	pgtest.Equal(t, &promoted, target)
	if got := target.Query("SELECT timeline FROM pgsluice.streams"); got != "2" {
		t.Errorf("the timeline is %s", got)
	}
}
