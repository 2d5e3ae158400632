package main_test

import (
	"context"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// The source may vacuum as soon as the last row is read, however long the target builds indexes.
func TestSnapshotReleased(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	source.Exec(`CREATE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN $1; END $$`,
		"CREATE TABLE a AS SELECT i FROM generate_series(1, 10) i", "CREATE INDEX ON a (slow(i))",
		"CREATE TABLE b AS SELECT i FROM generate_series(1, 1000) i")
	holder := target.Connect()
	if _, err := holder.Exec(context.Background(), "SELECT pg_advisory_lock(4711)"); err != nil {
		t.Fatal(err)
	}
	const waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted"
	e := pgtest.NewEnv(t, source, target)
	x, a := startPipe(e, nil, []string{"--slot", source.Name})
	pgtest.Wait(t, timeout, "it builds the index", func() bool {
		return target.Query(waits) != "0"
	})
	pgtest.Wait(t, timeout, "the snapshot is released", func() bool {
		return source.Query(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_xmin IS NOT NULL`) == "0" &&
			source.Query("SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND xmin IS NOT NULL") == "0"
	})
	if target.Query(waits) == "0" {
		t.Error("the index was built before")
	}
	_ = holder.Close(context.Background())
	for _, p := range []*pgtest.Process{a, x} {
		if s := p.Wait(timeout); s != 0 {
			t.Fatalf("exit status %d\n%s", s, p.Errors())
		}
	}
	pgtest.Equal(t, source, target)
}

// An index that is built alone gets the workers of the builders that idle.
func TestIdleBuilders(t *testing.T) {
	t.Parallel()
	if pgtest.Target(t).Major < 11 {
		t.Skip("servers build indexes in parallel from 11 on")
	}
	source, target := pgtest.Pair(t)
	source.Exec(`CREATE FUNCTION workers(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ DECLARE n text := pg_catalog.current_setting('max_parallel_maintenance_workers');
		BEGIN IF pg_catalog.current_setting('application_name') = 'pgapply' AND n <> '5' THEN RAISE EXCEPTION '% workers', n; END IF; RETURN $1; END $$`,
		"CREATE TABLE a AS SELECT i::text || repeat('x', 200) AS t FROM generate_series(1, 10000) i", "CREATE INDEX ON a (workers(t))")
	loadInto(t, pgtest.NewEnv(t, source, target), []string{"--jobs", "6"})
	pgtest.Equal(t, source, target)
}
