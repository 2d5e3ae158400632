package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// stopSync ends continuous sync as Ctrl-C does, and waits until nobody reads the slot.
func (m *migration) stopSync() {
	m.T.Helper()
	_ = m.sync.Process.Signal(os.Interrupt)
	m.sync.Wait(20 * time.Second)
	pgtest.Wait(m.T, 20*time.Second, "the slot is free", func() bool {
		return m.source.Query("SELECT active FROM pg_replication_slots WHERE slot_name = '"+m.slot+"'") == "f"
	})
}

// lost returns how many rows of table log the target lacks.
func (m *migration) lost() int {
	m.T.Helper()
	has := make(map[string]int)
	for _, l := range strings.Split(m.target.Query("SELECT line FROM log"), "\n") {
		has[l]++
	}
	n := 0
	for _, l := range strings.Split(m.source.Query("SELECT line FROM log"), "\n") {
		if has[l]--; has[l] < 0 {
			n++
		}
	}
	return n
}

// What was drained under one fence says nothing under the next, whoever has put that up.
func TestStaleDrainRefused_F6(t *testing.T) {
	pgtest.Raced(t)
	source, target := pgtest.Pair(t)
	m := begin(t, source, target)
	m.load()
	m.cut(0, "wait", "caught-up", "--timeout", "30s", "--lag", "0")
	away := strings.Replace(target.URI, target.Name, "nothing", 1)
	free := "BEGIN READ WRITE; ALTER DATABASE " + source.Name + " RESET default_transaction_read_only; COMMIT"
	m.cut(0, "fence")
	m.cut(0, "drain")
	m.stopSync()
	for i, closed := range []func(){
		func() { source.Exec("ALTER DATABASE " + source.Name + " SET default_transaction_read_only = on") },
		func() { m.cut(0, "fence") },
	} {
		m.cut(0, "unfence", "--target", away)
		source.Exec("INSERT INTO log VALUES ('free')")
		closed()
		for _, verb := range []string{"open", "finish", "verify"} {
			_, errs := m.cut(78, verb)
			says(t, errs, "pgcutover drain")
		}
		if i == 0 { // nobody has proved it
			_, errs := m.cut(78, "drain")
			says(t, errs, "pgcutover fence")
		}
		if got := m.status(); got.State != "fenced" {
			t.Errorf("%d: %s", i, got.State)
		}
		if i == 0 {
			source.Exec(free)
		}
	}
	m.startSync()
	m.cut(0, "drain")
	m.cut(0, "open")
	if n := m.lost(); n != 0 {
		t.Errorf("%d rows are lost", n)
	}
}
