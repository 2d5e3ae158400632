package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
			ready := filepath.Join(t.TempDir(), "ready")
			p := e.Start(nil, nil, "pgcutover", "verify", "--slot", slot, "--jobs", "1", "--ready", ready)
			pgtest.Wait(t, 30*time.Second, "snapshots", func() bool { _, err := os.Stat(ready); return err == nil })
			db := source
			if side == "target" {
				db = target
			}
			db.Exec("BEGIN READ WRITE; ALTER TABLE last RENAME TO away; CREATE VIEW last AS SELECT evil() AS id; COMMIT")
			if status := p.Wait(time.Minute); status != 78 || strings.Contains(p.Errors(), "evil") {
				t.Errorf("status %d: %s", status, p.Errors())
			}
		})
	}
}
