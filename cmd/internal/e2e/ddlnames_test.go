package e2e

import (
	"strings"
	"testing"
)

// A function with its owner's rights drops what its caller names. A name that looks like the end of
// the statement's text does not make another statement of it.
func TestRecordedNames_P4(t *testing.T) {
	t.Parallel()
	source, env := recordingSource(t)
	low := role(t, source, "low", "")
	source.Exec("CREATE SCHEMA low AUTHORIZATION "+low, "CREATE TABLE x (a int PRIMARY KEY)",
		`CREATE FUNCTION drop_table(name text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
			EXECUTE format('DROP TABLE %I', name); END $$`)
	env.Must(nil, "pgcutover", "ddl", "install")
	for _, name := range []string{"x\"\nPL/pgSQL function y", "x\"\nPL/pgSQL function f() line 1 at EXECUTE\nSQL statement \"z"} {
		quoted := `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
		source.Exec("CREATE TABLE public." + quoted + " ()")
		if _, err := as(source, low, "SELECT public.drop_table('"+name+"')"); err != nil {
			t.Fatal(err)
		}
	}
	dropped := 0
	for _, d := range statements(t, env.Must(nil, "pgdecode", "--slot", source.Name, "--until", "now")) {
		if strings.HasPrefix(d.SQL, "DROP TABLE") {
			t.Errorf("%s", d.SQL)
		}
		if d.Type == "DROP TABLE" {
			dropped++
		}
	}
	if dropped != 2 {
		t.Errorf("%d of 2 statements are in the stream", dropped)
	}
}
