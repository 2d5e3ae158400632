package e2e

import (
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// treesSchema has tables whose rows another server puts into other partitions than the source has
// them in.
const treesSchema = `
CREATE TYPE mood AS ENUM ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h');
CREATE TABLE hashed (id int, m mood, v text, PRIMARY KEY (id, m)) PARTITION BY HASH (m);
CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 3, REMAINDER 0);
CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 3, REMAINDER 1);
CREATE TABLE hashed_2 PARTITION OF hashed FOR VALUES WITH (MODULUS 3, REMAINDER 2);
CREATE INDEX ON hashed (v);
CREATE TABLE ranged (id int, t text, v text) PARTITION BY RANGE (t);
CREATE TABLE ranged_a PARTITION OF ranged FOR VALUES FROM (MINVALUE) TO ('a');
CREATE TABLE ranged_z PARTITION OF ranged FOR VALUES FROM ('a') TO (MAXVALUE);
ALTER TABLE ranged_a REPLICA IDENTITY FULL;
ALTER TABLE ranged_z REPLICA IDENTITY FULL;
CREATE TABLE "Deep" (id int, at date, m mood, v numeric) PARTITION BY RANGE (at);
CREATE TABLE deep_1 PARTITION OF "Deep" FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY HASH (m);
CREATE TABLE deep_1_0 PARTITION OF deep_1 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE deep_1_1 PARTITION OF deep_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE deep_2 PARTITION OF "Deep" FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
ALTER TABLE "Deep" ADD PRIMARY KEY (id, at, m);
CREATE TABLE plain (id int PRIMARY KEY, at date) PARTITION BY RANGE (id);
CREATE TABLE plain_1 PARTITION OF plain FOR VALUES FROM (0) TO (1000000);
INSERT INTO hashed SELECT i, (enum_range(NULL::mood))[1 + i % 8], 'v' || i FROM generate_series(1, 400) i;
INSERT INTO ranged SELECT i, chr(65 + i % 26 + 32 * (i % 2)) || i, 'v' FROM generate_series(1, 200) i;
INSERT INTO ranged SELECT 7, 'Z', 'twice' FROM generate_series(1, 2) i;
INSERT INTO "Deep" SELECT i, '2024-01-01'::date + i % 700, (enum_range(NULL::mood))[1 + i % 8], i FROM generate_series(1, 400) i;
INSERT INTO plain SELECT i, '2024-01-01' FROM generate_series(1, 100) i;
`

// treesEqual compares trees by their roots.
func treesEqual(t *testing.T, source, target *pgtest.DB) {
	t.Helper()
	for _, table := range []string{"hashed", "ranged", `"Deep"`, "plain"} {
		sum := "SELECT count(*), coalesce(sum(('x' || left(md5(x::text), 15))::bit(60)::bigint::numeric), 0) FROM " + table + " x"
		if a, b := source.Query(sum), target.Query(sum); a != b {
			t.Errorf("%s: %s on the source, %s on the target", table, a, b)
		}
	}
}

// scatteredPair makes a source with the trees, and a target on which they are scattered.
func scatteredPair(t *testing.T) (source, target *pgtest.DB) {
	t.Helper()
	if pgtest.Source(t).Major < 13 {
		t.Skip("partitioned tables are published from 13 on")
	}
	source = pgtest.Source(t).Database(t, "TEMPLATE template0 LC_COLLATE 'C'")
	options := ""
	if major := pgtest.Target(t).Major; major >= 15 {
		options = "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en'"
	}
	target = pgtest.Target(t).Database(t, options)
	target.Exec("CREATE TYPE other AS ENUM ('one', 'two', 'three'); DROP TYPE other") // OIDs go on
	source.Exec(treesSchema)
	return source, target
}

// Trees whose rows are in other partitions on the target are loaded, resumed, loaded again, synced
// and verified through their roots.
func TestTreesThroughRoot_C16(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := scatteredPair(t)
	e := pgtest.NewEnv(t, source, target)
	slot := "t_" + source.Name
	// A part of the load arrives, then all of it.
	e.Bash(`pgextract --slot "$1" | head -c 30000 | pgapply || true; pgextract --slot "$1" --resume | pgapply`, slot)
	treesEqual(t, source, target)
	if target.Major >= 15 && target.Query("SELECT count(*) FROM ranged_a") == source.Query("SELECT count(*) FROM ranged_a") {
		t.Error("the target has the rows in the same partitions as the source: this test shows nothing")
	}
	if got := target.Query("SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relname ~ '^(hashed|deep)' AND c.relkind = 'r' AND i.indisvalid"); got != "9" {
		t.Errorf("%s indexes of partitions", got)
	}
	for i := range 2 {
		if i > 0 { // a whole tree is loaded again, but not a partition of it
			if status, _, errs := e.Run(e.Must(nil, "pgextract", "--slot", slot, "--table", "public.hashed_0",
				"--reload"), "pgapply"); status != 78 {
				t.Errorf("status %d: %s", status, errs)
			}
			e.Bash(`pgextract --slot "$1" --table 'public.hashed*' --reload | pgapply`, slot)
			treesEqual(t, source, target)
		}
		source.Exec("INSERT INTO hashed SELECT 1000 + i + "+[]string{"0", "10000"}[i]+
			", (enum_range(NULL::mood))[1 + i % 8], 'new' FROM generate_series(1, 300) i",
			"UPDATE hashed SET v = v || '!' WHERE id % 3 = 0",
			"UPDATE hashed SET m = 'a' WHERE id % 7 = 0 AND m <> 'a'",
			"DELETE FROM hashed WHERE id % 11 = 0",
			"BEGIN; UPDATE hashed SET m = 'b' WHERE id = 1001; UPDATE hashed SET m = 'c' WHERE id = 1001; DELETE FROM hashed WHERE id = 1002; INSERT INTO hashed VALUES (1002, 'd', 'again'); COMMIT",
			"UPDATE ranged SET v = 'w' WHERE id % 5 = 0", "UPDATE ranged SET t = upper(t) WHERE id % 4 = 0",
			"DELETE FROM ranged WHERE id % 13 = 0",
			"DELETE FROM ranged WHERE ctid = (SELECT max(ctid) FROM ranged WHERE v = 'twice') AND v = 'twice'",
			`UPDATE "Deep" SET at = at + 366 WHERE id % 3 = 0 AND at < '2024-12-01'`,
			`UPDATE "Deep" SET m = 'h', v = 0.50 WHERE id % 5 = 1`,
			`DELETE FROM "Deep" WHERE id % 17 = 0`,
			"UPDATE plain SET at = at + 1")
		e.Bash(`pgdecode --slot "$1" --until now | pgapply`, slot)
		treesEqual(t, source, target)
	}
	source.Exec(`TRUNCATE "Deep"`, `INSERT INTO "Deep" VALUES (1, '2024-05-05', 'a', 1)`)
	e.Bash(`pgdecode --slot "$1" --until now | pgapply`, slot)
	treesEqual(t, source, target)
	e.Start(nil, nil, "bash", pgtest.Root()+"/scripts/sync", slot)
	e.Must(nil, "pgcutover", "wait", "caught-up", "--slot", slot, "--timeout", "60s")
	e.Must(nil, "pgcutover", "fence", "--slot", slot)
	e.Must(nil, "pgcutover", "drain", "--slot", slot)
	if out := string(e.Must(nil, "pgcutover", "verify", "--slot", slot)); !strings.Contains(out,
		"equal\tpublic.hashed\t") || !strings.Contains(out, "equal\tpublic.ranged\t") ||
		!strings.Contains(out, "equal\tpublic.plain_1\t") {
		t.Errorf("verify:\n%s", out)
	}
	target.Exec("BEGIN; SET LOCAL session_replication_role = replica; UPDATE hashed SET v = 'other' WHERE id = 1003; COMMIT")
	if status, out, errs := e.Run(nil, "pgcutover", "verify", "--slot", slot); status != 1 ||
		!strings.Contains(string(out), "different\tpublic.hashed\t") ||
		!strings.Contains(string(out), "1003") {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
}

// A recorded statement that takes a partition away takes none whose rows are others on the target.
func TestPartitionTakenAway_C16(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := scatteredPair(t)
	e := pgtest.NewEnv(t, source, target)
	slot := "t_" + source.Name
	e.Bash(`pgcutover ddl install; pgextract --slot "$1" | pgapply`, slot)
	source.Exec("DROP TABLE deep_2", "DROP TABLE plain_1", "DROP TABLE hashed", "INSERT INTO ranged VALUES (1000, 'x', 'last')")
	e.Bash(`pgdecode --slot "$1" --until now | pgapply`, slot)
	if n := target.Query("SELECT count(*) FROM pg_class WHERE relname IN ('deep_2', 'plain_1', 'hashed', 'hashed_0')"); n != "0" {
		t.Errorf("%s tables are still there", n)
	}
	for _, sql := range []string{"ALTER TABLE ranged DETACH PARTITION ranged_z", "DROP TABLE ranged_z"} {
		rows := target.Query("SELECT count(*) FROM ranged")
		source.Exec(sql)
		status, _, errs := e.Run(e.Must(nil, "pgdecode", "--slot", slot, "--until", "now"), "pgapply")
		if after := target.Query("SELECT count(*) FROM ranged"); status != 1 || after != rows {
			t.Errorf("%s: status %d, %s rows of %s: %s", sql, status, after, rows, errs)
		}
	}
}
