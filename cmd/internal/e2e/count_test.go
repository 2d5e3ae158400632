package e2e

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// nodePath returns the value of NODE_PATH with which scripts/examples/count.js finds the package
// that it needs.
func nodePath(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s is not installed: run the tests by scripts/test, which installs it", program)
		}
	}
	dir := t.TempDir()
	out, err := exec.Command("npm", "install", "--prefix", dir, "--prefer-offline", "--no-audit", "--no-fund",
		"--no-package-lock", "@msgpack/msgpack@3.1.3").CombinedOutput()
	if err != nil {
		t.Fatalf("npm install @msgpack/msgpack: %v\n%s", err, out)
	}
	return "NODE_PATH=" + dir + "/node_modules"
}

// A program that is not ours reads both kinds of stream, and counts what PostgreSQL has counted
// itself.
func TestCount(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	env := pgtest.NewEnv(t, source, target)
	env.Vars = append(env.Vars, nodePath(t))
	source.Exec(varied(source.Major))
	dir := t.TempDir()

	var rows []string
	for table := range strings.SplitSeq(source.Query(tables), "\n") {
		name := source.Query("SELECT nspname || '.' || relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = $t$" +
			table + "$t$::regclass")
		rows = append(rows, name+"\t"+source.Query("SELECT count(*) FROM ONLY "+table))
	}
	env.Bash(`pgextract --slot "$1" > "$2/full.pgs"`, source.Name, dir)
	if got, want := env.Bash(`node scripts/examples/count.js < "$1/full.pgs" | LC_ALL=C sort`, dir), sorted(rows); got != want {
		t.Errorf("count.js counts in the full load\n%s\nand the tables have\n%s", got, want)
	}

	const stats = "SELECT schemaname || '.' || relname, n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables WHERE n_tup_ins + n_tup_upd + n_tup_del > 0"
	pgtest.Wait(t, 10*time.Second, "the statistics have all rows that were loaded", func() bool {
		return sorted(strings.Split(source.Query(stats), "\n")) == sorted(rows)
	})
	source.Exec("SELECT pg_stat_reset()")
	for k := range 24 {
		if k%12 != 6 && k%12 != 9 { // they take changes back, which the statistics count too
			source.Exec(variedStep(k, source.Major))
		}
	}
	env.Bash(`pgdecode --slot "$1" --until now > "$2/changes.pgs"`, source.Name, dir)
	counted := env.Bash(`node scripts/examples/count.js < "$1/changes.pgs" | LC_ALL=C sort`, dir)
	pgtest.Wait(t, 10*time.Second, "the statistics have the changes that count.js has counted:\n"+counted, func() bool {
		return sorted(strings.Split(source.Query(stats), "\n")) == counted
	})

	status, _, errs := env.Run(nil, "bash", "-c",
		`head -c 1000 "$1/full.pgs" | node "$2/scripts/examples/count.js"`, "bash", dir, pgtest.Root())
	if status != 65 || !strings.Contains(errs, "cut") {
		t.Errorf("of a stream that is cut count.js says, with status %d: %s", status, errs)
	}
}
