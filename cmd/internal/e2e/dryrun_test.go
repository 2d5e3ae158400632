package e2e

import (
	"encoding/json"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A dry run finds what the cutover would refuse and whom it would end, and changes nothing.
func TestDryRun(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE parent (id serial PRIMARY KEY)", "CREATE TABLE child (id int PRIMARY KEY REFERENCES parent)",
		"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'", "CREATE TRIGGER g BEFORE INSERT ON child FOR EACH ROW EXECUTE PROCEDURE f()",
		"INSERT INTO parent SELECT nextval('parent_id_seq') FROM generate_series(1, 100)")
	e, slot := scriptPair(t, source, target)
	sync := e.Start(nil, nil, "bash", script("sync"), slot)
	e.Bash("pgcutover wait caught-up --lag 0 --timeout 60s --slot " + slot)
	pgtest.Wait(t, 20*time.Second, "sync has recorded the target on the source", func() bool {
		return strings.Contains(source.Query("SELECT obj_description(oid, 'pg_publication') FROM pg_publication WHERE pubname = '"+slot+"'"), "target=")
	})
	source.Exec("SELECT nextval('parent_id_seq')")
	app := source.Connect()
	if _, err := app.Exec(pgtest.Context(t), "SET application_name = 'the app'"); err != nil {
		t.Fatal(err)
	}
	// The last lines of pgsluice.streams change while sync is at work.
	state := func() (all string) {
		for _, d := range []*pgtest.DB{source, target} {
			out, err := exec.Command("pg_dump", "--create", "--exclude-table-data=pgsluice.streams", "-d", d.URI).CombinedOutput()
			if err != nil {
				t.Fatalf("pg_dump: %v\n%s", err, out)
			}
			for line := range strings.Lines(string(out)) {
				if !strings.HasPrefix(line, `\restrict`) && !strings.HasPrefix(line, `\unrestrict`) { // a random word
					all += line
				}
			}
		}
		return all
	}
	before := state()
	dry := func(args ...string) (int, string, string) {
		t.Helper()
		status, out, errs := e.Run(nil, "bash", append([]string{script("cutover"), slot, "--dry-run"}, args...)...)
		if after := state(); after != before {
			for line := range strings.Lines(after) {
				if !strings.Contains(before, line) {
					t.Errorf("the dry run %v made the line %q", args, line)
				}
			}
			t.Errorf("the dry run %v changed something", args)
		}
		return status, string(out), errs
	}
	if status, out, errs := dry("--pause", "true", "--resume", "true", "--switch", "FILE=x mv a b"); status != 0 || !strings.Contains(out, "the app") {
		t.Errorf("status %d\n%s\n%s", status, out, errs)
	}
	if status, _, errs := dry("--switch", "/nonexistent/program x"); status != 78 {
		t.Errorf("a program that does not exist: status %d\n%s", status, errs)
	}
	var r struct {
		Sessions []struct {
			Application    string
			Sessions, Idle int
		}
		Objects, Sequences int
		Steps              []struct{ Step string }
		Downtime           int `json:"downtime_ms"`
	}
	if err := json.Unmarshal(e.Must(nil, "pgcutover", "rehearse", "--slot", slot, "--json"), &r); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, g := range r.Sessions {
		found = found || g.Application == "the app" && g.Sessions == 1 && g.Idle == 1
	}
	if !found || r.Sequences != 1 || len(r.Steps) != 3 || len(r.Sessions) != 1 || r.Downtime <= 0 {
		t.Errorf("%+v", r)
	}
	if err := app.Ping(pgtest.Context(t)); err != nil {
		t.Errorf("the application's session: %v", err)
	}
	// What the cutover refuses, the dry run refuses.
	source.Exec("CREATE VIEW new AS SELECT 1")
	before = state()
	if status, out, errs := dry(); status != 78 {
		t.Errorf("with a missing view: status %d\n%s\n%s", status, out, errs)
	}
	source.Exec("DROP VIEW new")
	_ = sync.Process.Signal(syscall.SIGTERM)
	sync.Wait(soon)
}
