package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A checked is a finding as check --json prints it.
type checked struct {
	ID, Severity, Side, Text, Remedy, Doc string
	Statements                            []struct{ Side, As, SQL string }
}

// checkJSON runs check --json, and returns the findings that are not ok, by their ids.
func checkJSON(t *testing.T, e *pgtest.Env, args ...string) (status int, found map[string]checked) {
	t.Helper()
	status, out, said := e.Run(nil, "pgcutover", append([]string{"check", "--json"}, args...)...)
	found = make(map[string]checked)
	for line := range strings.Lines(string(out)) {
		var f checked
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		if f.ID == "" || f.Text == "" || f.Side == "" || !strings.HasPrefix(f.Doc, "docs/checks.md#") || f.Statements == nil {
			t.Errorf("incomplete: %s", line)
		}
		if f.Severity != "ok" {
			found[f.ID] = f
		}
	}
	if len(out) == 0 {
		t.Errorf("nothing was printed: %s", said)
	}
	return status, found
}

// The same findings as JSON and as statements.
func TestCheckFormats(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE good (id int PRIMARY KEY)", "CREATE SCHEMA app; CREATE FUNCTION app.one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
		"SET search_path = app; CREATE FUNCTION app.two(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + one()'; CREATE INDEX ON public.good (app.two(id))")
	e := pgtest.NewEnv(t, source, target)
	status, found := checkJSON(t, e)
	if f := found["function-path"]; status != 78 || f.Severity != "error" || f.Side != "source" || len(f.Statements) != 1 ||
		f.Statements[0].As != "superuser" || !strings.Contains(f.Statements[0].SQL, "SET search_path") {
		t.Errorf("status %d, %+v", status, found)
	}
	status, out, _ := e.Run(nil, "pgcutover", "check", "--sql")
	if status != 78 || !strings.Contains(string(out), "-- On the source, as superuser:\n") {
		t.Errorf("status %d\n%s", status, out)
	}
	source.Exec(string(out)) // all of it is for the source
	if status, found := checkJSON(t, e); status > 1 || found["function-path"].ID != "" {
		t.Errorf("status %d, %+v", status, found)
	}
	if status, _, _ := e.Run(nil, "pgcutover", "check", "--sql", "--json"); status != 64 {
		t.Errorf("both formats: status %d", status)
	}
}
