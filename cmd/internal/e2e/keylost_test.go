package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Where no event trigger can be installed, sync itself moves a table that has lost its replica
// identity between the slot's two publications: the source refuses nothing that it would not refuse
// without us, and what is not carried is named.
func TestKeyLostWithoutTriggers_C1(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	owner, mover := role(t, source, "owner", ""), role(t, source, "mover", "REPLICATION")
	source.Exec("ALTER ROLE "+owner+" NOLOGIN", "GRANT "+owner+" TO "+mover,
		"GRANT CREATE ON DATABASE "+source.Name+" TO "+mover,
		"GRANT pg_read_all_stats, pg_read_all_settings, pg_signal_backend TO "+mover)
	source.Exec("GRANT ALL ON SCHEMA public TO " + owner)
	run := func(sql string) {
		t.Helper()
		source.Exec("SET ROLE " + owner + "; " + sql)
	}
	// Each loses its identity in another way.
	type shape struct{ create, lose string }
	shapes := map[string]shape{
		"Dropped":   {"id int PRIMARY KEY", `ALTER TABLE "Dropped" DROP CONSTRAINT "Dropped_pkey"`},
		"deferred":  {"id int PRIMARY KEY", "ALTER TABLE deferred DROP CONSTRAINT deferred_pkey, ADD PRIMARY KEY (id) DEFERRABLE"},
		"nothing":   {"id int PRIMARY KEY", "ALTER TABLE nothing REPLICA IDENTITY NOTHING"},
		"no_index":  {"id int NOT NULL", "DROP INDEX no_index_u"},
		"no_column": {"id int, k int PRIMARY KEY DEFAULT 1", "ALTER TABLE no_column DROP COLUMN k"},
		"untouched": {"id int PRIMARY KEY", ""},
	}
	if source.Major >= 18 {
		shapes["generated"] = shape{"id int", "ALTER TABLE generated ADD g int GENERATED ALWAYS AS (id + 1) STORED"}
	}
	var all, losing []string
	for name, s := range shapes {
		run(fmt.Sprintf("CREATE TABLE %q (%s, v int); INSERT INTO %[1]q (id, v) SELECT 1, 1", name, s.create))
		all = append(all, name)
		if s.lose != "" {
			losing = append(losing, name)
		}
	}
	run("CREATE UNIQUE INDEX no_index_u ON no_index (id); ALTER TABLE no_index REPLICA IDENTITY USING INDEX no_index_u; CREATE TABLE never (id int, v int)")
	if source.Major >= 18 {
		run("ALTER TABLE generated REPLICA IDENTITY FULL")
	}
	trees := source.Major >= 13
	if trees {
		run(`CREATE TABLE p (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9); CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (9) TO (99);
			CREATE TABLE "P 3" (id int NOT NULL, v int); INSERT INTO p SELECT g, 1 FROM generate_series(1, 20) g`)
		all, losing = append(all, "p1", "p2", "P 3", "p"), append(losing, "p1")
	}
	slices.Sort(losing)
	f := &following{pgtest.NewEnv(t, source, target), source, target, source.Name}
	f.Source = source.As(mover, "")
	f.Bash("pgextract --slot " + f.slot + " --no-owner --no-acl | pgapply")
	if trees { // it comes into the publication of updates with its partitioned table
		run(`ALTER TABLE "P 3" REPLICA IDENTITY NOTHING; ALTER TABLE p ATTACH PARTITION "P 3" FOR VALUES FROM (99) TO (999)`)
		target.Exec(`ALTER TABLE p ATTACH PARTITION "P 3" FOR VALUES FROM (99) TO (999)`)
	}
	f.Start(nil, nil, "bash", filepath.Join(pgtest.Root(), "scripts", "sync"), f.slot)
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
	// What else is in the trees, and all inserts, are carried as before.
	run("INSERT INTO nothing VALUES (2, 2)")
	if trees {
		run("UPDATE p SET v = 77 WHERE id = 20")
		pgtest.Wait(t, 20*time.Second, "the other partition", func() bool { return target.Query("SELECT v FROM p2 WHERE id = 20") == "77" })
	}
	pgtest.Wait(t, 20*time.Second, "inserts", func() bool { return target.Query("SELECT count(*) FROM nothing WHERE id = 2") == "1" })
}
