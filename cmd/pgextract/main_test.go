package main_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// load runs pgextract with args | pgapply, which must both succeed, and returns what they said.
func load(t *testing.T, e *pgtest.Env, args ...string) string {
	t.Helper()
	return loadInto(t, e, nil, args...)
}

// loadInto is load with arguments for pgapply.
func loadInto(t *testing.T, e *pgtest.Env, apply []string, args ...string) string {
	t.Helper()
	extracted, said, extractStatus, applyStatus := pipe(e, apply, args)
	if extractStatus != 0 || applyStatus != 0 {
		t.Fatalf("pgextract %s | pgapply %s: exit statuses %d and %d\n%s%s", strings.Join(args, " "),
			strings.Join(apply, " "), extractStatus, applyStatus, extracted, said)
	}
	return extracted + said
}

// pipe runs pgextract | pgapply to their ends.
func pipe(e *pgtest.Env, apply, extract []string) (extracted, applied string, extractStatus, applyStatus int) {
	e.T.Helper()
	x, a := startPipe(e, apply, extract)
	applyStatus = a.Wait(timeout)
	extractStatus = x.Wait(timeout)
	return x.Errors(), a.Errors(), extractStatus, applyStatus
}

// timeout bounds a single load.
const timeout = 2 * time.Minute

// startPipe starts pgextract | pgapply.
func startPipe(e *pgtest.Env, apply, extract []string) (x, a *pgtest.Process) {
	e.T.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		e.T.Fatal(err)
	}
	x = e.Start(nil, w, "pgextract", extract...)
	a = e.Start(r, nil, "pgapply", apply...)
	_ = w.Close()
	_ = r.Close()
	return x, a
}

// startSlowly is startPipe with so many bytes a second in between.
func startSlowly(e *pgtest.Env, rate int, apply, extract []string) (x, a *pgtest.Process) {
	e.T.Helper()
	r1, w1, err1 := os.Pipe()
	r2, w2, err2 := os.Pipe()
	if err1 != nil || err2 != nil {
		e.T.Fatal(err1, err2)
	}
	x = e.Start(nil, w1, "pgextract", extract...)
	a = e.Start(r2, nil, "pgapply", apply...)
	_ = w1.Close()
	_ = r2.Close()
	go func() {
		defer r1.Close()
		defer w2.Close()
		const step = 32 << 10
		tick := time.NewTicker(time.Second * step / time.Duration(rate))
		defer tick.Stop()
		for range tick.C {
			if _, err := io.CopyN(w2, r1, step); err != nil {
				return
			}
		}
	}()
	return x, a
}

// schema returns what pg_dump -s says of a database, without what it says of itself.
func schema(t *testing.T, d *pgtest.DB, args ...string) string {
	t.Helper()
	cmd := exec.Command("pg_dump", append([]string{"--schema-only", "--exclude-schema=pgsluice", "--dbname=" + d.URI}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("pg_dump: %v\n%s", err, stderr.String())
	}
	return restrict.ReplaceAllString(string(out), "")
}

// restrict matches the lines of pg_dump that are random.
var restrict = regexp.MustCompile(`(?m)^\\(un)?restrict .*\n`)

// equalSchema fails the test unless pg_dump says the same of both databases.
func equalSchema(t *testing.T, source, target *pgtest.DB, args ...string) {
	t.Helper()
	a, b := schema(t, source, args...), schema(t, target, args...)
	if a == b {
		return
	}
	t.Errorf("the schemas differ:\n%s", diff(a, b))
}

// diff returns the lines that only one of two texts has.
func diff(a, b string) string {
	count := make(map[string]int)
	for _, l := range strings.Split(a, "\n") {
		count[l]++
	}
	for _, l := range strings.Split(b, "\n") {
		count[l]--
	}
	var out strings.Builder
	for _, x := range []struct{ text, mark string }{{a, "-"}, {b, "+"}} {
		for _, l := range strings.Split(x.text, "\n") {
			if n := count[l]; strings.Trim(l, "- ") != "" && (n > 0 && x.mark == "-" || n < 0 && x.mark == "+") {
				fmt.Fprintf(&out, "%s %s\n", x.mark, l)
			}
		}
	}
	if out.Len() == 0 {
		return "the same lines, in another order"
	}
	return out.String()
}

// cutover brings a loaded migration to its end.
func cutover(t *testing.T, e *pgtest.Env, slot string) {
	t.Helper()
	e.Must(nil, "bash", "-c", `set -euo pipefail
		pgcutover fence --slot "$1"
		pgdecode --slot "$1" --until now | pgapply >/dev/null
		pgdecode --slot "$1" | pgapply >/dev/null & sync=$!
		pgcutover drain --slot "$1"
		pgcutover verify --slot "$1" >&2
		pgcutover finish --slot "$1"
		wait $sync || true
		pgcutover unfence --force --slot "$1"`, "cutover", slot)
}

// unpublish drops the migration's own publications, which stay on the source.
func unpublish(source *pgtest.DB, slot string) {
	source.Exec("DROP PUBLICATION "+slot, "DROP PUBLICATION IF EXISTS "+slot+"_insert_only")
}
