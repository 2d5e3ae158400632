package e2e

import (
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// The owner of a table puts a view in its place while another one is being compared: the view's
// function must not run with the rights of who compares, on neither side.
func TestSwappedForView_P5(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	for _, side := range []string{"source", "target"} {
		t.Run(side, func(t *testing.T) {
			source, target := pgtest.Pair(t)
			if source.Query("SELECT count(*) FROM pg_settings WHERE name = 'restrict_nonsystem_relation_kind'") == "0" ||
				target.Query("SELECT count(*) FROM pg_settings WHERE name = 'restrict_nonsystem_relation_kind'") == "0" {
				t.Skip("restrict_nonsystem_relation_kind exists from 12.20, 13.16, 14.13, 15.8 and 16.4 on")
			}
			slot := "s_" + source.Name
			source.Exec("CREATE TABLE first (id int PRIMARY KEY, v text)",
				"INSERT INTO first SELECT g, md5(g::text) FROM generate_series(1, 200000) g",
				"CREATE TABLE last (id int PRIMARY KEY)", "INSERT INTO last VALUES (1)",
				"CREATE FUNCTION evil() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE 'evil runs as %', current_user; END $$")
			e := pgtest.NewEnv(t, source, target)
			e.Bash(`pgextract --slot "$1" | pgapply`, slot)
			e.Start(nil, nil, "bash", pgtest.Root()+"/scripts/sync", slot)
			e.Must(nil, "pgcutover", "wait", "caught-up", "--slot", slot, "--timeout", "60s")
			e.Must(nil, "pgcutover", "fence", "--slot", slot)
			e.Must(nil, "pgcutover", "drain", "--slot", slot)
			var names []string
			for _, d := range []*pgtest.DB{source, target} {
				c := d.Connect()
				var name string
				if _, err := c.Exec(t.Context(), "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil {
					t.Fatal(err)
				}
				if err := c.QueryRow(t.Context(), "SELECT pg_export_snapshot()").Scan(&name); err != nil {
					t.Fatal(err)
				}
				names = append(names, name)
			}
			db := source
			if side == "target" {
				db = target
			}
			db.Exec("BEGIN READ WRITE; ALTER TABLE last RENAME TO away; CREATE VIEW last AS SELECT evil() AS id; COMMIT")
			status, _, errs := e.Run(nil, "pgcutover", "verify", "--slot", slot, "--jobs", "1", "--snapshots", strings.Join(names, ","))
			if status != 78 || strings.Contains(errs, "evil") {
				t.Errorf("status %d: %s", status, errs)
			}
		})
	}
}
