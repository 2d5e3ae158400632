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

// A workplace is where the README's commands are typed: a folder with scripts/ in it, two databases, and an ssh that goes nowhere.
type workplace struct {
	*pgtest.Env
	t              *testing.T
	dir            string
	source, target *pgtest.DB
}

func newWorkplace(t *testing.T) *workplace {
	source, target := pgtest.Pair(t)
	w := &workplace{Env: pgtest.NewEnv(t, source, target), t: t, dir: t.TempDir(), source: source, target: target}
	if err := os.CopyFS(filepath.Join(w.dir, "scripts"), os.DirFS(filepath.Join(pgtest.Root(), "scripts"))); err != nil {
		t.Fatal(err)
	}
	ssh := "#!/bin/bash\n# As the real one does it: the host, then words for a shell there.\nshift\nexec bash -c \"$*\"\n"
	if err := os.WriteFile(filepath.Join(w.dir, "ssh"), []byte(ssh), 0o755); err != nil {
		t.Fatal(err)
	}
	source.Exec(varied(source.Major))
	return w
}

// run runs a block of commands, in which the slot has the database's name instead of "mig".
func (w *workplace) run(block string) {
	w.t.Helper()
	block = regexp.MustCompile(`\bmig\b`).ReplaceAllString(block, w.source.Name)
	w.t.Logf("running\n%s", block)
	w.Bash(`cd "$1"; PATH=$1:$PATH; `+block, w.dir)
}

// readme returns the README, and the blocks of commands in it, section by section.
func readme(t *testing.T) (text string, sections map[string][]string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(pgtest.Root(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	sections = make(map[string][]string)
	for section := range strings.SplitSeq(string(b), "\n## ") {
		heading, _, _ := strings.Cut(section, "\n")
		for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(section, -1) {
			sections[heading] = append(sections[heading], m[1])
		}
	}
	return string(b), sections
}

// Every block of commands is in one of the sections that are run below.
func TestReadme(t *testing.T) {
	_, sections := readme(t)
	for heading, want := range map[string]int{sessionSection: 1, loadSection: 3, pipesSection: len(sections[pipesSection])} {
		if n := len(sections[heading]); n != want || n == 0 {
			t.Errorf("section %q has %d blocks of commands, and %d of them are run", heading, n, want)
		}
		delete(sections, heading)
	}
	for heading := range sections {
		t.Errorf("nothing runs the commands in section %q", heading)
	}
}

const (
	sessionSection = "A migration"
	loadSection    = "Full loads, in parts and again"
	pipesSection   = "Pipes worth stealing"
)

// replace replaces what stands once in s, and fails the test if it does not.
func replace(t *testing.T, s, old, new string) string {
	t.Helper()
	if strings.Count(s, old) != 1 {
		t.Fatalf("the README has changed, and this test does not know how: %q stands %d times in\n%s", old, strings.Count(s, old), s)
	}
	return strings.Replace(s, old, new, 1)
}

// The operator's session, as it stands in the README, but for what a person would wait for and type.
func TestReadmeSession(t *testing.T) {
	t.Parallel()
	w := newWorkplace(t)
	text, sections := readme(t)
	session := sections[sessionSection][0]
	session = replace(t, session, "PGSLUICE_SOURCE=postgres://…", "PGSLUICE_SOURCE='"+w.source.URI+"'")
	session = replace(t, session, "PGSLUICE_TARGET=postgres://…", "PGSLUICE_TARGET='"+w.target.URI+"'")
	session = replace(t, session, "pgcutover status --watch\n", "timeout -s INT 3 pgcutover status --watch || test $? = 124\n")
	session = replace(t, session, "scripts/cutover mig\n", "scripts/cutover mig --yes\nwait $!\n")
	w.Source, w.Target = "", ""
	w.run(session)
	pgtest.Equal(t, w.source, w.target)
	if n := w.target.Query("SELECT count(*) FROM pgsluice.deferred WHERE state <> 'done'"); n != "0" {
		t.Errorf("%s objects are still missing on the target", n)
	}
	if _, err := w.source.Try("INSERT INTO lines VALUES ('too late')"); err == nil {
		t.Error("the source can be written to after the cutover")
	}
	w.target.Exec("INSERT INTO lines VALUES ('in time')")

	if !strings.Contains(text, "`pgcutover cleanup --slot mig`") {
		t.Error("the README has nothing of pgcutover cleanup any more")
	}
	w.Source, w.Target = w.source.URI, w.target.URI
	w.run("pgcutover cleanup --slot mig")
	left := w.source.Query("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()") +
		w.source.Query("SELECT pubname FROM pg_publication") + w.target.Query("SELECT nspname FROM pg_namespace WHERE nspname = 'pgsluice'")
	if left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// Loads that were interrupted, of one table, and of several processes.
func TestReadmeLoads(t *testing.T) {
	t.Parallel()
	_, sections := readme(t)
	blocks := sections[loadSection]
	w := newWorkplace(t)
	w.run("pgextract --slot mig | head -c 30000 | pgapply || test $? = 65") // somebody has interrupted it
	w.run(blocks[0])
	pgtest.Equal(t, w.source, w.target)

	w.source.Exec("CREATE TABLE orders (id int PRIMARY KEY)", "INSERT INTO orders SELECT generate_series(1, 100)")
	w.run(blocks[1])
	w.source.Exec("DELETE FROM orders WHERE id < 50", variedStep(0, w.source.Major))
	w.run("pgdecode --slot mig --until now | pgapply")
	pgtest.Equal(t, w.source, w.target)

	w = newWorkplace(t)
	hold, load, _ := strings.Cut(blocks[2], "\n")
	hold, _, _ = strings.Cut(hold, "#")
	manifest, err := os.ReadFile(filepath.Join(pgtest.Root(), "scripts/deploy/kubernetes/load-parallel.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	job := regexp.MustCompile(`command: \[bash, -c, '(.*)'\]`).FindStringSubmatch(string(manifest))
	if !strings.HasSuffix(strings.TrimSpace(hold), "--hold") || job == nil {
		t.Fatal("the README has changed, and this test does not know how")
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
}

// The pipes worth stealing, one block after the other, while the source changes.
func TestReadmePipes(t *testing.T) {
	t.Parallel()
	w := newWorkplace(t)
	w.Bash(`cd "$1"; age-keygen -o key.txt 2> recipient`, w.dir)
	recipient, err := os.ReadFile(filepath.Join(w.dir, "recipient"))
	if err != nil {
		t.Fatal(err)
	}
	_, key, _ := strings.Cut(strings.TrimSpace(string(recipient)), ": ")
	w.Vars = append(w.Vars, "AGE_RECIPIENT="+key)
	_, sections := readme(t)
	for k, block := range sections[pipesSection] {
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
	pgtest.Wait(t, 10*time.Second, "the copy of what has passed is complete", func() bool {
		status, _, _ := w.Run(nil, "bash", "-c", `set -o pipefail; zstd -dc "$1/copy.pgs.zst" | pgapply`, "bash", w.dir)
		return status == 0
	})
}
