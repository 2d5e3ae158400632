package e2e

import (
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// The name of a slot may begin with a digit, and be a word of the replication protocol.
func TestSlotNames_H7(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	// where the names are ours alone
	source := pgtest.Start(t, pgtest.Source(t).Major).Database(t, "")
	source.Exec("CREATE TABLE t (a int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
	for i, slot := range []string{"1abc", "temporary", "0"} {
		target := pgtest.Target(t).Database(t, "")
		e := pgtest.NewEnv(t, source, target)
		e.Bash("pgcutover check --slot " + slot + " || (($? == 1)); pgextract --slot " + slot + " | pgapply")
		source.Exec("INSERT INTO t SELECT max(a) + 1 FROM t")
		if i == 0 {
			e.Bash("pgextract --slot " + slot + " --resume | pgapply")
		}
		e.Bash("pgdecode --slot " + slot + " --until now | pgapply; pgcutover status --slot " + slot)
		pgtest.EqualTable(t, source, target, "t")
		e.Bash("pgcutover cleanup --force --slot " + slot)
	}
	if n := source.Query("SELECT count(*) FROM pg_replication_slots"); n != "0" {
		t.Errorf("%s slots are left", n)
	}
}
