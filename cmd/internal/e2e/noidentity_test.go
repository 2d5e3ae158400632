package e2e

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A ledgerLine is what pgcutover missing says of an object.
type ledgerLine struct {
	ID, Name, Problem, Remedy string
	Allowed                   bool
}

// ledger returns the lines that hold up the cutover, by the name of their object.
func (f *following) ledger() map[string]ledgerLine {
	f.T.Helper()
	status, out, errs := f.Run(nil, "pgcutover", "missing", "--json", "--slot", f.slot)
	var list []ledgerLine
	if err := json.Unmarshal(out, &list); err != nil {
		f.T.Fatalf("status %d: %v: %s%s", status, err, out, errs)
	}
	m := make(map[string]ledgerLine)
	for _, l := range list {
		if !l.Allowed {
			m[l.Name] = l
		}
	}
	return m
}

var (
	alteration = regexp.MustCompile(`ALTER TABLE .*; Then`)
	reloading  = regexp.MustCompile(`pgextract .* \| pgapply`)
)

// A table without replica identity is published for inserts only. If rows of it are updated or
// deleted after the load, that is named before the source is closed, with what mends it; so is that
// nobody can tell. Where nothing was changed, nothing is said.
func TestNoIdentityUpdated_C1(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	f := &following{pgtest.NewEnv(t, source, target), source, target, source.Name}
	owner := role(t, source, "owner", "")
	source.Exec("ALTER DATABASE "+source.Name+" OWNER TO "+owner, "GRANT ALL ON SCHEMA public TO "+owner)
	target.Exec("CREATE ROLE "+owner+" LOGIN", "GRANT ALL ON SCHEMA public TO "+owner)
	t.Cleanup(func() { target.Exec("BEGIN READ WRITE; DROP OWNED BY " + owner + "; DROP ROLE " + owner + "; COMMIT") })
	run := func(sql string) {
		t.Helper()
		if _, err := as(source, owner, sql); err != nil {
			t.Fatal(err)
		}
	}
	tables := []string{`"Updated; now"`, "deleted", "hidden", "parent", "child", "p1", "p2", "untouched", "left", "heap"}
	schema := `CREATE TABLE "Updated; now" (id int, v int); CREATE TABLE deleted (id int, v int); CREATE TABLE hidden (id int PRIMARY KEY, v int); ALTER TABLE hidden REPLICA IDENTITY NOTHING;
		CREATE TABLE parent (id int, v int); CREATE TABLE child () INHERITS (parent); CREATE TABLE p (id int, v int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9);
		CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (9) TO (99); CREATE TABLE untouched (id int, v int); CREATE TABLE "left" (id int, v int); CREATE UNLOGGED TABLE heap (id int, v int); `
	run(schema)
	if _, err := as(target, owner, schema); err != nil {
		t.Fatal(err)
	}
	mover := "mover_" + source.Name
	f.LeastPrivilege(source, target, mover)
	for _, d := range []*pgtest.DB{source, target} {
		t.Cleanup(func() {
			_, _ = d.Try("BEGIN READ WRITE; ALTER DATABASE " + d.Name + " OWNER TO postgres; DROP OWNED BY " + mover + "; COMMIT")
			d.Exec("BEGIN READ WRITE; DROP ROLE " + mover + "; COMMIT")
		})
	}
	for i, x := range tables {
		if x == "left" {
			tables[i] = `"left"`
		}
		run(fmt.Sprintf("INSERT INTO %s SELECT g, 1 FROM generate_series(%d, %d) g", tables[i], 1+9*(i%7/6), 5+9*(i%7/6)))
	}
	f.Bash("pgextract --slot " + f.slot + " --data-only | pgapply")
	sync := f.Start(nil, nil, "bash", script("sync"), f.slot)
	stop := func() {
		t.Helper()
		_ = sync.Process.Signal(syscall.SIGTERM)
		sync.Wait(soon)
	}
	reasons := func() string {
		var list []string
		for x, why := range f.uncarried() {
			list = append(list, x+" "+strings.Join(why, ","))
		}
		slices.Sort(list)
		return strings.Join(list, "; ")
	}
	named := func(want string) {
		t.Helper()
		got := ""
		if !pgtest.Within(15*time.Second, func() bool { got = reasons(); return got == want }) {
			t.Fatalf("status says %q, not %q", got, want)
		}
	}
	run(`INSERT INTO untouched VALUES (6, 1); INSERT INTO p VALUES (6, 1), (16, 1); INSERT INTO "Updated; now" VALUES (6, 1)`)
	f.Bash("pgcutover wait caught-up --lag 0 --timeout 60s --slot " + f.slot)
	if l := f.ledger(); len(l) > 0 || reasons() != "" {
		t.Fatalf("nothing was updated: %v", l)
	}
	f.Bash("pgcutover fence --check --slot " + f.slot)

	run(`UPDATE "Updated; now" SET v = 2 WHERE id = 1; DELETE FROM deleted WHERE id = 2; UPDATE hidden SET v = 3; UPDATE parent SET v = 4; UPDATE "left" SET v = v; INSERT INTO heap VALUES (7, 7)`)
	want := "Updated; now changed; child changed; deleted changed; heap changed; hidden changed; left changed; "
	if source.Major >= 11 {
		run("UPDATE p SET id = 17 WHERE id = 3") // goes to another partition
	} else {
		run("DELETE FROM p WHERE id = 3")
	}
	named(want + "p1 changed; parent changed")
	lines := f.ledger()
	if len(lines) != 8 {
		t.Errorf("%v", lines)
	}
	cutover := func(want int, args ...string) string {
		t.Helper()
		status, _, errs := f.Run(nil, "bash", append([]string{script("cutover"), f.slot, "--yes"}, args...)...)
		if status != want {
			t.Fatalf("cutover %v: status %d\n%s", args, status, errs)
		}
		return errs
	}
	if errs := cutover(78, "--verify", "no"); !strings.Contains(errs, "public.deleted") || strings.Contains(errs, "reopening") {
		t.Errorf("cutover: %s", errs)
	}
	if status, _, errs := f.Run(nil, "pgcutover", "fence", "--check", "--slot", f.slot); status != 78 {
		t.Errorf("fence --check: status %d\n%s", status, errs)
	}
	f.refused("public.deleted", "public.heap", "public.p1")

	// What is printed is done, to the letter, and the application goes on.
	stop()
	for name, l := range lines {
		if name == "public.left" {
			continue
		}
		statement, command := alteration.FindString(l.Remedy), reloading.FindString(l.Remedy)
		if statement == "" || command == "" {
			t.Fatalf("%s: %s", name, l.Remedy)
		}
		run(strings.TrimSuffix(statement, " Then"))
		target.Exec(strings.TrimSuffix(statement, " Then"))
		f.Bash(strings.Replace(command, "pgextract", "pgextract --data-only", 1)) // no pg_dump is needed then
	}
	run(`UPDATE "Updated; now" SET v = 5; DELETE FROM p WHERE id = 4; UPDATE child SET v = 6 WHERE id = 3; UPDATE heap SET v = 7`)
	sync = f.Start(nil, nil, "bash", script("sync"), f.slot)
	named("left changed")
	lines = f.ledger()

	// Statistics that began anew say nothing.
	source.Exec("SELECT pg_stat_reset()")
	named("left uncounted; p2 uncounted; untouched uncounted")
	f.refused("public.untouched")
	stop()
	f.Bash("pgextract --slot " + f.slot + " --data-only --table public.untouched --table public.p2 --reload | pgapply")
	sync = f.Start(nil, nil, "bash", script("sync"), f.slot)
	named("left uncounted")
	lines["uncounted"] = f.ledger()["public.left"]
	if lines["uncounted"].ID == lines["public.left"].ID {
		t.Error("who allows the one allows the other")
	}

	// Whoever writes after the fence has looked is found before the target is open.
	f.Bash("pgcutover fence --slot " + f.slot + " --allow-missing " + lines["uncounted"].ID)
	source.Exec("BEGIN READ WRITE; UPDATE untouched SET v = 9 WHERE id = 1; COMMIT")
	pgtest.Wait(t, 10*time.Second, "it is counted", func() bool {
		return source.Query("SELECT pg_stat_get_tuples_updated('untouched'::regclass)") != "0"
	})
	f.Bash("pgcutover drain --slot " + f.slot)
	if status, _, errs := f.Run(nil, "pgcutover", "open", "--slot", f.slot); status != 78 || !strings.Contains(errs, "public.untouched") {
		t.Fatalf("open: status %d\n%s", status, errs)
	}
	f.Bash("pgcutover unfence --slot " + f.slot)
	// The reload renews what it is judged by, also without an identity.
	stop()
	f.Bash("pgextract --slot " + f.slot + " --data-only --table public.untouched --reload | pgapply")
	sync = f.Start(nil, nil, "bash", script("sync"), f.slot)
	cutover(0, "--verify", "first")
	sync.Wait(soon)
	pgtest.Equal(t, source, target)
}
