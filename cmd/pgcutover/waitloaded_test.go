package main

import (
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Who waits for a load that nobody continues is told so.
func TestWaitLoadedAlone(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	m := small(t, source, target)
	m.Bash("pgextract --slot " + m.slot + " | pgapply")
	target.Exec("UPDATE pgsluice.streams SET load_status = 'loading'")
	_, errs := m.cut(78, "wait", "loaded")
	says(t, errs, "the target has 1 of 1 table; nobody loads", "the full load is not complete, and nobody loads", "pgextract --slot "+m.slot+" --resume")
}
