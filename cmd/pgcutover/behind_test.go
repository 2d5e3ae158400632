package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
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
	pgtest.Slow(t)
	pgtest.Raced(t)
	source, target := pgtest.Pair(t)
	m := begin(t, source, target)
	m.load()
	m.cut(0, "wait", "caught-up", "--timeout", "30s", "--lag", "0")
	away := strings.Replace(target.URI, target.Name, "nothing", 1)
	free := "BEGIN READ WRITE; ALTER DATABASE " + source.Name + " RESET default_transaction_read_only; COMMIT"
	verified := func(want string) {
		t.Helper()
		if got, _ := m.cut(0, "status", "--get", "verified"); got != want+"\n" {
			t.Errorf("status says %s of the rows, not %s", got, want)
		}
	}
	m.cut(0, "fence")
	m.cut(0, "drain")
	target.Exec("INSERT INTO log VALUES ('differs')")
	m.cut(1, "verify")
	verified("differs")
	target.Exec("DELETE FROM log WHERE line = 'differs'")
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
		if got := m.status(); got.State != []string{"stopped", "fenced"}[i] { // the first has no record
			t.Errorf("%d: %s", i, got.State)
		}
		if i == 0 {
			source.Exec(free)
		}
	}
	m.startSync()
	m.cut(0, "drain")
	verified("none") // what was compared was compared under an earlier fence
	m.cut(0, "open")
	if n := m.lost(); n != 0 {
		t.Errorf("%d rows are lost", n)
	}
}

// escape writes to the source behind the fence, as any session may.
func (m *migration) escape(sql string) {
	m.T.Helper()
	m.source.Exec("BEGIN READ WRITE; " + sql + "; COMMIT")
}

// A writer that the fence does not hold, at every step of the cutover: what it writes is carried,
// or refused and named, or found and named. It is never lost with status 0.
func TestWritesBehindMark_F2_F7(t *testing.T) {
	pgtest.Raced(t)
	behindMark(t, "pgoutput")
}

// The watch reads the lines of test_decoding as well.
func TestPluginWritesBehindMark(t *testing.T) {
	pgtest.Long(t)
	behindMark(t, "test_decoding")
}

func behindMark(t *testing.T, plugin string) {
	source, target := pgtest.Pair(t)
	m := begin(t, source, target)
	m.options = "--plugin " + plugin
	m.load()
	m.cut(0, "wait", "caught-up", "--timeout", "30s", "--lag", "0")
	_, errs := m.cut(78, "watch")
	says(t, errs, "the target is not open")
	m.cut(0, "fence")
	m.escape("INSERT INTO log VALUES ('between fence and drain')")
	m.escape("SELECT lo_create(4712)")
	_, errs = m.cut(78, "drain")
	says(t, errs, "1 large object created or changed: 4712", "pgcutover fence")
	m.cut(0, "fence")
	m.cut(0, "drain")
	m.escape("INSERT INTO log VALUES ('behind the drain')")
	_, errs = m.cut(78, "open")
	says(t, errs, "public.log", "pgcutover drain", "pgcutover unfence")
	m.cut(0, "drain")
	// Large objects are in no slot, and can be made in read-only transactions up to 15.
	m.escape("SELECT lo_create(4711)")
	_, errs = m.cut(78, "open")
	says(t, errs, "1 large object created or changed: 4711")
	m.escape("SELECT lo_unlink(4711)")
	// While nobody reads the slot, it is read for what is in it.
	m.stopSync()
	m.escape("UPDATE customer SET name = 'escaped' WHERE id = 77; DELETE FROM \"Order\" WHERE id = 500")
	_, errs = m.cut(78, "open")
	says(t, errs, "public.Order: 1 deleted, such as (500), public.customer: 1 updated, such as (77)")
	m.startSync()
	m.cut(0, "drain")
	if n := m.lost(); n != 0 || target.Query("SELECT name FROM customer WHERE id = 77") != "escaped" {
		t.Fatalf("%d rows are lost before the target is open", n)
	}
	m.cut(0, "open")
	m.escape("INSERT INTO log VALUES ('behind open')")
	_, errs = m.cut(1, "finish")
	says(t, errs, "public.log: 1 inserted", "--accept")
	out, _ := m.cut(1, "watch")
	says(t, out, "written\tpublic.log: 1 inserted\n")
	m.escape("UPDATE customer SET name = 'late' WHERE id = 1; TRUNCATE none")
	out, errs = m.cut(1, "watch")
	says(t, out, "written\tpublic.customer: 1 updated, such as (1)\n", "written\tpublic.log: 1 inserted\n")
	out, _ = m.cut(0, "status")
	says(t, out, "public.customer: 1 updated", "pgcutover watch --slot "+m.slot)
	if got := m.get(0, "written.result"); got != "written" {
		t.Errorf("%s", got)
	}
	_, all := m.cut(78, "cleanup")
	says(t, all, "public.log", "--accept")
	accept := func(errs string) {
		t.Helper()
		_, lsn, _ := strings.Cut(errs, "--accept ")
		out, errs := m.cut(0, "watch", "--accept", strings.Fields(lsn)[0])
		says(t, out, "clean\tnobody has written")
		says(t, errs)
	}
	accept(errs)
	out, _ = m.cut(0, "status")
	if strings.Contains(out, "public.customer: 1 updated") {
		t.Errorf("it was accepted:\n%s", out)
	}
	m.cut(0, "finish")
	file, err := os.Create(filepath.Join(t.TempDir(), "followed"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	printed := func(text string) func() bool {
		return func() bool {
			out, err := os.ReadFile(file.Name())
			return err == nil && strings.Contains(string(out), text)
		}
	}
	follow := m.Start(nil, file, "pgcutover", "watch", "--slot", m.slot, "--follow", "--every", "50ms", "--json")
	pgtest.Wait(t, 20*time.Second, "the watch has begun", printed(`"result":"clean"`))
	m.escape("CREATE TABLE made (id int)")
	pgtest.Wait(t, 20*time.Second, "the watch sees it", printed(`"created":["public.made"]`))
	m.escape("DROP TABLE none; CREATE TABLE none (); INSERT INTO none DEFAULT VALUES")
	pgtest.Wait(t, 20*time.Second, "the watch sees what takes a known table's place", printed(`"created":["public.made","public.none"]`))
	_ = follow.Process.Signal(os.Interrupt)
	follow.Wait(20 * time.Second)
	_, errs = m.cut(64, "watch", "--accept", "7FFFFFFF/0")
	says(t, errs, "has not reached")
	m.escape("DELETE FROM \"Order\" WHERE id = 2")
	_, errs = m.cut(1, "watch")
	accept(errs)
	m.cut(0, "cleanup")
}

// A large transaction, and a large value, are found without being held in memory.
func TestWatchMemory_F2(t *testing.T) {
	pgtest.Raced(t)
	pgtest.Long(t)
	source, target := pgtest.Pair(t)
	m := begin(t, source, target)
	m.load()
	m.cut(0, "wait", "caught-up", "--timeout", "30s", "--lag", "0")
	m.cut(0, "fence")
	m.cut(0, "drain")
	m.cut(0, "open")
	m.escape("INSERT INTO log SELECT repeat('x', 200) FROM generate_series(1, 300000); INSERT INTO log VALUES (repeat('y', 100000000))")
	p := m.Start(nil, nil, "pgcutover", "watch", "--slot", m.slot)
	if status := p.Wait(5 * time.Minute); status != 1 {
		t.Errorf("status %d", status)
	}
	says(t, p.Errors(), "public.log: 300001 inserted")
	if used := p.ProcessState.SysUsage().(*syscall.Rusage).Maxrss; used > 64<<10 {
		t.Errorf("%d KB of memory", used)
	}
}
