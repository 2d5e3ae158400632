package main_test

import (
	_ "embed"
	"fmt"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

//go:embed testdata/everything.sql
var everythingSQL string

// roles are created on both servers: a load does not bring them.
func roles(t *testing.T, dbs ...*pgtest.DB) {
	t.Helper()
	for _, d := range dbs {
		for _, r := range []string{"load_owner", "load_reader", "load_nobody"} {
			d.Exec(fmt.Sprintf("DO $$ BEGIN CREATE ROLE %s; EXCEPTION WHEN duplicate_object THEN NULL; END $$", r))
		}
	}
}

// Everything that pg_dump knows arrives, and pg_dump cannot tell the sides apart after the cutover.
func TestEverything(t *testing.T) {
	pgtest.Raced(t)
	source, target := pgtest.Pair(t)
	roles(t, source, target)
	source.Exec(everythingSQL)
	e := pgtest.NewEnv(t, source, target)
	said := load(t, e, "--slot", source.Name)
	if strings.Contains(said, "could not be created") {
		t.Error(said)
	}
	pgtest.Equal(t, source, target)
	equalLargeObjects(t, source, target)
	t.Run("nothing fires before the cutover", func(t *testing.T) {
		if n := target.Query(`SELECT tgname FROM pg_trigger WHERE NOT tgisinternal UNION ALL SELECT evtname FROM pg_event_trigger
			UNION ALL SELECT conrelid::regclass || ' ' || conname FROM pg_constraint WHERE contype = 'f' AND connamespace <> 'pgsluice'::regnamespace
			UNION ALL SELECT rulename FROM pg_rewrite WHERE rulename <> '_RETURN' AND ev_class > 16384`); n != "" {
			t.Errorf("there are already: %s", n)
		}
	})
	cutover(t, e, source.Name)
	pgtest.Equal(t, source, target)
	// The migration's own publications stay on the source.
	unpublish(source, source.Name)
	equalSchema(t, source, target)
	const sequences = `SELECT schemaname, sequencename, last_value FROM pg_sequences WHERE schemaname <> 'pgsluice' ORDER BY 1, 2`
	if a, b := source.Query(sequences), target.Query(sequences); a != b {
		t.Errorf("sequences:\n%s", diff(a, b))
	}
	if f := target.Query("SELECT type, name, error FROM pgsluice.deferred WHERE state <> 'done'"); f != "" {
		t.Errorf("not created: %s", f)
	}
}

// equalLargeObjects compares large objects with their owners, rights and comments.
func equalLargeObjects(t *testing.T, source, target *pgtest.DB) {
	t.Helper()
	const q = `SELECT oid, pg_get_userbyid(lomowner), lomacl, obj_description(oid, 'pg_largeobject'), md5(lo_get(oid)), length(lo_get(oid)) FROM pg_largeobject_metadata ORDER BY oid`
	a, b := source.Query(q), target.Query(q)
	if a != b {
		t.Errorf("large objects:\n%s", diff(a, b))
	}
}
