package e2e

import (
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A slot is made to survive a failover when it is created, and when it is adopted; where the server cannot, nothing is created.
func TestFailoverSlot(t *testing.T) {
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
