package main

import (
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// An index that exceeds the target's temp_file_limit always will. The load ends, and names the
// index and the statement that raises the limit, after which it can be built.
func TestTempFileLimit(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE t (a int PRIMARY KEY, b text)", "INSERT INTO t SELECT g, repeat(md5(g::text), 8) FROM generate_series(1, 60000) g",
		"CREATE INDEX too_large ON t (b)")
	target.Exec("ALTER DATABASE "+target.Name+" SET temp_file_limit = '1MB'", "ALTER DATABASE "+target.Name+" SET maintenance_work_mem = '1MB'")
	e := pgtest.NewEnv(t, source, target)
	status, _, errs := e.Run(nil, "bash", "-c", "pgextract | pgapply")
	_, remedy, _ := strings.Cut(errs, "On the target, as a role that may do so: ")
	remedy, _, found := strings.Cut(remedy, ";")
	if status != 1 || !found || !strings.Contains(errs, "INDEX public.too_large: ") || !strings.Contains(remedy, "temp_file_limit") {
		t.Fatalf("status %d: %s", status, errs)
	}
	target.Exec(remedy)
	defer target.Exec(strings.Replace(remedy, " SET temp_file_limit = -1", " RESET temp_file_limit", 1))
	target.Exec("CREATE INDEX too_large ON t (b)")
}
