package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// script returns the path of one of the scripts.
func script(name string) string { return filepath.Join(pgtest.Root(), "scripts", name) }

// When sync starts its programs again and when it ends, and with which status. The programs are
// replaced by some that end as they are told.
func TestSyncStatuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		decoded, applied string // statuses; "kill" for death by SIGKILL
		want             int    // −1: started again
	}{
		{"0", "0", 0},
		{"143", "0", -1}, // told to stop, pgdecode has ended the stream in order
		// the cutover has ended the stream; what pgdecode makes of that does not matter
		{"78", "0", 0},
		{"0", "1", 1},
		{"0", "65", 65},
		{"69", "65", 69},
		{"77", "65", 77},
		{"78", "65", 78},
		{"1", "65", 1},
		{"75", "65", -1},
		{"kill", "65", -1},
		{"141", "1", 1},
		{"0", "75", -1},
		{"75", "75", -1},
		{"78", "75", -1}, // what pgapply has to say about the target comes first
		{"0", "kill", -1},
		{"0", "77", 77},
		{"75", "78", 78},
		{"75", "2", 2},
	} {
		t.Run(c.decoded+","+c.applied, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			// The second time they succeed.
			for name, status := range map[string]string{"pgdecode": c.decoded, "pgapply": c.applied, "pgcutover": "0"} {
				end := "exit " + status
				if status == "kill" {
					end = "kill -KILL $$"
				}
				text := fmt.Sprintf("#!/bin/sh\nif [ %[1]s = pgapply ]; then cat >/dev/null; fi\n[ -e %[2]s/%[1]s.begun ] && exit 0\n: >%[2]s/%[1]s.begun\n%[3]s\n",
					name, dir, end)
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			e := &pgtest.Env{T: t, Dir: dir}
			status, _, errs := e.Run(nil, "bash", script("sync"), "mig")
			again := strings.Contains(errs, "starting again")
			if again != (c.want == -1) || status != max(c.want, 0) {
				t.Errorf("status %d, %s", status, errs)
			}
		})
	}
}

// scriptPair makes a source with a table, loaded into the target.
func scriptPair(t *testing.T, source, target *pgtest.DB) (e *pgtest.Env, slot string) {
	t.Helper()
	e, slot = pgtest.NewEnv(t, source, target), "scr_"+source.Name
	source.Exec("CREATE TABLE t (a int PRIMARY KEY, b text)", "INSERT INTO t SELECT g, 'x' FROM generate_series(1, 100) g")
	e.Bash("pgextract --slot " + slot + " | pgapply")
	return e, slot
}

// follow waits until the target has as many rows as the source.
func follow(t *testing.T, source, target *pgtest.DB) {
	t.Helper()
	want := source.Query("SELECT count(*), sum(a) FROM t")
	pgtest.Wait(t, soon, "the target has everything", func() bool {
		got, err := target.Try("SELECT count(*), sum(a) FROM t")
		return err == nil && got == want
	})
}

// sync goes on after either server was away, stops in order when it is told to, and goes on from
// there when it is started again.
func TestSyncRestarts(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Start(t, pgtest.Source(t).Major).Database(t, ""), pgtest.Start(t, pgtest.Target(t).Major).Database(t, "")
	e, slot := scriptPair(t, source, target)
	p := e.Start(nil, nil, "bash", script("sync"), slot)
	next := 1000
	change := func() {
		source.Exec(fmt.Sprintf("INSERT INTO t SELECT g, 'y' FROM generate_series(%d, %d) g", next, next+99))
		next += 100
	}
	change()
	follow(t, source, target)
	for name, s := range map[string]*pgtest.Server{"source": source.Server, "target": target.Server} {
		before := strings.Count(p.Errors(), "starting again")
		s.Kill()
		if name == "target" {
			change()
			pgtest.Wait(t, 30*time.Second, "sync tries again", func() bool { return strings.Count(p.Errors(), "starting again") > before })
			pgtest.Wait(t, 30*time.Second, "sync waits",
				func() bool {
					return strings.Contains(p.Errors(),
						"the target does not answer; waiting for it")
				})
		}
		s.Restart(t)
		change()
		follow(t, source, target)
		if back := strings.Count(p.Errors(), "the target is back after"); name == "target" && back != 1 {
			t.Errorf("the target was back %d times: %s", back, p.Errors())
		}
	}
	// Two at a time do not work on the same slot; the second one says so, and who the first one is.
	// It makes no difference if of the first one only what it has started is left.
	for range 2 {
		second := e.Start(nil, nil, "bash", script("sync"), slot)
		if source.Major >= 12 { // before, nothing tells whether a reader is at work
			if status := second.Wait(soon); status != 78 ||
				!strings.Contains(second.Errors(), "is being read by another running process") ||
				strings.Contains(second.Errors(), "starting again") {
				t.Errorf("a second sync: status %d: %s", status, second.Errors())
			}
		} else {
			pgtest.Wait(t, soon, "the second one tries again",
				func() bool { return strings.Contains(second.Errors(), "starting again") })
			second.Kill()
		}
		if !strings.Contains(second.Errors(), " is pgdecode, connected from") {
			t.Errorf("it does not say who reads the slot: %s", second.Errors())
		}
		_ = syscall.Kill(p.Process.Pid, syscall.SIGKILL)
	}
	p.Kill() // and all that it has started
	pgtest.Wait(t, 10*time.Second, "nobody reads the slot", func() bool {
		return source.Query("SELECT count(*) FROM pg_replication_slots WHERE active") == "0"
	})
	change()
	p = e.Start(nil, nil, "bash", script("sync"), slot)
	follow(t, source, target)
	pgtest.EqualTable(t, source, target, "t")
	// Told to stop at once after its start, it stops as well.
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := p.Wait(soon); status != 143 {
		t.Errorf("status %d: %s", status, p.Errors())
	}
	for i := range 5 {
		p = e.Start(nil, nil, "bash", script("sync"), slot)
		time.Sleep(time.Duration(i) * 15 * time.Millisecond) // at different places
		if err := p.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if status := p.Wait(soon); status != 143 {
			t.Errorf("status %d: %s", status, p.Errors())
		}
	}
	// A supervisor or a terminal tells the whole group; sync still ends last.
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT} {
		for i := range 4 {
			p = e.Start(nil, nil, "bash", script("sync"), slot)
			if i > 0 {
				change()
				follow(t, source, target)
			}
			if err := syscall.Kill(-p.Process.Pid, signal); err != nil {
				t.Fatal(err)
			}
			if status := p.Wait(soon); status != 143 && (i > 0 || status != 128+int(signal)) ||
				i > 0 && unasked(p.Errors()) != "" {
				t.Errorf("%v to all: status %d: %s", signal, status, p.Errors())
			}
		}
	}
	// What trying again does not change ends it.
	for args, want := range map[string]int{"nothing_of_that_name": 69, "Bad": 64, "": 64} {
		if status, _, errs := e.Run(nil, "bash", script("sync"), args); status != want {
			t.Errorf("sync %q: status %d, %s", args, status, errs)
		}
	}
}

// writable reports whether an application can write to the source.
func writable(d *pgtest.DB) bool {
	_, err := d.Try("CREATE TABLE probe (); DROP TABLE probe")
	return err == nil
}

// A cutover that fails, or is interrupted, before the target is open gives the source back;
// afterwards it does not, and does what is left.
func TestCutoverScript(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	// A server of its own: what other tests write would be lag.
	source, target := pgtest.Start(t, pgtest.Source(t).Major).Database(t, ""), pgtest.Target(t).Database(t, "")
	e, slot := scriptPair(t, source, target)
	cutover := func(want int, says string, args ...string) {
		t.Helper()
		status, _, errs := e.Run(nil, "bash", append([]string{script("cutover"), slot, "--yes"}, args...)...)
		if status != want || !strings.Contains(errs, says) {
			t.Errorf("cutover %v: status %d: %s", args, status, errs)
		}
	}
	for _, args := range [][]string{nil, {slot, "--nonsense"}, {slot, "--verify", "perhaps"}} {
		if status, _, errs := e.Run(nil, "bash",
			append([]string{script("cutover")}, args...)...); status != 64 ||
			!strings.Contains(errs, "usage:") {
			t.Errorf("cutover %v: status %d: %s", args, status, errs)
		}
	}
	// Without a terminal nobody can answer.
	if status, _, errs := e.Run(nil, "setsid", "--wait", "bash", script("cutover"), slot); status != 78 ||
		!strings.Contains(errs, "nothing was done") || !writable(source) {
		t.Errorf("nobody says yes: status %d: %s", status, errs)
	}
	// Nobody reads the slot, which is found out before the source is closed.
	app := source.Connect()
	status, _, errs := e.Run(nil, "bash", script("cutover"), slot, "--yes")
	if status != 78 || !strings.Contains(errs, "scripts/sync "+slot) || strings.Contains(errs, "reopening the source") {
		t.Errorf("without sync: status %d: %s", status, errs)
	}
	if _, err := app.Exec(pgtest.Context(t), "INSERT INTO t VALUES (0, 'undisturbed')"); err != nil {
		t.Errorf("without sync: %v", err)
	}
	// A table was made on the source, and nobody has told the target: which is found out before,
	// too.
	source.Exec(`CREATE TABLE "Late" (a int PRIMARY KEY)`, `INSERT INTO "Late" VALUES (1)`,
		"CREATE TABLE late (a int PRIMARY KEY)", "INSERT INTO late VALUES (1)")
	const reload = ` --table '"public"."Late"' --table public.late --reload | pgapply`
	p := e.Start(nil, nil, "bash", script("sync"), slot)
	status, _, errs = e.Run(nil, "bash", script("cutover"), slot, "--yes")
	if status != 78 || !strings.Contains(errs, "2 tables of the source: public.Late, public.late") ||
		!strings.Contains(errs, "pgextract --slot "+slot+reload) ||
		strings.Contains(errs, "reopening the source") {
		t.Errorf("a table is missing: status %d: %s", status, errs)
	}
	if status, out, _ := e.Run(nil, "pgcutover", "check"); status != 1 || !strings.Contains(string(out), "2 tables of the source") ||
		!strings.Contains(string(out), reload) {
		t.Errorf("check: %s", out)
	}
	p.Kill()
	pgtest.Wait(t, 10*time.Second, "nobody reads the slot", func() bool {
		return source.Query("SELECT count(*) FROM pg_replication_slots WHERE active") == "0"
	})
	e.Bash("pgextract --slot " + slot + reload)
	// The rows differ.
	p = e.Start(nil, nil, "bash", script("sync"), slot)
	follow(t, source, target)
	target.Exec("UPDATE t SET b = 'z' WHERE a = 7")
	cutover(1, "THE TARGET DIFFERS", "--verify", "first")
	if !writable(source) {
		t.Error("the source is closed")
	}
	target.Exec("UPDATE t SET b = 'x' WHERE a = 7")
	// Interrupted when the source is closed already, and the target is held up.
	holdUp, dir := target.Connect(), t.TempDir()
	c := e.Start(nil, nil, "bash", script("cutover"), slot, "--yes", "--resume", "true",
		"--pause", "cd "+dir+"; touch paused; until [[ -e held ]]; do sleep 0.05; done")
	exists := func(name string) bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil }
	pgtest.Wait(t, soon, "the pause", func() bool { return exists("paused") })
	if _, err := holdUp.Exec(t.Context(), "BEGIN; LOCK TABLE t"); err != nil {
		t.Fatal(err)
	}
	source.Exec("INSERT INTO t VALUES (-1, 'held up')")
	if err := os.WriteFile(filepath.Join(dir, "held"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Wait(t, 30*time.Second, "the source is fenced", func() bool { return !writable(source) })
	if err := syscall.Kill(-c.Process.Pid, syscall.SIGINT); err != nil { // as Ctrl-C does
		t.Fatal(err)
	}
	if status := c.Wait(soon); status != 130 || !strings.Contains(c.Errors(), "reopening the source") || !writable(source) {
		t.Errorf("interrupted: status %d, the source can be written to: %v: %s", status, writable(source), c.Errors())
	}
	if _, err := holdUp.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	// The command that directs the application to the target fails: the target is open all the
	// same, and everything else is done.
	cutover(1, "direct the application to the target yourself", "--switch", "exit 9")
	if status := p.Wait(soon); status != 0 {
		t.Errorf("sync: status %d: %s", status, p.Errors())
	}
	if writable(source) || !writable(target) {
		t.Error("the source can be written to, or the target cannot")
	}
	if out := string(e.Must(nil, "pgcutover", "status")); !strings.Contains(out, "3 tables, ") || strings.Contains(out, "missing") {
		t.Errorf("status: %s", out)
	}
	// Again: nothing is left to do.
	cutover(0, "already open")
	if writable(source) {
		t.Error("the source was given back")
	}
	// A row behind the fence is shouted about, until it is accepted.
	source.Exec("BEGIN READ WRITE; INSERT INTO late VALUES (77); COMMIT")
	cutover(1, "the source was written to after the last change that the target has: public.late: 1 inserted, such as (77)")
}

// A difference that was found behind the opening of the target is not forgotten.
func TestCutoverRemembersDifferences(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Start(t, pgtest.Source(t).Major).Database(t, ""), pgtest.Target(t).Database(t, "")
	e, slot := scriptPair(t, source, target)
	p := e.Start(nil, nil, "bash", script("sync"), slot)
	follow(t, source, target)
	target.Exec("UPDATE t SET b = 'z' WHERE a = 7")
	for _, says := range []string{"THE TARGET DIFFERS", "THE TARGET DIFFERED"} {
		status, _, errs := e.Run(nil, "bash", script("cutover"), slot, "--yes")
		if status != 1 || !strings.Contains(errs, says) || !strings.Contains(errs, "public.t") {
			t.Errorf("status %d: %s", status, errs)
		}
	}
	// What to do now is another thing than before the switch.
	if status, _, errs := e.Run(nil, "pgcutover", "verify", "--slot", slot); status != 1 ||
		strings.Contains(errs, "unfence") || !strings.Contains(errs, "hint: The target is open") {
		t.Errorf("verify after the switch: status %d: %s", status, errs)
	}
	if out := string(e.Must(nil, "pgcutover", "status", "--slot", slot)); !strings.Contains(out, "1 of 1 table differs: public.t") {
		t.Errorf("status:\n%s", out)
	}
	if status := p.Wait(soon); status != 0 {
		t.Errorf("sync: status %d: %s", status, p.Errors())
	}
}

// What verify has come to is its exit status: a cutover takes nothing that could not be compared
// for a difference, and no word of a report for another. The programs are replaced by one that ends
// as it is told.
func TestCutoverVerifyStatuses_F13(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		verify, ends string // --verify; how pgcutover verify ends
		want         int
		says, verbs  string
	}{
		{"first", "exit 0", 0, "all tables are equal", "wait prepare missing fence reverse reverse ready fence drain verify open finish"},
		{"first", "exit 1", 1, "THE TARGET DIFFERS", "wait prepare missing fence reverse reverse ready fence drain verify close unfence"},
		{"first", "exit 78", 78, "could not be verified", "wait prepare missing fence reverse reverse ready fence drain verify close unfence"},
		{"first", "kill -KILL $$", 137, "could not be verified", "wait prepare missing fence reverse reverse ready fence drain verify close unfence"},
		{"behind", "exit 0", 0, "all tables are equal", "wait prepare missing fence reverse reverse ready fence drain open verify verified watch finish"},
		{"behind", "echo 'exit 1' >$0.watch; exit 0", 0, "but not what was written", "wait prepare missing fence reverse reverse ready fence drain open verify verified watch finish"},
		{"behind", "echo 'exit 75' >$0.watch; exit 0", 0, "cannot be told", "wait prepare missing fence reverse reverse ready fence drain open verify verified watch finish"},
		{"behind", "exit 1", 1, "THE TARGET DIFFERS", "wait prepare missing fence reverse reverse ready fence drain open verify verified finish"},
		{"behind", "exit 75", 75, "could not be verified", "wait prepare missing fence reverse reverse ready fence drain open verify verified finish"},
		{"no", "exit 1", 0, "the target is open", "wait prepare missing fence reverse reverse ready fence drain open finish"},
	} {
		t.Run(fmt.Sprintf("%s,%d", c.verify, c.want), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			text := `#!/bin/bash
case "$*" in
*'--get target_open') echo false ;;
*'--get state') echo syncing ;;
lock*) echo 1; while read -r step; do echo "$step" >>` + dir + `/verbs; echo 0; done ;;
verify*) echo verify >>` + dir + `/verbs; echo "different	equal: THE TARGET DIFFERS	5"; ` + c.ends + ` ;;
*) echo "$1" >>` + dir + `/verbs ;;
esac
if [[ $1 == watch && -e $0.watch ]]; then . "$0.watch"; fi
`
			e := played(t, dir, text)
			status, _, errs := e.Run(nil, "bash", script("cutover"), "mig", "--yes", "--verify", c.verify)
			verbs, err := os.ReadFile(filepath.Join(dir, "verbs"))
			if got := strings.Join(strings.Fields(string(verbs)), " "); err != nil || status != c.want ||
				!strings.Contains(errs, "cutover: "+c.says) && !strings.Contains(errs, c.says) ||
				got != c.verbs {
				t.Errorf("status %d, verbs %q, %s", status, got, errs)
			}
			if c.want != 1 && strings.Contains(errs, "cutover: THE TARGET DIFFERS") {
				t.Errorf("it takes that for a difference: %s", errs)
			}
		})
	}
}

// The answer of open is lost, and the target is open only a moment after the script has asked. Then
// the source is not given back, and the application goes to the target.
func TestCutoverOpensLate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := `#!/bin/bash
case "$*" in
*'--get target_open') if [[ -e $0.open ]]; then echo true; else echo false; fi ;;
*'--get state') echo syncing ;;
lock*) echo 1; while read -r step && [[ $step != open ]]; do echo 0; done ;;
unfence*) : >"$0.open"; exit 78 ;;
esac
`
	e := played(t, dir, text)
	status, out, errs := e.Run(nil, "bash", script("cutover"), "mig", "--yes", "--switch", "echo switched", "--pause", "true", "--resume", "echo resumed")
	if status != 75 || !strings.Contains(errs, "switched\nresumed\n") || !strings.Contains(errs, "the target is open. To do the remaining steps") ||
		strings.Contains(errs, "could not reopen") || strings.Contains(errs, "nothing was switched") {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
}

// A second Ctrl-C does not reach what gives the source back, although our programs take the signal
// even where it is ignored, as perl does here.
func TestCutoverUndoesOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := `#!/bin/bash
case "$*" in
*'--get target_open') echo false ;;
*'--get state') echo syncing ;;
lock*) echo 1; while read -r step && [[ $step != drain ]]; do echo 0; done ;;
unfence*) exec perl -e '$SIG{INT} = sub { exit 130 }; open(F, ">>", $ARGV[0]); syswrite(F, "begun "); select(undef, undef, undef, 0.05) until -e $ARGV[1]' "$0.unfence" "$0.end" ;;
esac
`
	e := played(t, dir, text)
	p := e.Start(nil, nil, "bash", script("cutover"), "mig", "--yes")
	begun := func() string {
		b, _ := os.ReadFile(filepath.Join(dir, "pgcutover.unfence"))
		return string(b)
	}
	pgtest.Wait(t, 20*time.Second, "the undo has begun", func() bool { return begun() != "" })
	if err := syscall.Kill(-p.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pgcutover.end"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if status := p.Wait(20 * time.Second); status != 75 || begun() != "begun " || !strings.Contains(p.Errors(), "the source is still the primary") {
		t.Errorf("status %d, undone %q: %s", status, begun(), p.Errors())
	}
}

// migrate does everything in order, and what is left when it is started again.
func TestMigrateScript(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	e, slot := pgtest.NewEnv(t, source, target), "mgr_"+source.Name
	source.Exec("CREATE TABLE t (a int PRIMARY KEY, b text)",
		"CREATE TABLE u (a int PRIMARY KEY REFERENCES t)",
		"INSERT INTO t SELECT g, 'x' FROM generate_series(1, 20000) g", "INSERT INTO u SELECT a FROM t")
	if status, _, errs := e.Run(nil, "bash", script("migrate")); status != 64 || !strings.Contains(errs, "usage:") {
		t.Errorf("no slot: status %d: %s", status, errs)
	}
	// What check finds keeps it from beginning.
	source.Exec("BEGIN; INSERT INTO t VALUES (0, 'prepared'); PREPARE TRANSACTION '" + slot + "'")
	if status, _, errs := e.Run(nil, "bash", script("migrate"), slot, "--yes"); status != 78 || !strings.Contains(errs, "PREPARED") {
		t.Errorf("refused by check: status %d: %s", status, errs)
	}
	source.Exec("COMMIT PREPARED '" + slot + "'")
	// Killed in the middle of it, with all that it has started.
	p := e.Start(nil, nil, "bash", script("migrate"), slot, "--jobs", "2", "--yes")
	pgtest.Wait(t, soon, "the load has begun", func() bool {
		n, err := target.Try("SELECT count(*) FROM pgsluice.streams")
		return err == nil && n == "1"
	})
	p.Kill()
	p = e.Start(nil, nil, "bash", script("migrate"), slot, "--jobs", "2", "--yes", "--switch", "true")
	if status := p.Wait(3 * time.Minute); status != 0 {
		t.Fatalf("status %d: %s", status, p.Errors())
	}
	pgtest.Equal(t, source, target)
	if writable(source) || !writable(target) ||
		target.Query("SELECT count(*) FROM pg_constraint WHERE conrelid = 'u'::regclass AND contype = 'f' AND convalidated") != "1" {
		t.Error("the cutover is not complete")
	}
	if status, _, errs := e.Run(nil, "bash", script("migrate"), slot, "--yes"); status != 0 || !strings.Contains(errs, "already open") {
		t.Errorf("again: status %d: %s", status, errs)
	}
}

// cluster starts servers, keeps them, starts them again, and leaves nothing behind.
func TestClusterScript(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	dir, err := os.MkdirTemp("", "pgsluice-cluster-") // where the servers' own user may go
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	e := &pgtest.Env{T: t, Dir: dir, Vars: []string{"PGSLUICE_TMP=" + filepath.Join(dir, "servers")}}
	cluster := func(want int, args ...string) string {
		t.Helper()
		status, out, errs := e.Run(nil, "bash", append([]string{script("cluster")}, args...)...)
		if status != want {
			t.Fatalf("cluster %v: status %d: %s", args, status, errs)
		}
		return strings.TrimSpace(string(out))
	}
	t.Cleanup(func() { cluster(0, "stop", "--all") })
	sql := func(uri, sql string) string {
		t.Helper()
		return strings.TrimSpace(e.Bash(`psql -XAtq -v ON_ERROR_STOP=1 -d "$1" -c "$2"`, uri, sql))
	}
	uri := cluster(0, "start", "one", "--", "work_mem=7MB", "cluster_name=it's")
	if got := sql(uri, "SELECT current_setting('wal_level') || current_setting('work_mem') || current_setting('cluster_name')"); got != "logical7MBit's" {
		t.Errorf("settings: %s", got)
	}
	sql(uri, "CREATE TABLE kept ()")
	if list := cluster(0, "list"); !strings.HasPrefix(list, "one\t") || !strings.Contains(list, "\trunning\t"+uri) {
		t.Errorf("list: %s", list)
	}
	cluster(1, "start", "one") // it is running already
	cluster(0, "stop", "--keep", "one")
	if list := cluster(0, "list"); !strings.Contains(list, "\tstopped\t") {
		t.Errorf("list: %s", list)
	}
	if again := cluster(0, "start", "one", "--", "work_mem=8MB"); again != uri {
		t.Errorf("started again, it is at %s", again)
	}
	if got := sql(uri, "SELECT current_setting('work_mem') || count(*) FROM kept"); got != "8MB0" {
		t.Errorf("started again: %s", got)
	}
	cluster(0, "start", "two")
	cluster(0, "stop", "one")
	if list := cluster(0, "list"); !strings.HasPrefix(list, "two\t") || strings.Contains(list, "\n") {
		t.Errorf("list: %s", list)
	}
	cluster(0, "stop", "--all")
	if list := cluster(0, "list"); list != "" {
		t.Errorf("list: %s", list)
	}
	for _, args := range [][]string{nil, {"start"}, {"start", "a/b"}, {"start", "x", "--port"},
		{"start", "x", "--nonsense", "y"}, {"begin", "x"}} {
		cluster(64, args...)
	}
	cluster(1, "stop", "none")
	cluster(1, "start", "bad", "--", "work_mem=nonsense")
}
