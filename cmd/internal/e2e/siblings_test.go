package e2e

import (
	"fmt"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A partition that loses its identity, and gets it again, makes no gap in the others and hides none
// of theirs, when the triggers of ddl install move it between the publications.
func TestSiblings_C2(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t) // carried's test of this name has the steps of sync
	source, target := pgtest.Pair(t)
	if source.Major < 14 {
		t.Skip("statements are recorded from 14 on")
	}
	f := &following{pgtest.NewEnv(t, source, target), source, target, source.Name}
	schema := `CREATE TABLE p (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9); CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (9) TO (99);
		CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (99) TO (999) PARTITION BY RANGE (id); CREATE TABLE p31 PARTITION OF p3 FOR VALUES FROM (99) TO (200); CREATE TABLE p32 PARTITION OF p3 FOR VALUES FROM (200) TO (300)`
	source.Exec(schema)
	target.Exec(schema)
	f.Bash("pgextract --slot " + f.slot + " --data-only | pgapply")
	f.Must(nil, "pgcutover", "ddl", "install")
	step := func(want, sql string) {
		t.Helper()
		if sql != "" {
			source.Exec(sql)
		}
		if got := fmt.Sprint(f.uncarried()); got != want {
			t.Errorf("after %s: %s, not %s\n%s", sql, got, want, inFull(source, source.Name))
		}
	}
	reload := func(table string) {
		t.Helper()
		f.Bash("pgextract --slot " + f.slot + " --data-only --reload --table " + table + " | pgapply")
	}
	step("map[]", "")
	step("map[p1:[identity-lost]]", "ALTER TABLE p1 REPLICA IDENTITY NOTHING")
	step("map[p1:[identity-lost] p31:[identity-lost]]", "ALTER TABLE p31 REPLICA IDENTITY NOTHING")
	step("map[p1:[gap] p31:[identity-lost]]", "ALTER TABLE p1 REPLICA IDENTITY DEFAULT")
	step("map[p1:[gap] p31:[gap]]", "ALTER TABLE p31 REPLICA IDENTITY DEFAULT")
	step("map[p1:[identity-lost] p31:[gap]]", "ALTER TABLE p1 REPLICA IDENTITY NOTHING")
	step("map[p1:[gap] p31:[gap]]", "ALTER TABLE p1 REPLICA IDENTITY DEFAULT")
	reload("p1 --table p31")
	step("map[]", "")
	step("map[p2:[identity-lost]]", "ALTER TABLE p2 REPLICA IDENTITY NOTHING")
	step("map[p2:[gap]]", "ALTER TABLE p2 REPLICA IDENTITY DEFAULT")
	step("map[p2:[identity-lost]]", "ALTER TABLE p2 REPLICA IDENTITY NOTHING")
	step("map[p2:[gap]]", "ALTER TABLE p2 REPLICA IDENTITY FULL")
	reload("p2")
	step("map[]", "")
	// Sync puts the whole tree back into the first publication. A partition that was loaded since
	// is published only through it.
	source.Exec("ALTER PUBLICATION "+f.slot+" ADD TABLE ONLY p", "CREATE TABLE p4 PARTITION OF p FOR VALUES FROM (999) TO (9999)")
	target.Exec("CREATE TABLE p4 PARTITION OF p FOR VALUES FROM (999) TO (9999)")
	reload("p4")
	step("map[]", "")
	step("map[p1:[uncounted]]", "ALTER TABLE p1 REPLICA IDENTITY NOTHING")
	step("map[p1:[gap]]", "ALTER TABLE p1 REPLICA IDENTITY DEFAULT")
}
