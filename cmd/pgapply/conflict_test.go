package main_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

const goods = `CREATE TABLE goods (id int PRIMARY KEY, name text UNIQUE, price numeric CHECK (price < 1000), note text);
	INSERT INTO goods SELECT i, 'name ' || i, i, repeat('note', i) FROM generate_series(1, 20) i`

// conflicting makes a pair whose target was changed behind the stream's back, and the stream's
// changes, of which some do not fit.
func conflicting(t *testing.T) (source, target *pgtest.DB, env *pgtest.Env, changes []byte) {
	t.Helper()
	source, target = pgtest.Pair(t)
	env = pgtest.NewEnv(t, source, target)
	slot := "c_" + source.Name
	source.Exec(goods, "CREATE PUBLICATION "+slot+" FOR ALL TABLES", "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")
	target.Exec(goods)
	target.Exec("INSERT INTO goods VALUES (21, 'in the way', 0, 'x'), (100, 'name 22', 0, 'x'); DELETE FROM goods WHERE id IN (3, 4, 5); UPDATE goods SET note = 'mine' WHERE id = 6")
	source.Exec("UPDATE goods SET price = 1.5 WHERE id = 1", // fits
		"BEGIN; INSERT INTO goods VALUES (21, 'name 21', 21, 'yes'); INSERT INTO goods VALUES (22, 'name 22', 22, 'yes'); UPDATE goods SET price = 2.5 WHERE id = 2; COMMIT",
		"BEGIN; UPDATE goods SET price = 3.5 WHERE id = 3; DELETE FROM goods WHERE id = 4; UPDATE goods SET id = 50 WHERE id = 5; COMMIT",
		"INSERT INTO goods VALUES (23, 'name 23', 23, 'yes')")
	return source, target, env, env.Must(nil, "pgdecode", "--slot", slot, "--until", "now")
}

const recorded = `SELECT operation, action, key, tuple->>'name' FROM pgsluice.conflicts ORDER BY conflict_id`

func TestConflictStops(t *testing.T) {
	_, target, env, changes := conflicting(t)
	status, _, errs := env.Run(changes, "pgapply", "--adopt")
	if status != 1 || !strings.Contains(errs, `insert to relation "public.goods"`) ||
		!strings.Contains(errs, "(id)=(21) exists already") ||
		!strings.Contains(errs, `SELECT * FROM "public"."goods" WHERE "id" = '21'. To continue without correcting it: pgapply --on-conflict skip (or overwrite)`) {
		t.Errorf("status %d: %s", status, errs)
	}
	if got := target.Query("SELECT price FROM goods WHERE id IN (1, 2) ORDER BY id"); got != "1.5\n2" {
		t.Errorf("the target has %q: what came before is to be kept, nothing of the transaction itself", got)
	}
}

// What was applied before a stop is counted.
func TestCountsWhenStopped_C12(t *testing.T) {
	_, target, env, changes := conflicting(t)
	if status, _, errs := env.Run(changes, "pgapply", "--adopt"); status != 1 {
		t.Fatalf("status %d: %s", status, errs)
	}
	if got := target.Query("SELECT inserts, updates, deletes FROM pgsluice.tables"); got != "0\t1\t0" {
		t.Errorf("counts are %q", got)
	}
	env.Must(changes, "pgapply", "--adopt", "--on-conflict", "skip")
	if got := target.Query("SELECT inserts, updates, deletes FROM pgsluice.tables"); got != "3\t4\t1" {
		t.Errorf("counts are %q", got)
	}
}

func TestConflictSkip(t *testing.T) {
	pgtest.Raced(t)
	_, target, env, changes := conflicting(t)
	_, _, errs := env.Run(changes, "pgapply", "--adopt", "--on-conflict", "skip")
	if !strings.Contains(errs, "5 changes did not fit") {
		t.Errorf("standard error: %s", errs)
	}
	want := strings.TrimSpace(`
insert	skipped	{"id": "21"}	name 21
insert	skipped	{"id": "22"}	name 22
update	skipped	{"id": "3"}	name 3
delete	skipped	{"id": "4"}	NULL
update	skipped	{"id": "5"}	name 5`)
	if got := target.Query(recorded); got != want {
		t.Errorf("recorded:\n%s\nwant:\n%s", got, want)
	}
	if got := target.Query("SELECT id, name, price FROM goods WHERE id IN (1, 2, 3, 5, 21, 22, 23, 50, 100) ORDER BY id"); got != "1\tname 1\t1.5\n2\tname 2\t2.5\n21\tin the way\t0\n23\tname 23\t23\n100\tname 22\t0" {
		t.Errorf("the target has:\n%s", got)
	}
	if got := string(env.Must(nil, "pgcutover", "status")); !strings.Contains(got, "5 changes skipped or forced") {
		t.Errorf("status:\n%s", got)
	}
	// a second time changes nothing, and finds nothing
	env.Must(changes, "pgapply", "--adopt", "--on-conflict", "skip")
	if got := target.Query(recorded); got != want {
		t.Errorf("recorded by a second run:\n%s", got)
	}
}

func TestConflictOverwrite(t *testing.T) {
	source, target, env, changes := conflicting(t)
	// The row that has another's name cannot be overwritten by key: that stops it all the same.
	status, _, errs := env.Run(changes, "pgapply", "--adopt", "--on-conflict", "overwrite")
	if status != 1 || !strings.Contains(errs, "row with (id)=(22): another row of the target") ||
		!strings.Contains(errs, "goods_name_key") ||
		!strings.Contains(errs, "Key (name)=(name 22) already exists") || !strings.Contains(errs, "--on-conflict skip, or without") {
		t.Fatalf("status %d: %s", status, errs)
	}
	target.Exec("DELETE FROM goods WHERE id = 100")
	env.Must(changes, "pgapply", "--adopt", "--on-conflict", "overwrite")
	want := strings.TrimSpace(`
insert	overwritten	{"id": "21"}	name 21
update	overwritten	{"id": "3"}	name 3
delete	skipped	{"id": "4"}	NULL
update	overwritten	{"id": "5"}	name 5`)
	if got := target.Query(recorded); got != want {
		t.Errorf("recorded:\n%s\nwant:\n%s", got, want)
	}
	target.Exec("UPDATE goods SET note = repeat('note', 6) WHERE id = 6")
	pgtest.Equal(t, source, target)
}

// Without a key nothing can be overwritten, and nobody is told to try.
func TestConflictWithoutKey(t *testing.T) {
	source, target := pgtest.Pair(t)
	env := pgtest.NewEnv(t, source, target)
	slot := "k_" + source.Name
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("CREATE TABLE k (a int, b text); ALTER TABLE k REPLICA IDENTITY FULL; INSERT INTO k SELECT i, 'x' FROM generate_series(1, 5) i")
	}
	source.Exec("CREATE PUBLICATION "+slot+" FOR ALL TABLES", "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")
	target.Exec("DELETE FROM k WHERE a < 3")
	source.Exec("UPDATE k SET b = 'y' WHERE a = 1; DELETE FROM k WHERE a = 2; UPDATE k SET b = 'z' WHERE a = 3")
	changes := env.Must(nil, "pgdecode", "--slot", slot, "--until", "now")
	for _, policy := range []string{"error", "overwrite"} {
		status, _, errs := env.Run(changes, "pgapply", "--adopt", "--on-conflict", policy)
		if status != 1 || !strings.Contains(errs, "there is no row with (a, b)=(1, x)") ||
			!strings.Contains(errs, "--on-conflict skip, or without") {
			t.Errorf("%s: status %d: %s", policy, status, errs)
		}
	}
	env.Must(changes, "pgapply", "--adopt", "--on-conflict", "skip")
	if got := target.Query(recorded); got != "update\tskipped\t{\"a\": \"1\", \"b\": \"x\"}\tNULL\ndelete\tskipped\t{\"a\": \"2\", \"b\": \"x\"}\tNULL" {
		t.Errorf("recorded:\n%s", got)
	}
	if got := target.Query("SELECT string_agg(a || b, ' ' ORDER BY a) FROM k"); got != "3z 4x 5x" {
		t.Errorf("the target has %s", got)
	}
}

// What overwriting cannot do is said, and what to do instead.
func TestConflictHints(t *testing.T) {
	source, target := pgtest.Pair(t)
	env := pgtest.NewEnv(t, source, target)
	slot := "h_" + source.Name
	const tables = "CREATE TABLE big (id int PRIMARY KEY, a int, b text); ALTER TABLE big ALTER b SET STORAGE EXTERNAL; INSERT INTO big VALUES (1, 1, repeat('b', 10000)); CREATE TABLE wide (id int PRIMARY KEY)"
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec(tables)
	}
	source.Exec("ALTER TABLE wide ALTER id TYPE bigint", "CREATE PUBLICATION "+slot+" FOR ALL TABLES",
		"SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")
	target.Exec("DELETE FROM big")
	source.Exec("UPDATE big SET a = 2", "INSERT INTO wide VALUES (10000000000)")
	changes := env.Must(nil, "pgdecode", "--slot", slot, "--until", "now")
	for _, says := range []string{`It cannot be overwritten: the source has not sent the whole row`,
		`ALTER TABLE "public"."wide" ALTER COLUMN`} {
		status, _, errs := env.Run(changes, "pgapply", "--adopt", "--on-conflict", "overwrite")
		if status != 1 || !strings.Contains(errs, says) {
			t.Errorf("status %d: %s", status, errs)
		}
		target.Exec("INSERT INTO big VALUES (1, 1, repeat('b', 10000)) ON CONFLICT DO NOTHING")
	}
	target.Exec("ALTER TABLE wide ALTER COLUMN id TYPE bigint")
	env.Must(changes, "pgapply", "--adopt")
	pgtest.Equal(t, source, target)
}

func TestSkipLSN(t *testing.T) {
	_, target, env, changes := conflicting(t)
	var args []string
	for range 2 {
		status, _, errs := env.Run(changes, "pgapply", append(args, "--adopt")...)
		m := regexp.MustCompile(`--skip-lsn ([0-9A-F]+/[0-9A-F]+)`).FindStringSubmatch(errs)
		if status != 1 || m == nil {
			t.Fatalf("status %d: %s", status, errs)
		}
		args = append(args, "--skip-lsn", m[1])
	}
	env.Must(changes, "pgapply", append(args, "--adopt")...)
	if got := target.Query("SELECT id, price FROM goods WHERE id IN (1, 2, 21, 23) ORDER BY id"); got != "1\t1.5\n2\t2\n21\t0\n23\t23" {
		t.Errorf("the target has:\n%s", got)
	}
	if got := target.Query("SELECT count(*), count(DISTINCT lsn) FROM pgsluice.conflicts WHERE action = 'skipped' AND reason = '--skip-lsn'"); got != "6\t2" {
		t.Errorf("recorded: %s", got)
	}
	if got := target.Query("SELECT inserts, deletes FROM pgsluice.tables WHERE table_name = 'goods'"); got != "1\t0" {
		t.Errorf("counted: %s", got)
	}
}

// The same in a transaction that is too large to be written in one go.
func TestConflictInLargeTransaction(t *testing.T) {
	source, target, env := streaming(t, accounts)
	source.Exec("BEGIN; INSERT INTO a SELECT i, 0, repeat('x', 200) FROM generate_series(1, 60000) i; UPDATE a SET v = 1 WHERE id % 100 = 0; COMMIT")
	target.Exec("INSERT INTO a VALUES (59999, 0, 'x')")
	changes := env.Must(nil, "pgdecode", "--slot", "s", "--until", "now")
	env.Must(changes, "pgapply", "--adopt", "--on-conflict", "overwrite")
	if got := target.Query(`SELECT key FROM pgsluice.conflicts`); got != `{"id": "59999"}` {
		t.Errorf("recorded: %s", got)
	}
	pgtest.Equal(t, source, target)
}
