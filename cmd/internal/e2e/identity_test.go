package e2e

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// untouched fails the test if a database has state of a migration into it.
func untouched(t *testing.T, d *pgtest.DB) {
	t.Helper()
	if got := d.Query("SELECT to_regclass('pgsluice.streams') IS NULL"); got != "t" {
		t.Errorf("%s: there is state of a migration", d.Name)
	}
}

// A pipe whose ends are one database ends within seconds, whoever asks, and nothing happens there.
func TestSameDatabase_I2(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, _ := pgtest.Pair(t)
	source.Exec("CREATE TABLE big AS SELECT g AS id, repeat('x', 100) AS v FROM generate_series(1, 100000) g",
		"ALTER TABLE big ADD PRIMARY KEY (id)",
		"CREATE TABLE small (id int PRIMARY KEY)", "INSERT INTO small VALUES (1)")
	e := pgtest.NewEnv(t, source, source)
	e.Target = source.URI + "&application_name=other" // not the same text
	slot := "s_" + source.Name
	run := func(script string) int {
		t.Helper()
		p := e.Start(nil, nil, "bash", "-c", script, "same", slot, filepath.Join(t.TempDir(), "f"))
		return p.Wait(20 * time.Second)
	}
	for _, script := range []string{
		`pgextract --table small --reload | pgapply; exit ${PIPESTATUS[1]}`,
		`pgextract --table big --reload | pgapply; exit ${PIPESTATUS[1]}`,
		`pgextract --slot "$1" --table big --reload | pgapply; exit ${PIPESTATUS[1]}`,
		`pgextract --slot "$1" --table small --reload > "$2"; pgapply < "$2"`, // the writer is gone
		`pgextract --slot "$1" --data-only > "$2"; pgapply < "$2"`,
		// without a slot, nothing was loaded here
		`pgextract --table small --reload > "$2"; pgapply < "$2"`,
		`pgdecode --slot "$1" --until now | pgapply --adopt; exit ${PIPESTATUS[1]}`,
		`pgextract --slot "$1" --resume > "$2"`,
		`pgcutover check --slot "$1"`,
		`pgcutover cleanup --slot "$1" --force`,
	} {
		if status := run(script); status != 78 {
			t.Errorf("%s: status %d", script, status)
		}
	}
	e.Target = source.URI
	if status := run(`pgextract --slot other > "$2"`); status != 78 {
		t.Errorf("one variable for both: status %d", status)
	}
	if got := source.Query("SELECT (SELECT count(*) FROM big) || ' ' || (SELECT count(*) FROM small) || ' ' || (SELECT string_agg(slot_name, ',') FROM pg_replication_slots WHERE database = current_database())"); got != "100000 1 "+slot {
		t.Errorf("there is now: %s", got)
	}
	untouched(t, source)
}

// The same, where the role may not ask for the server's identifier.
func TestSameDatabaseWithoutControlSystem_I2(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, _ := pgtest.Pair(t)
	role := "mover_" + source.Name
	source.Exec("CREATE ROLE "+role+" LOGIN REPLICATION", "ALTER DATABASE "+source.Name+" OWNER TO "+role,
		"REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
	owned := *source
	owned.URI = source.As(role, "")
	owned.Exec("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
	t.Cleanup(func() {
		admin := pgtest.Source(t).Database(t, "")
		source.Exec("ALTER DATABASE " + source.Name + " OWNER TO postgres")
		pgtest.Wait(t, soon, "no session of the role makes anything any more", func() bool {
			source.Exec("REASSIGN OWNED BY "+role+" TO postgres", "DROP OWNED BY "+role)
			_, err := admin.Try("DROP ROLE " + role)
			return err == nil
		})
	})
	e := pgtest.NewEnv(t, source, source)
	e.Source, e.Target = owned.URI, owned.URI+"&application_name=other"
	slot := "s_" + source.Name
	for _, script := range []string{
		`pgextract --table t --reload | pgapply; exit ${PIPESTATUS[1]}`,
		`pgextract --slot "$1" --data-only > "$2"; pgapply < "$2"`,
		`pgdecode --slot "$1" --until now | pgapply --adopt; exit ${PIPESTATUS[1]}`,
	} {
		p := e.Start(nil, nil, "bash", "-c", script, "same", slot, filepath.Join(t.TempDir(), "f"))
		if status := p.Wait(20 * time.Second); status != 78 {
			t.Errorf("%s: status %d: %s", script, status, p.Errors())
		}
	}
	// The slot is gone; its publication with the token is there.
	changes := e.Must(nil, "pgdecode", "--slot", slot, "--until", "now")
	source.Exec("SELECT pg_drop_replication_slot('" + slot + "')")
	if status, _, errs := e.Run(changes, "pgapply", "--adopt"); status != 78 {
		t.Errorf("without the slot: status %d: %s", status, errs)
	}
	untouched(t, source)
}

// Source and target change places by mistake: no row of the production is touched.
func TestSwappedReload_I1(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t SELECT generate_series(1, 100)")
	e := pgtest.NewEnv(t, source, target)
	slot := "s_" + source.Name
	e.Bash(`pgextract --slot "$1" | pgapply`, slot)
	source.Exec("INSERT INTO t VALUES (9999)")
	e.Source, e.Target = target.URI, source.URI
	state := func() string {
		return source.Query("SELECT count(*) FROM t") + " " +
			target.Query("SELECT (SELECT count(*) FROM t) || ' ' || (SELECT count(*) FROM pg_publication) || (SELECT count(*) FROM pg_replication_slots WHERE slot_name = '"+slot+"')")
	}
	before := state()
	for _, args := range []string{"", "--slot " + slot, "--slot other_" + source.Name} {
		status, _, errs := e.Run(nil, "bash", "-c",
			"pgextract "+args+" --table t --reload | pgapply; exit $((PIPESTATUS[1] == 65 ? PIPESTATUS[0] : PIPESTATUS[1]))")
		if status != 78 {
			t.Errorf("pgextract %s: status %d: %s", args, status, errs)
		}
		if strings.HasPrefix(args, "--slot other") {
			target.Exec("DROP PUBLICATION other_"+source.Name, "DROP PUBLICATION other_"+source.Name+"_insert_only")
		}
		if after := state(); after != before {
			t.Errorf("pgextract %s: %s, before %s", args, after, before)
		}
	}
	// A slot that is there only on the real source, in a stream of the real target.
	for _, args := range [][]string{{"cleanup", "--slot", slot, "--force"}, {"check", "--slot", slot}, {"fence", "--slot", slot}} {
		if status, _, errs := e.Run(nil, "pgcutover", args...); status == 0 {
			t.Errorf("%v: status 0: %s", args, errs)
		}
	}
	untouched(t, source)
	// Tables that were loaded here, and empty ones, are loaded again as ever.
	e.Source, e.Target = source.URI, target.URI
	source.Exec("CREATE TABLE late (id int PRIMARY KEY)", "INSERT INTO late VALUES (1)")
	target.Exec("CREATE TABLE late (id int PRIMARY KEY)")
	e.Bash(`pgextract --slot "$1" --table t --table late --reload | pgapply`, slot)
	pgtest.Equal(t, source, target)
	source.Exec("CREATE TABLE other (id int PRIMARY KEY)")
	target.Exec("CREATE TABLE other (id int PRIMARY KEY)", "INSERT INTO other VALUES (1)")
	for range 2 {
		if status, _, errs := e.Run(nil, "bash", "-c",
			`pgextract --slot "$1" --table other --reload | pgapply; exit ${PIPESTATUS[1]}`, "x",
			slot); status != 78 {
			t.Errorf("a table that was not loaded here: status %d: %s", status, errs)
		}
	}
	if n := target.Query("SELECT count(*) FROM other"); n != "1" {
		t.Errorf("%s rows", n)
	}
}

// A fenced source is nobody's target.
func TestFencedSource_I1(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
	target.Exec("CREATE TABLE u (id int PRIMARY KEY)")
	e := pgtest.NewEnv(t, source, target)
	slot := "s_" + source.Name
	e.Bash(`pgextract --slot "$1" | pgapply`, slot)
	e.Must(nil, "pgcutover", "fence", "--slot", slot)
	// Nor does it get another slot: pgextract says that a cutover has closed it, and what to do.
	if status, _, errs := e.Run(nil, "pgextract", "--slot", "other_"+source.Name); status != 78 || !strings.Contains(errs, "pgcutover unfence --slot "+slot) {
		t.Errorf("another load: status %d: %s", status, errs)
	}
	e.Source, e.Target = target.URI, source.URI
	if status, _, errs := e.Run(nil, "bash", "-c", `pgextract --table u | pgapply; exit ${PIPESTATUS[1]}`); status != 78 {
		t.Errorf("status %d: %s", status, errs)
	}
	untouched(t, source)
}

// A change stream needs a load, or a word that the rows are there.
func TestAdopt_I3(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'a')")
	}
	slot := "s_" + source.Name
	source.Exec("CREATE PUBLICATION "+slot+" FOR TABLE t",
		"SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')", "UPDATE t SET v = 'b'")
	e := pgtest.NewEnv(t, source, target)
	changes := e.Must(nil, "pgdecode", "--slot", slot, "--until", "now")
	status, _, errs := e.Run(changes, "pgapply")
	refused(t, status, 78, errs, "--adopt", "pgextract --slot "+slot)
	if v := target.Query("SELECT v FROM t"); v != "a" {
		t.Errorf("the target has %q", v)
	}
	untouched(t, target)
	e.Must(changes, "pgapply", "--adopt")
	e.Must(changes, "pgapply") // known from now on
	pgtest.Equal(t, source, target)
	// scripts/sync passes it on.
	target.Exec("DROP SCHEMA pgsluice CASCADE", "UPDATE t SET v = 'a'")
	p := e.Start(nil, nil, "bash", script("sync"), slot)
	if status := p.Wait(30 * time.Second); status != 78 {
		t.Errorf("sync: status %d: %s", status, p.Errors())
	}
	p = e.Start(nil, nil, "bash", script("sync"), slot, "--adopt")
	pgtest.Wait(t, 30*time.Second, "the change is there", func() bool { return target.Query("SELECT v FROM t") == "b" })
	stopSync(t, p)
}

// An old file does nothing to a target whose migration is over.
func TestReplayAfterCleanup_I3(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'first')")
	e := pgtest.NewEnv(t, source, target)
	slot := "s_" + source.Name
	e.Bash(`pgextract --slot "$1" | pgapply`, slot)
	source.Exec("UPDATE t SET v = 'second'")
	changes := e.Must(nil, "pgdecode", "--slot", slot, "--until", "now")
	e.Must(changes, "pgapply")
	e.Must(nil, "pgcutover", "cleanup", "--slot", slot, "--force")
	target.Exec("UPDATE t SET v = 'by the application'")
	status, _, errs := e.Run(changes, "pgapply")
	refused(t, status, 78, errs)
	if v := target.Query("SELECT v FROM t"); v != "by the application" {
		t.Errorf("the row is %q", v)
	}
	untouched(t, target)
}

// A stream of another server, another database, or another migration of the same slot name does not
// get into a target.
func TestForeignStream_I3(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	slot := "s_" + source.Name
	other := pgtest.Source(t).Database(t, "")
	schema := []string{"CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'a')"}
	source.Exec(schema...)
	other.Exec(schema...)
	e := pgtest.NewEnv(t, source, target)
	e.Bash(`pgextract --slot "$1" | pgapply`, slot)
	// Slots of two databases of one server have two names; a file does not know.
	source.Exec("SELECT pg_drop_replication_slot('" + slot + "')")
	x := pgtest.NewEnv(t, other, target)
	load := x.Must(nil, "pgextract", "--slot", slot)
	other.Exec("UPDATE t SET v = 'of another database'", "INSERT INTO t VALUES (2, 'of another database')")
	changes := x.Must(nil, "pgdecode", "--slot", slot, "--until", "now")
	other.Exec("SELECT pg_drop_replication_slot('" + slot + "')")
	for _, stream := range [][]byte{changes, load, append(bytes.Clone(load), changes...)} {
		for _, args := range [][]string{nil, {"--adopt"}} {
			status, _, errs := e.Run(stream, "pgapply", args...)
			refused(t, status, 78, errs, other.Name, source.Name)
		}
	}
	// The same database, but a slot that was made anew.
	source.Exec("DROP PUBLICATION "+slot, "DROP PUBLICATION "+slot+"_insert_only")
	load = e.Must(nil, "pgextract", "--slot", slot)
	source.Exec("UPDATE t SET v = 'of another slot'")
	changes = e.Must(nil, "pgdecode", "--slot", slot, "--until", "now")
	for _, stream := range [][]byte{changes, load} {
		status, _, errs := e.Run(stream, "pgapply", "--adopt")
		refused(t, status, 78, errs, "pgcutover cleanup")
	}
	if got := target.Query("SELECT id, v FROM t"); got != "1\ta" {
		t.Errorf("the target has %s", got)
	}
}

// A physical copy of the source has its system identifier. It is no copy of the slot's: rid of what
// it has brought along, it can be adopted.
func TestPhysicalCopyAsTarget_I2(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	major := pgtest.Source(t).Major
	server := pgtest.Start(t, major)
	source := server.Database(t, "")
	source.Exec("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
	slot := "s_" + source.Name
	e := &pgtest.Env{T: t, Dir: pgtest.Programs(t, false), Source: source.URI}
	e.Must(nil, "pgextract", "--slot", slot, "--data-only")
	copied := server.Clone(t)
	target := *source
	target.Server, target.URI = copied, copied.URI(source.Name)
	e.Target = target.URI
	source.Exec("INSERT INTO t VALUES (2)")
	changes := e.Must(nil, "pgdecode", "--slot", slot, "--until", "now")
	adopt := func(want int) {
		t.Helper()
		if status, _, errs := e.Run(changes, "pgapply", "--adopt"); status != want {
			t.Fatalf("status %d: %s", status, errs)
		}
	}
	adopt(78)
	target.Exec("SELECT pg_drop_replication_slot('" + slot + "')")
	adopt(78)
	target.Exec("DROP PUBLICATION " + slot)
	adopt(0)
	pgtest.Equal(t, source, &target)
	if status, out, errs := e.Run(nil, "pgcutover", "check", "--slot", slot); strings.Contains(string(out), "same database") {
		t.Errorf("check: %d %s%s", status, out, errs)
	}
}
