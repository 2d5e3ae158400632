package e2e

import (
	"strings"
	"syscall"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// PostgreSQL 10 decodes no TRUNCATE. A table that was truncated is named before the source is
// closed, and no other one is.
func TestTruncatedOn10_C1(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	if source.Major > 10 {
		t.Skip("servers from 11 on decode TRUNCATE")
	}
	f := &following{pgtest.NewEnv(t, source, target), source, target, source.Name}
	schema := `CREATE TABLE kept (id int PRIMARY KEY); CREATE TABLE emptied (id int PRIMARY KEY); CREATE TABLE refilled (id int PRIMARY KEY, v int); CREATE TABLE heap (id int);
		CREATE TABLE p (id int, v int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p (PRIMARY KEY (id)) FOR VALUES FROM (0) TO (99)`
	source.Exec(schema)
	target.Exec(schema)
	const refill = "INSERT INTO refilled SELECT g, 1 FROM generate_series(1, 5) g"
	source.Exec("INSERT INTO kept VALUES (1); INSERT INTO emptied VALUES (1); INSERT INTO heap VALUES (1); INSERT INTO p VALUES (1, 1); " + refill)
	f.Bash("pgextract --slot " + f.slot + " --data-only | pgapply")
	sync := f.Start(nil, nil, "bash", script("sync"), f.slot)
	source.Exec("INSERT INTO kept VALUES (2)", "DELETE FROM emptied", "VACUUM ANALYZE", "BEGIN; TRUNCATE kept; ROLLBACK", "REINDEX TABLE kept")
	f.Bash("pgcutover wait caught-up --lag 0 --timeout 60s --slot " + f.slot)
	if got := f.uncarried(); len(got) > 0 {
		t.Errorf("nothing was truncated: %v", got)
	}
	source.Exec("INSERT INTO emptied VALUES (2)")
	source.Exec("TRUNCATE emptied, heap, p", "BEGIN; TRUNCATE refilled; "+refill+"; COMMIT")
	want := []string{"public.emptied", "public.heap", "public.p1", "public.refilled"}
	lines := f.ledger()
	if len(lines) != len(want) {
		t.Errorf("%v", lines)
	}
	_ = sync.Process.Signal(syscall.SIGTERM)
	sync.Wait(soon)
	for _, name := range want {
		if f.uncarried()[strings.TrimPrefix(name, "public.")] == nil {
			t.Errorf("%s is not named", name)
		}
		f.Bash(strings.Replace(reloading.FindString(lines[name].Remedy), "pgextract", "pgextract --data-only", 1))
	}
	if got := f.uncarried(); len(got) > 0 {
		t.Errorf("all were loaded again: %v", got)
	}
	sync = f.Start(nil, nil, "bash", script("sync"), f.slot)
	f.Bash("pgcutover wait caught-up --lag 0 --timeout 60s --slot " + f.slot)
	// Whoever truncates after the fence has looked is found before the target is open.
	f.Bash("pgcutover fence --slot " + f.slot)
	source.Exec("BEGIN READ WRITE; TRUNCATE kept; COMMIT")
	f.Bash("pgcutover drain --slot " + f.slot)
	if status, _, errs := f.Run(nil, "pgcutover", "open", "--slot", f.slot); status != 78 || !strings.Contains(errs, "public.kept") {
		t.Fatalf("open: status %d\n%s", status, errs)
	}
	f.Bash("pgcutover open --slot " + f.slot + " --allow-missing " + f.ledger()["public.kept"].ID)
	sync.Wait(soon)
	target.Exec("TRUNCATE kept")
	pgtest.Equal(t, source, target)
}
