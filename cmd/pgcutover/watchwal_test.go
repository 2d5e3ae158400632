package main

import (
	"strconv"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// The watch lets go of the WAL that it has found nothing in, and of no other.
func TestWatchLetsGo_F2(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	m := begin(t, source, target)
	m.load()
	m.cut(0, "wait", "caught-up", "--timeout", "30s", "--lag", "0")
	m.cut(0, "fence")
	m.cut(0, "drain")
	m.cut(0, "open")
	kept := func() int {
		t.Helper()
		n, err := strconv.Atoi(m.get(0, "source_slot.retained_wal_bytes"))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const much = 10 << 20
	write := func() {
		source.Exec("BEGIN READ WRITE; SELECT pg_logical_emit_message(true, 'x', repeat('x', 1 << 20)) FROM generate_series(1, 12); COMMIT", "CHECKPOINT")
	}
	confirmed := func() string {
		return source.Query("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '" + m.slot + "'")
	}
	write()
	if n := kept(); n < much {
		t.Fatalf("before the watch, %d bytes are kept", n)
	}
	m.cut(0, "watch")
	if n := kept(); n > much {
		t.Errorf("after the watch, %d bytes are kept", n)
	}
	m.escape("INSERT INTO log VALUES ('escaped')")
	write()
	before := confirmed()
	for range 2 {
		_, errs := m.cut(1, "watch")
		says(t, errs, "public.log: 1 inserted")
	}
	if now := confirmed(); now != before {
		t.Errorf("the slot was at %s and is at %s, although nobody has accepted what is behind", before, now)
	}
	_, errs := m.cut(1, "watch")
	_, lsn, _ := strings.Cut(errs, "--accept ")
	m.cut(0, "watch", "--accept", strings.Fields(lsn)[0])
	if n := kept(); n > much {
		t.Errorf("when all is accepted, %d bytes are kept", n)
	}
	// What is written after a look is found by the next one, although the slot has moved.
	m.escape("DELETE FROM \"Order\" WHERE id = 2")
	_, errs = m.cut(1, "watch")
	says(t, errs, "public.Order: 1 deleted")
}
