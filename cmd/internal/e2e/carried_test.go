package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// inFull lists the tables and partitions whose updates a slot's publications carry.
func inFull(d *pgtest.DB, slot string) string {
	return d.Query("SELECT coalesce(string_agg(tablename, ' ' ORDER BY tablename), '') FROM pg_publication_tables WHERE pubname = '" +
		slot + "' AND schemaname = 'public'")
}

// With recorded changes of the schema, a table that loses its identity leaves the publication of
// all operations before the application's next statement, so that none of those is refused, and
// comes back when it has one again. The other partitions of a partitioned table go on as before.
func TestIdentityLost_C1(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source := pgtest.Source(t).Database(t, "")
	if source.Major < 14 {
		t.Skip("statements are recorded from 14 on")
	}
	source.Exec("CREATE TABLE a (id int PRIMARY KEY, v int)", "CREATE TABLE b (id int PRIMARY KEY, v int)",
		"CREATE TYPE kind AS ENUM ('x')", "CREATE TABLE c (id kind PRIMARY KEY, v int)",
		"CREATE TABLE i (id int NOT NULL, v int)", "CREATE UNIQUE INDEX i_id ON i (id)", "ALTER TABLE i REPLICA IDENTITY USING INDEX i_id",
		"CREATE TABLE p (id int PRIMARY KEY, v int) PARTITION BY RANGE (id)",
		"CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)",
		"CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (9) TO (99)",
		"CREATE TABLE q (id int, v int) PARTITION BY RANGE (id)",
		"CREATE TABLE q1 PARTITION OF q (PRIMARY KEY (id)) FOR VALUES FROM (0) TO (9)",
		"CREATE TABLE dull (id int, v int)")
	env := &pgtest.Env{T: t, Dir: pgtest.Programs(t, false), Source: source.URI}
	env.Must(nil, "pgextract", "--slot", source.Name, "--data-only")
	env.Must(nil, "pgcutover", "ddl", "install")
	tables := []string{"a", "b", "c", "i", "p", "p1", "p2", "q", "q1", "dull"}
	step := func(want, sql string) {
		t.Helper()
		source.Exec(sql)
		for _, x := range tables {
			if _, err := source.Try("INSERT INTO " + x + " (v) SELECT 1 WHERE false; UPDATE " + x +
				" SET v = v; DELETE FROM " + x); err != nil {
				t.Errorf("after %s: %v", sql, err)
			}
		}
		if got := inFull(source, source.Name); got != want {
			t.Errorf("after %s: %s, not %s", sql, got, want)
		}
		// Whatever happens, inserts are carried.
		if n := source.Query("SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname NOT IN (SELECT tablename FROM pg_publication_tables)"); n != "0" {
			t.Errorf("after %s: %s tables are not published", sql, n)
		}
	}
	step("a b c i p1 p2 q1", "SELECT 1")
	step("b c i p1 p2 q1", "ALTER TABLE a DROP CONSTRAINT a_pkey")
	step("c i p1 p2 q1", "ALTER TABLE b REPLICA IDENTITY NOTHING")
	step("c p1 p2 q1", "DROP INDEX i_id")
	source.Exec("ALTER TABLE c ADD other int")
	step("p1 p2 q1", "DROP TYPE kind CASCADE")
	tables = append(tables, "p3")
	step("p1 p2 p3 q1", "CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (99) TO (999)")
	step("p2 p3 q1", "ALTER TABLE p1 REPLICA IDENTITY NOTHING")
	tables = append(tables, "p4", "q2", "q3")
	step("p2 p3 p4 q1", "CREATE TABLE p4 PARTITION OF p FOR VALUES FROM (999) TO (9999); CREATE TABLE q2 PARTITION OF q FOR VALUES FROM (9) TO (99); CREATE TABLE q3 (id int, v int)")
	step("p2 p3 p4 q1 q3", "ALTER TABLE q3 ADD PRIMARY KEY (id)")
	step("a p2 p3 p4 q1 q3", "ALTER TABLE a ADD PRIMARY KEY (id)")
	step("a p1 p2 p3 p4 q1 q3",
		"ALTER TABLE p1 REPLICA IDENTITY DEFAULT; ALTER TABLE p DETACH PARTITION p2; ALTER TABLE p DETACH PARTITION p3")
	tables = append(tables, "w", "w1", "w2")
	step("a p1 p2 p3 p4 q1 q3 w1",
		"CREATE TABLE w (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); CREATE TABLE w1 PARTITION OF w FOR VALUES FROM (0) TO (9); CREATE TABLE w2 (id int NOT NULL, v int)")
	step("a p1 p2 p3 p4 q1 q3 w1 w2", "ALTER TABLE w ATTACH PARTITION w2 FOR VALUES FROM (9) TO (99)")
	step("a p1 p2 p3 p4 q1 q3", "ALTER TABLE w DROP CONSTRAINT w_pkey")
}

// A pair is a migration that is followed by sync.
type following struct {
	*pgtest.Env
	source, target *pgtest.DB
	slot           string
}

// uncarried returns the reasons that status has for each table, and the tables that are missing.
func (f *following) uncarried() map[string][]string {
	f.T.Helper()
	var s struct {
		Missing   []struct{ Schema, Table string } `json:"missing_tables"`
		Uncarried []struct{ Schema, Table, Reason string }
	}
	out := f.Must(nil, "pgcutover", "status", "--slot", f.slot, "--json")
	out = []byte(strings.Replace(string(out), `"uncarried_tables"`, `"uncarried"`, 1))
	if err := json.Unmarshal(out, &s); err != nil {
		f.T.Fatal(err)
	}
	m := make(map[string][]string)
	for _, x := range s.Missing {
		m[x.Table] = append(m[x.Table], "missing")
	}
	for _, x := range s.Uncarried {
		m[x.Table] = append(m[x.Table], x.Reason)
	}
	return m
}

// refused makes sure that the fence is refused, and that the source has not been closed for it.
func (f *following) refused(names ...string) {
	f.T.Helper()
	status, _, errs := f.Run(nil, "pgcutover", "fence", "--slot", f.slot)
	if status != 78 || !strings.Contains(errs, "hint: ") {
		f.T.Errorf("fence: status %d, %s", status, errs)
	}
	for _, n := range names {
		if !strings.Contains(errs, n) {
			f.T.Errorf("fence does not name %s: %s", n, errs)
		}
	}
	f.source.Exec("CREATE TABLE pgsluice_probe (); DROP TABLE pgsluice_probe")
}

// What leaves a publication, or is published less than it was loaded, in whichever way, and for
// however short a time, is named by status, and stands in the way of the fence.
func TestPublicationNarrowed_C3(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	f := &following{pgtest.NewEnv(t, source, target), source, target, source.Name}
	for _, x := range []string{"plain", "away", "there_and_back", "dropped", "swapped", "narrow", "fewer", "untouched", "old"} {
		source.Exec("CREATE TABLE "+x+" (id int PRIMARY KEY, v int)", "INSERT INTO "+x+" VALUES (1, 1)")
	}
	source.Exec("CREATE TABLE keyless (id int)")
	want := map[string][]string{"away": {"not-published"}, "there_and_back": {"gap"}, "dropped": {"missing"},
		"swapped": {"missing"}, "old": {"missing"}}
	if source.Major >= 11 {
		source.Exec("CREATE TABLE p (id int PRIMARY KEY, v int) PARTITION BY RANGE (id)",
			"CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)",
			"CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (9) TO (99)")
	}
	if source.Major >= 13 {
		want["p1"], want["p2"] = []string{"not-published"}, []string{"gap"}
	}
	if source.Major >= 15 {
		want["narrow"], want["fewer"] = []string{"row-filter", "gap"}, []string{"column-list", "gap"}
	}
	f.Bash("pgextract --slot " + f.slot + " | pgapply")
	if got := f.uncarried(); len(got) != 0 {
		t.Fatalf("after the load: %v", got)
	}
	alter := func(sql string) { source.Exec(strings.ReplaceAll(sql, "PUB", "PUBLICATION "+f.slot)) }
	alter("ALTER PUB DROP TABLE away")
	alter("ALTER PUB DROP TABLE there_and_back; INSERT INTO there_and_back VALUES (2); ALTER PUB ADD TABLE there_and_back")
	alter("DROP TABLE dropped; CREATE TABLE dropped (id int PRIMARY KEY, v int); ALTER PUB ADD TABLE dropped")
	alter("CREATE TABLE new (id int PRIMARY KEY, v int); ALTER TABLE swapped RENAME TO was_swapped; ALTER TABLE new RENAME TO swapped; ALTER TABLE was_swapped RENAME TO gone; DROP TABLE gone")
	alter("DROP TABLE old; CREATE TABLE old (id int)")
	if source.Major >= 15 {
		alter("ALTER PUB DROP TABLE narrow; ALTER PUB ADD TABLE narrow WHERE (id > 5); ALTER PUB DROP TABLE fewer; ALTER PUB ADD TABLE fewer (id)")
	}
	if source.Major >= 13 {
		alter("ALTER TABLE p DETACH PARTITION p1; ALTER TABLE p DETACH PARTITION p2; UPDATE p2 SET v = 5; ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (9) TO (99)")
	}
	if got := f.uncarried(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("status says\n%v, not\n%v", got, want)
	}
	f.refused("public.swapped")
	// Each remedy helps.
	f.Bash("pgextract --slot " +
		f.slot + " --table dropped --table swapped --table old --table there_and_back --table away --table 'p*' --reload 2>/dev/null | pgapply || true")
	source.Exec("ALTER PUBLICATION "+f.slot+" SET (publish = 'insert')", "UPDATE plain SET v = 2")
	got := f.uncarried()
	if !slices.Contains(got["plain"], "narrowed") || !slices.Contains(got["untouched"], "narrowed") || len(got["keyless"]) != 0 {
		t.Errorf("with inserts only: %v", got)
	}
	f.refused("public.plain")
	// Also when that was for a moment.
	all := "insert, update, delete, truncate"
	if source.Major < 11 {
		all = "insert, update, delete"
	}
	source.Exec("ALTER PUBLICATION " + f.slot + " SET (publish = '" + all + "')")
	if got := f.uncarried(); !slices.Equal(got["plain"], []string{"gap"}) {
		t.Errorf("after inserts only: %v", got)
	}
	f.refused("public.plain")
}

// A load that was made and has not arrived, as a whole or for one table, stands in the way of the
// fence: also where the target has the table, or changes have been applied.
func TestLoadThatNeverArrived_C20(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	f := &following{pgtest.NewEnv(t, source, target), source, target, source.Name}
	for _, x := range []string{"a", "b", "c"} {
		source.Exec("CREATE TABLE "+x+" (id int PRIMARY KEY)", "INSERT INTO "+x+" VALUES (1)")
	}
	// Nothing has arrived, and somebody vouches for rows that are not there.
	load := f.Must(nil, "pgextract", "--slot", f.slot)
	source.Exec("INSERT INTO a VALUES (2)")
	changes := f.Must(nil, "pgdecode", "--slot", f.slot, "--until", "now")
	target.Exec("CREATE TABLE a (id int PRIMARY KEY)")
	f.Must(changes, "pgapply", "--adopt")
	if got := f.uncarried(); fmt.Sprint(got) != "map[a:[missing] b:[missing] c:[missing]]" {
		t.Errorf("without a load: %v", got)
	}
	f.refused("public.a", "public.b")
	target.Exec("DROP SCHEMA pgsluice CASCADE", "DROP TABLE a")
	// One of two loads has.
	f.Must(load, "pgapply")
	f.Must(changes, "pgapply")
	if got := f.uncarried(); len(got) != 0 {
		t.Errorf("with the load: %v", got)
	}
	source.Exec("CREATE TABLE late (id int PRIMARY KEY)", "INSERT INTO late VALUES (1)")
	target.Exec("CREATE TABLE late (id int PRIMARY KEY)")
	file := filepath.Join(t.TempDir(), "late")
	if err := os.WriteFile(file, f.Must(nil, "pgextract", "--slot", f.slot, "--table", "late", "--data-only"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := f.uncarried(); fmt.Sprint(got) != "map[late:[missing]]" {
		t.Errorf("without the second load: %v", got)
	}
	f.refused("public.late")
	f.Bash("pgapply <" + file)
	if got := f.uncarried(); len(got) != 0 {
		t.Errorf("with the second load: %v", got)
	}
	// One that is under way.
	target.Exec("UPDATE pgsluice.streams SET load_status = 'loading'")
	f.refused("--resume")
	pgtest.Wait(t, 10*time.Second, "the source takes writes",
		func() bool { _, err := source.Try("INSERT INTO a VALUES (3)"); return err == nil })
}

// A publication that a DBA has made FOR ALL TABLES serves a role that owns none of them, and is
// still there when the migration is over.
func TestForeignPublication_C3(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	mover := role(t, source, "mover", "REPLICATION")
	source.Exec("CREATE TABLE a (id int PRIMARY KEY)", "INSERT INTO a VALUES (1)",
		"GRANT SELECT ON ALL TABLES IN SCHEMA public TO "+mover,
		"CREATE PUBLICATION "+source.Name+" FOR ALL TABLES")
	if source.Major >= 11 {
		source.Exec("CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id)",
			"CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)", "INSERT INTO p VALUES (1)",
			"GRANT SELECT ON p, p1 TO "+mover)
	}
	f := &following{pgtest.NewEnv(t, source, target), source, target, source.Name}
	f.Source = source.As(mover, "")
	f.Bash("pgextract --slot " + f.slot + " --no-owner --no-acl | pgapply")
	source.Exec("INSERT INTO a VALUES (2)")
	f.Bash("pgdecode --slot " + f.slot + " --until now | pgapply")
	if got := f.uncarried(); len(got) != 0 {
		t.Errorf("after the load: %v", got)
	}
	pgtest.Equal(t, source, target)
	f.Must(nil, "pgcutover", "cleanup", "--slot", f.slot, "--force")
	if got := source.Query("SELECT (SELECT count(*) FROM pg_publication) || ' ' || (SELECT count(*) FROM pg_replication_slots WHERE slot_name = '" +
		f.slot + "')"); got != "1 0" {
		t.Errorf("publications and slots that are left: %s", got)
	}
	// One that carries less is refused before there is a slot, with what is missing.
	source.Exec("DROP PUBLICATION "+f.slot, "CREATE PUBLICATION "+f.slot+" FOR ALL TABLES WITH (publish = 'insert')")
	status, _, errs := f.Run(nil, "pgextract", "--slot", f.slot)
	if status != 78 || !strings.Contains(errs, "public.a") || !strings.Contains(errs, "UPDATE") ||
		source.Query("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '"+f.slot+"'") != "0" {
		t.Errorf("with inserts only: status %d, %s", status, errs)
	}
}

// A partition that is half detached is refused, by check and by the load, with the statement that
// ends it.
func TestPendingDetach_C27(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	if source.Major < 14 {
		t.Skip("DETACH CONCURRENTLY exists from PostgreSQL 14 on")
	}
	source.Exec("CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id)", "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)")
	ctx, holder, detacher := pgtest.Context(t), source.Connect(), source.Connect()
	for _, sql := range []string{"BEGIN", "SELECT FROM p"} {
		if _, err := holder.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := detacher.Exec(ctx, "SET lock_timeout = '100ms'"); err != nil {
		t.Fatal(err)
	}
	if _, err := detacher.Exec(ctx, "ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY"); err == nil {
		t.Fatal("DETACH does not wait")
	}
	if _, err := holder.Exec(ctx, "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	e := pgtest.NewEnv(t, source, target)
	const finalize = `ALTER TABLE "public"."p" DETACH PARTITION "public"."p1" FINALIZE`
	status, _, errs := e.Run(nil, "pgextract", "--slot", source.Name)
	if status != 78 || !strings.Contains(errs, finalize) ||
		source.Query("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '"+source.Name+"'") != "0" {
		t.Errorf("pgextract: status %d, %s", status, errs)
	}
	if status, out, _ := e.Run(nil, "pgcutover", "check"); status != 78 || !strings.Contains(string(out), finalize) {
		t.Errorf("check: status %d, %s", status, out)
	}
	source.Exec(finalize)
	e.Bash("pgextract --slot " + source.Name + " | pgapply")
}
