package main

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// status tells a role without rights what the slot and the load's snapshot hold back on the source,
// how fast that grows, and how long the source lets it.
func TestStatusHeld(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	server := pgtest.Start(t, pgtest.Source(t).Major)
	source, target := server.Database(t, ""), pgtest.Target(t).Database(t, "")
	m := begin(t, source, target)
	m.Bash("pgextract --slot " + m.slot + " | pgapply")
	source.Exec("CREATE ROLE stranger LOGIN")
	env := *m.Env
	env.Source = source.As("stranger", "")
	m.Env = &env
	number := func(field string) float64 {
		t.Helper()
		n, err := strconv.ParseFloat(m.get(0, "source_slot."+field), 64)
		if err != nil {
			t.Errorf("%s: %v", field, err)
		}
		return n
	}
	text := func(parts ...string) {
		t.Helper()
		out, _ := m.cut(0, "status")
		says(t, out, parts...)
	}
	// Without a limit the server cannot tell how long it lasts, and without a load there is no
	// snapshot: neither is claimed.
	for _, field := range []string{"safe_wal_bytes", "hours_left", "snapshot_xid_age"} {
		m.get(78, "source_slot."+field)
	}
	out, _ := m.cut(0, "status")
	if strings.Contains(out, "slot limit") || strings.Contains(out, "\nsnapshot") ||
		!regexp.MustCompile(`source slot  .*; it holds \d.* of WAL \(\+\d.*/s\) and \d.* XIDs?\n`).MatchString(out) {
		t.Errorf("status:\n%s", out)
	}
	// A load that somebody holds open, and transactions since then.
	owner := pgtest.NewEnv(t, source, target)
	held := owner.Start(nil, nil, "pgextract", "--slot", "held", "--hold")
	pgtest.Wait(t, 30*time.Second, "the snapshot is held", func() bool {
		return source.Query("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgextract' AND state = 'idle in transaction'") != "0"
	})
	before := number("catalog_xid_age")
	source.Exec("DO $$ BEGIN FOR i IN 1..500 LOOP BEGIN INSERT INTO log VALUES ('x'); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$")
	if after, snapshot := number("catalog_xid_age"), number("snapshot_xid_age"); after < before+500 || snapshot < 500 || snapshot > after {
		t.Errorf("the slot is %v, then %v, and the snapshot %v transactions old", before, after, snapshot)
	}
	text("snapshot  ", "the load's is 5")
	held.Kill()
	if source.Major < 13 {
		return
	}
	// While WAL is written, it grows, and the limit comes nearer.
	source.Exec("ALTER SYSTEM SET max_slot_wal_keep_size = '2GB'", "SELECT pg_reload_conf()")
	stop := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			if _, err := source.Try("SELECT pg_logical_emit_message(false, 'x', repeat('x', 100000)) FROM generate_series(1, 10)"); err != nil {
				ended <- err
				return
			}
		}
	}()
	var all struct {
		Slot struct {
			Retained int64    `json:"retained_wal_bytes"`
			Growth   *int64   `json:"growth_bytes_per_second"`
			Seconds  *float64 `json:"growth_seconds"`
			Safe     *int64   `json:"safe_wal_bytes"`
			Hours    *float64 `json:"hours_left"`
		} `json:"source_slot"`
	}
	out, _ = m.cut(0, "status", "--json")
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatal(err)
	}
	x := all.Slot
	if x.Growth == nil || x.Seconds == nil || x.Safe == nil || x.Hours == nil {
		t.Fatalf("not known: %s", out)
	}
	if hours := float64(*x.Safe) / float64(*x.Growth) / 3600; *x.Growth < 100_000 || *x.Seconds < 1 || *x.Safe > 2<<30+64<<20 ||
		*x.Hours < hours-0.01 || *x.Hours > hours+0.01 {
		t.Errorf("%d bytes/s in %v s, %d bytes and %v hours left", *x.Growth, *x.Seconds, *x.Safe, *x.Hours)
	}
	if number("growth_bytes_per_second") < 100_000 || number("hours_left") > 6 || number("safe_wal_bytes") < 1<<30 {
		t.Error("the fields are not those of the whole")
	}
	text("slot limit", " more of WAL until max_slot_wal_keep_size, in ", " hours at this rate: then the slot is lost")
	close(stop)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
