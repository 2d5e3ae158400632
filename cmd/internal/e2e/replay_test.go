package e2e

import (
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A full load and the changes after it are two files; together they make an equal target, and
// applied once more they change nothing.
func TestReplay(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	env := pgtest.NewEnv(t, source, target)
	source.Exec(varied(source.Major))
	dir := t.TempDir()
	env.Bash(`pgextract --slot "$1" > "$2/full.pgs"`, source.Name, dir)
	loaded := sequences(source)
	for k := range 60 {
		source.Exec(variedStep(k, source.Major))
	}
	env.Bash(`pgdecode --slot "$1" --until now > "$2/changes.pgs"`, source.Name, dir)
	env.Bash(`cat "$1/full.pgs" "$1/changes.pgs" | pgapply`, dir)
	pgtest.Equal(t, source, target)
	if n := target.Query("SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()"); n != "0" {
		t.Errorf("the target refused %s of pgapply's transactions: they were written once more, change by change", n)
	}
	if got := sequences(target); got != loaded {
		t.Errorf("sequences are\n%s\non the target, and were at the snapshot\n%s", got, loaded)
	}

	before := traces(target)
	for _, again := range []string{`pgapply < "$1/changes.pgs"`, `pgapply < "$1/full.pgs"`,
		`cat "$1/full.pgs" "$1/changes.pgs" | pgapply`} {
		env.Bash(again, dir)
		if after := traces(target); after != before {
			t.Errorf("%s changed something:\n%.3000s\nbefore:\n%.3000s", again, after, before)
		}
	}

	// Overlapping streams: what is recorded anew begins where the slot still is.
	source.Exec(variedStep(60, source.Major))
	env.Bash(`pgdecode --slot "$1" --until now | cat "$2/changes.pgs" - | pgapply`, source.Name, dir)
	pgtest.Equal(t, source, target)
}
