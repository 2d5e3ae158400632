package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Where no event trigger can be installed, sync itself moves a table that has lost its replica
// identity, or got one, between the slot's two publications: the source refuses nothing that it
// would not refuse without us, and what was not carried is named until the table is loaded again.
func TestKeyLostWithoutTriggers_C1(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	owner, mover := role(t, source, "owner", ""), role(t, source, "mover", "REPLICATION")
	other := role(t, source, "other", "")
	source.Exec("ALTER ROLE "+owner+" NOLOGIN", "GRANT "+owner+" TO "+mover,
		"GRANT CREATE ON DATABASE "+source.Name+" TO "+mover, "ALTER DATABASE "+source.Name+" OWNER TO "+owner,
		"GRANT pg_read_all_stats, pg_read_all_settings, pg_signal_backend TO "+mover,
		"GRANT ALL ON SCHEMA public TO "+owner+", "+other, "GRANT "+other+" TO "+mover)
	t.Cleanup(func() { source.Exec("BEGIN READ WRITE; ALTER DATABASE " + source.Name + " OWNER TO postgres; COMMIT") })
	run := func(sql string) {
		t.Helper()
		source.Exec("SET ROLE " + owner + "; " + sql)
	}
	both := func(sql string) { // no pg_dump is needed then
		t.Helper()
		run(sql)
		target.Exec(sql)
	}
	// Each loses its identity in another way, and gets it again.
	type shape struct{ create, lose, regain string }
	shapes := map[string]shape{
		"Dropped":   {"id int PRIMARY KEY", `ALTER TABLE "Dropped" DROP CONSTRAINT "Dropped_pkey"`, `ALTER TABLE "Dropped" ADD PRIMARY KEY (id)`},
		"deferred":  {"id int PRIMARY KEY", "ALTER TABLE deferred DROP CONSTRAINT deferred_pkey, ADD PRIMARY KEY (id) DEFERRABLE", "ALTER TABLE deferred REPLICA IDENTITY FULL"},
		"nothing":   {"id int PRIMARY KEY", "ALTER TABLE nothing REPLICA IDENTITY NOTHING", "ALTER TABLE nothing REPLICA IDENTITY DEFAULT"},
		"no_index":  {"id int NOT NULL", "DROP INDEX no_index_u", "ALTER TABLE no_index REPLICA IDENTITY DEFAULT, ADD PRIMARY KEY (id)"},
		"no_column": {"id int, k int PRIMARY KEY DEFAULT 1", "ALTER TABLE no_column DROP COLUMN k", "ALTER TABLE no_column ADD PRIMARY KEY (id)"},
		"untouched": {"id int PRIMARY KEY", "", ""},
	}
	if source.Major >= 18 {
		shapes["generated"] = shape{"id int", "ALTER TABLE generated ADD g int GENERATED ALWAYS AS (id + 1) STORED", "ALTER TABLE generated DROP COLUMN g"}
	}
	var all, losing []string
	for name, s := range shapes {
		both(fmt.Sprintf("CREATE TABLE %q (%s, v int)", name, s.create))
		run(fmt.Sprintf("INSERT INTO %q (id, v) SELECT 1, 1", name))
		all = append(all, name)
		if s.lose != "" {
			losing = append(losing, name)
		}
	}
	both("CREATE UNIQUE INDEX no_index_u ON no_index (id); ALTER TABLE no_index REPLICA IDENTITY USING INDEX no_index_u; CREATE TABLE never (id int, v int)")
	if source.Major >= 18 {
		both("ALTER TABLE generated REPLICA IDENTITY FULL")
	}
	trees := source.Major >= 13
	if trees {
		both(`CREATE TABLE p (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9); CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (9) TO (99);
			CREATE TABLE "P 3" (id int NOT NULL, v int)`)
		run("INSERT INTO p SELECT g, 1 FROM generate_series(1, 20) g")
		all, losing = append(all, "p1", "p2", "P 3", "p"), append(losing, "p1")
	}
	slices.Sort(losing)
	f := &following{pgtest.NewEnv(t, source, target), source, target, source.Name}
	f.Source = source.As(mover, "")
	f.Bash("pgextract --slot " + f.slot + " --data-only | pgapply")
	if trees { // it comes into the publication of updates with its partitioned table
		run(`ALTER TABLE "P 3" REPLICA IDENTITY NOTHING; ALTER TABLE p ATTACH PARTITION "P 3" FOR VALUES FROM (99) TO (999)`)
		target.Exec(`ALTER TABLE p ATTACH PARTITION "P 3" FOR VALUES FROM (99) TO (999)`)
	}
	sync := f.Start(nil, nil, "bash", filepath.Join(pgtest.Root(), "scripts", "sync"), f.slot)
	stop := func() {
		t.Helper()
		if err := sync.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatalf("%v: %s", err, sync.Errors())
		}
		sync.Wait(soon)
	}
	refusals := func() (list []string) {
		for _, x := range all {
			if _, err := source.Try(fmt.Sprintf("UPDATE %q SET v = v + 1; DELETE FROM %[1]q WHERE id = 8", x)); err != nil {
				list = append(list, err.Error())
			}
		}
		return list
	}
	reasons := func() string { return fmt.Sprint(f.uncarried()) }
	for _, s := range shapes {
		if s.lose != "" {
			run(s.lose)
		}
	}
	if trees {
		run("ALTER TABLE p1 REPLICA IDENTITY NOTHING")
	}
	target.Exec("ALTER TABLE no_column DROP COLUMN k")
	pgtest.Wait(t, 5*time.Second, "the source refuses nothing", func() bool { return len(refusals()) == 0 })
	want := map[string][]string{}
	for _, x := range losing {
		want[x] = []string{"identity-lost"}
	}
	if got := reasons(); got != fmt.Sprint(want) {
		t.Errorf("status says %s, not %v", got, want)
	}
	f.refused(losing[0])
	run("UPDATE nothing SET id = 5 WHERE id = 1")
	// What else is in the trees, and all inserts, are carried as before.
	run("INSERT INTO nothing VALUES (2, 2)")
	if trees {
		run("UPDATE p SET v = 77 WHERE id = 20")
		pgtest.Wait(t, 20*time.Second, "the other partition", func() bool { return target.Query("SELECT v FROM p2 WHERE id = 20") == "77" })
	}
	pgtest.Wait(t, 20*time.Second, "inserts", func() bool { return target.Query("SELECT count(*) FROM nothing WHERE id = 2") == "1" })
	for _, s := range shapes {
		if s.regain != "" {
			run(s.regain)
		}
	}
	if trees {
		run(`ALTER TABLE p1 REPLICA IDENTITY DEFAULT; ALTER TABLE "P 3" REPLICA IDENTITY DEFAULT`)
	}
	for x := range want {
		want[x] = []string{"gap"}
	}
	if trees { // which had none before
		want["P 3"] = []string{"gap"}
	}
	full := func() string { return inFull(source, source.Name) }
	pgtest.Wait(t, 5*time.Second, "all are published as a whole", func() bool {
		for _, x := range losing {
			if !strings.Contains(" "+full()+" ", " "+x+" ") {
				return false
			}
		}
		return true
	})
	if got := reasons(); got != fmt.Sprint(want) {
		t.Errorf("status says %s, not %v; published as a whole: %s", got, want, full())
	}
	f.refused(losing[0])
	// Loaded again, they are whole. What is changed before that may meet rows that were not changed
	// meanwhile. Sync stops there, and prints the command.
	run("UPDATE nothing SET v = 9 WHERE id = 5")
	if status := sync.Wait(soon); status == 0 || !strings.Contains(sync.Errors(),
		fmt.Sprintf(`pgextract --slot %s --table '"public"."nothing"' --reload | pgapply`, f.slot)) {
		t.Errorf("status %d: %s", status, sync.Errors())
	}
	if r := refusals(); len(r) > 0 {
		t.Errorf("the source refuses %v", r)
	}
	load := "pgextract --slot " + f.slot + " --reload --data-only"
	for x := range want {
		load += fmt.Sprintf(` --table '"%s"'`, x)
	}
	f.Bash(load + " | pgapply")
	sync = f.Start(nil, nil, "bash", filepath.Join(pgtest.Root(), "scripts", "sync"), f.slot)
	if got := reasons(); got != "map[]" {
		t.Errorf("after they were loaded again: %s", got)
	}
	refusals()
	f.Bash("pgcutover wait caught-up --lag 0 --timeout 60s --slot " + f.slot)
	pgtest.Equal(t, source, target)
	// A table that is somebody else's by now leaves the publication all the same; what is lacking
	// for the rest is named.
	run("RESET ROLE; ALTER TABLE untouched OWNER TO " + other + "; REVOKE " + other + " FROM " + mover + "; ALTER TABLE untouched REPLICA IDENTITY NOTHING")
	pgtest.Wait(t, 5*time.Second, "the source refuses nothing", func() bool { return len(refusals()) == 0 })
	if got := reasons(); got != "map[untouched:[not-published]]" {
		t.Errorf("of another owner's table: %s", got)
	}
	if !strings.Contains(sync.Errors(), "GRANT \""+other) {
		t.Errorf("what is lacking is not named: %s", sync.Errors())
	}
	// Without sync it is named, with the statements.
	stop()
	run("ALTER TABLE nothing REPLICA IDENTITY NOTHING")
	if got := reasons(); got != "map[nothing:[refuses] untouched:[not-published]]" {
		t.Errorf("without sync: %s", got)
	}
	if status, out, _ := f.Run(nil, "pgcutover", "check", "--slot", f.slot); status != 78 || !strings.Contains(string(out), "public.nothing") {
		t.Errorf("check without sync: status %d, %s", status, out)
	}
	source.Exec("ALTER PUBLICATION " + f.slot + " OWNER TO " + other)
	if out := f.Must(nil, "pgcutover", "status", "--slot", f.slot); !strings.Contains(string(out), "GRANT \""+other) {
		t.Errorf("status does not say what is lacking: %s", out)
	}
}
