package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A page is a document whose commands are run: blocks of sh are run as they stand, blocks of
// console (which have their output) by sessions, blocks of sql on a server. Blocks of any other
// kind are not run.
type page struct {
	t    *testing.T
	name string
	text string
	next map[string]int // by kind: how many blocks were taken
}

var codeBlock = regexp.MustCompile("(?s)```([a-z]+)\n(.*?)```")

func readPage(t *testing.T, name string) *page {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(pgtest.Root(), name))
	if err != nil {
		t.Fatal(err)
	}
	return &page{t: t, name: name, text: string(b), next: make(map[string]int)}
}

func (p *page) blocks(kind string) (list []string) {
	for _, m := range codeBlock.FindAllStringSubmatch(p.text, -1) {
		if m[1] == kind {
			list = append(list, m[2])
		}
	}
	return list
}

// take returns the next block of a kind, which must have something in it.
func (p *page) take(kind, with string) string {
	p.t.Helper()
	list, i := p.blocks(kind), p.next[kind]
	p.next[kind]++
	if i >= len(list) || !strings.Contains(list[i], with) {
		p.t.Fatalf("%s has changed, and this test does not know how: block %d of %s with %q", p.name, i+1, kind, with)
	}
	return list[i]
}

// done fails if there are blocks that nobody has run.
func (p *page) done() {
	p.t.Helper()
	for _, kind := range []string{"sh", "console", "sql"} {
		if n := len(p.blocks(kind)); n != p.next[kind] {
			p.t.Errorf("%s has %d blocks of %s, and %d of them are run: add the others to its test, or call them text",
				p.name, n, kind, p.next[kind])
		}
	}
}

// Each page with commands has a test that runs them.
var pageTests = map[string]string{
	"README.md":               "TestDocsQuickstart",
	"docs/quickstart.md":      "TestDocsQuickstart",
	"docs/install.md":         "TestDocsInstall",
	"docs/full-load.md":       "TestDocsNight",
	"docs/conflicts.md":       "TestDocsNight",
	"docs/schema-changes.md":  "TestDocsNight",
	"docs/sync.md":            "TestDocsNight",
	"docs/monitoring.md":      "TestDocsNight",
	"docs/cutover.md":         "TestDocsNight",
	"docs/cutover-steps.md":   "TestDocsNight",
	"docs/watch.md":           "TestDocsNight",
	"docs/verification.md":    "TestDocsNight",
	"docs/large.md":           "TestDocsParts",
	"docs/fleet.md":           "TestFleet",
	"docs/citus.md":           "TestCitus",
	"docs/pipes.md":           "TestDocsPipes",
	"docs/roles.md":           "TestLeastPrivilegeRoles_P10",
	"docs/troubleshooting.md": "",
}

func TestDocsAreRun(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(pgtest.Root(), "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"README.md", "SECURITY.md"}
	for _, p := range pages {
		names = append(names, "docs/"+filepath.Base(p))
	}
	for _, name := range names {
		p := readPage(t, name)
		if n := len(p.blocks("sh")) + len(p.blocks("console")) + len(p.blocks("sql")); n > 0 && pageTests[name] == "" {
			t.Errorf("%s has commands, and no test in pageTests", name)
		}
	}
	roles := readPage(t, "docs/roles.md")
	for _, heading := range roleRecipes {
		roles.take("sql", recipe(t, heading))
	}
	roles.done()
}

// A workplace is where the commands are typed: a folder with scripts/ in it, two databases, and an
// ssh that goes nowhere.
type workplace struct {
	*pgtest.Env
	t              *testing.T
	dir            string
	source, target *pgtest.DB
}

func newWorkplace(t *testing.T) *workplace {
	source, target := pgtest.Pair(t)
	return newWorkplaceOf(t, source, target)
}

func newWorkplaceOf(t *testing.T, source, target *pgtest.DB) *workplace {
	t.Helper()
	w := &workplace{Env: pgtest.NewEnv(t, source, target), t: t, dir: t.TempDir(), source: source, target: target}
	if err := os.CopyFS(filepath.Join(w.dir, "scripts"), os.DirFS(filepath.Join(pgtest.Root(), "scripts"))); err != nil {
		t.Fatal(err)
	}
	ssh := "#!/bin/bash\n# As the real one does it: the host, then words for a shell there.\nshift\nexec bash -c \"$*\"\n"
	if err := os.WriteFile(filepath.Join(w.dir, "ssh"), []byte(ssh), 0o755); err != nil {
		t.Fatal(err)
	}
	return w
}

// run runs a block of commands, in which the slot has the database's name instead of "mig".
func (w *workplace) run(block string) {
	w.t.Helper()
	block = regexp.MustCompile(`\bmig\b`).ReplaceAllString(block, w.source.Name)
	w.t.Logf("running\n%s", block)
	w.Bash(`cd "$1"; PATH=$1:$PATH; `+block, w.dir)
}

// replace replaces what stands once in s, and fails the test if it does not.
func replace(t *testing.T, s, old, new string) string {
	t.Helper()
	if strings.Count(s, old) != 1 {
		t.Fatalf("the documents have changed, and this test does not know how: %q stands %d times in\n%s", old, strings.Count(s, old), s)
	}
	return strings.Replace(s, old, new, 1)
}

// The programs are built as the demo builds them, and found on PATH.
func TestDocsInstall(t *testing.T) {
	p := readPage(t, "docs/install.md")
	demo, err := os.ReadFile(script("demo"))
	if err != nil {
		t.Fatal(err)
	}
	if build := p.take("sh", "go build"); !strings.Contains(string(demo), strings.TrimSpace(build)) {
		t.Errorf("scripts/demo builds in another way than %s", build)
	}
	dir := t.TempDir()
	e := &pgtest.Env{T: t, Dir: pgtest.Programs(t, false)}
	if err := os.Symlink(e.Dir, filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}
	e.Bash(`cd "$1"; `+p.take("sh", "pgcutover --version"), dir)
	p.done()
}

// A load that is interrupted, a table that is loaded again, sync, and a cutover step by step: all
// on one pair of databases.
func TestDocsNight(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	load, conflicts, schema := readPage(t, "docs/full-load.md"), readPage(t, "docs/conflicts.md"), readPage(t, "docs/schema-changes.md")
	sync, monitoring := readPage(t, "docs/sync.md"), readPage(t, "docs/monitoring.md")
	cutover, verification := readPage(t, "docs/cutover.md"), readPage(t, "docs/verification.md")
	steps, watch := readPage(t, "docs/cutover-steps.md"), readPage(t, "docs/watch.md")
	w := newWorkplace(t)
	w.source.Exec(varied(w.source.Major))

	// somebody has interrupted it
	w.run(replace(t, load.take("sh", "pgextract --slot mig"), "| pgapply", "| head -c 30000 | pgapply || test $? = 65"))
	w.run(load.take("sh", "scripts/load mig"))
	w.run(load.take("sh", "--resume")) // there is nothing left to do
	pgtest.Equal(t, w.source, w.target)

	w.source.Exec("CREATE TABLE orders (id int PRIMARY KEY)", "INSERT INTO orders SELECT generate_series(1, 100)")
	reload := load.take("sh", "--reload")
	w.run(reload)
	conflicts.take("sh", reload)
	schema.take("sh", reload)
	w.source.Exec("DELETE FROM orders WHERE id < 50", variedStep(0, w.source.Major))

	statements := monitoring.take("sql", "FROM pgsluice.failures")
	following := sync.take("sh", "--confirm-from")
	w.run(`(` + following + `) & until pgcutover wait caught-up --slot mig --timeout 1s; do sleep 0.2; done
		` + conflicts.take("sh", "pgsluice.conflicts") + monitoring.take("sh", "status") + monitoring.take("sh", "--get missing.count") + `
		psql -XAt -v ON_ERROR_STOP=1 -d "$PGSLUICE_TARGET" -c "` + statements + `"
		` + steps.take("sh", "pgcutover fence") + verification.take("sh", "verify") + verification.take("sh", "missing") + `wait $!`)
	pgtest.Equal(t, w.source, w.target)
	w.target.Exec("INSERT INTO lines VALUES ('in time')")
	if _, err := w.source.Try("INSERT INTO lines VALUES ('too late')"); err == nil {
		t.Error("the source can be written to after the cutover")
	}
	w.run(replace(t, watch.take("sh", "pgcutover watch"), "pgcutover watch --slot mig --follow", "timeout 1 pgcutover watch --slot mig --follow || test $? = 124"))
	w.run(cutover.take("sh", "cleanup"))
	nothingLeft(t, w.source, w.target)
	for _, p := range []*page{load, conflicts, schema, sync, monitoring, cutover, steps, watch, verification} {
		p.done()
	}
}

func nothingLeft(t *testing.T, source, target *pgtest.DB) {
	t.Helper()
	left := source.Query("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()") +
		source.Query("SELECT pubname FROM pg_publication") + target.Query("SELECT nspname FROM pg_namespace WHERE nspname = 'pgsluice'")
	if left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// One snapshot that several processes read.
func TestDocsParts(t *testing.T) {
	pgtest.Long(t) // TestParts loads in parts, too
	t.Parallel()
	p := readPage(t, "docs/large.md")
	w := newWorkplace(t)
	w.source.Exec(varied(w.source.Major))
	hold, load, _ := strings.Cut(p.take("sh", "--hold"), "\n")
	hold, _, _ = strings.Cut(hold, "#")
	manifest, err := os.ReadFile(filepath.Join(pgtest.Root(), "scripts/deploy/kubernetes/load-parallel.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	job := regexp.MustCompile(`command: \[bash, -c, '(.*)'\]`).FindStringSubmatch(string(manifest))
	if !strings.HasSuffix(strings.TrimSpace(hold), "--hold") || job == nil {
		t.Fatal("the page has changed, and this test does not know how")
	}
	// The first part by hand, all of them by what a Kubernetes Job runs.
	w.run(hold + `> held &
		until SNAPSHOT=$(awk '$1 == "snapshot" { print $2 }' held) && [[ $SNAPSHOT ]]; do sleep 0.1; done
		export SNAPSHOT
		` + replace(t, load, " ID ", ` "$SNAPSHOT" `) + `
		for JOB_COMPLETION_INDEX in {0..7}; do (` + job[1] + `); done
		kill $!; wait $! || test $? = 143
		pgcutover wait loaded --slot mig --timeout 1s`)
	pgtest.Equal(t, w.source, w.target)
	p.done()
}

// The pipes, one block after the other, while the source changes.
func TestDocsPipes(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	w := newWorkplace(t)
	w.source.Exec(varied(w.source.Major))
	w.Bash(`cd "$1"; age-keygen -o key.txt 2> recipient`, w.dir)
	recipient, err := os.ReadFile(filepath.Join(w.dir, "recipient"))
	if err != nil {
		t.Fatal(err)
	}
	_, key, _ := strings.Cut(strings.TrimSpace(string(recipient)), ": ")
	w.Vars = append(w.Vars, "AGE_RECIPIENT="+key)
	p := readPage(t, "docs/pipes.md")
	for k := range p.blocks("sh") {
		block := p.take("sh", "")
		if k > 0 {
			w.source.Exec(variedStep(k, w.source.Major))
		}
		// Loads that no changes follow each go into a database of their own.
		var fresh []*pgtest.DB
		block = regexp.MustCompile(`(?m)^(pgextract \||age -d).*pgapply$`).ReplaceAllStringFunc(block, func(line string) string {
			d := w.target.Server.Database(t, "")
			fresh = append(fresh, d)
			return "export PGSLUICE_TARGET='" + d.URI + "'\n" + line
		})
		if strings.Contains(block, "--output changes.pgs") {
			// The target is there again when all changes are in the files.
			block = replace(t, block, "&\n", `&
				until [[ $(psql -XAtd "$PGSLUICE_SOURCE" -c "SELECT confirmed_flush_lsn >= '`+w.source.Query("SELECT pg_current_wal_lsn()")+`' FROM pg_replication_slots WHERE slot_name = 'mig'") == t ]]; do sleep 0.1; done
				kill $!; wait $! || test $? = 143
				`)
		}
		w.run(block)
		if strings.Contains(block, "pgdecode") {
			pgtest.Equal(t, w.source, w.target)
		}
		for _, d := range fresh {
			pgtest.Equal(t, w.source, d)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	p.done()
	pgtest.Wait(t, 10*time.Second, "the copy of what has passed is complete", func() bool {
		status, _, _ := w.Run(nil, "bash", "-c", `set -o pipefail; zstd -dc "$1/copy.pgs.zst" | pgapply`, "bash", w.dir)
		return status == 0
	})
}
