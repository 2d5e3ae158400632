package e2e

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// patience is how long it may take until somebody is named, on a loaded machine.
const patience = 20 * time.Second

// session opens a session of another role, and executes SQL there.
func session(t *testing.T, d *pgtest.DB, role, sql string) (c *pgx.Conn, pid string) {
	t.Helper()
	c, err := pgx.Connect(pgtest.Context(t), d.As(role, ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	if _, err := c.Exec(pgtest.Context(t), sql); err != nil {
		t.Fatal(err)
	}
	return c, fmt.Sprint(c.PgConn().PID())
}

// named waits until a program has said all of these.
func named(t *testing.T, p *pgtest.Process, what ...string) {
	t.Helper()
	pgtest.Wait(t, patience, fmt.Sprintf("%q are named", what), func() bool {
		for _, x := range what {
			if !strings.Contains(p.Errors(), x) {
				return false
			}
		}
		return true
	})
}

// What the creation of a slot waits for is named to any role: prepared transactions, whatever
// database they are of, and open ones, of which it is said what the role may not see.
func TestSlotCreationWaits_H1(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	server := pgtest.Start(t, pgtest.Source(t).Major)
	source, other := server.Database(t, ""), server.Database(t, "")
	source.Exec("CREATE TABLE t (a int PRIMARY KEY)",
		"CREATE ROLE mover LOGIN REPLICATION; CREATE ROLE app LOGIN; ALTER TABLE t OWNER TO mover; GRANT CREATE ON DATABASE "+
			source.Name+" TO mover")
	other.Exec("CREATE TABLE u (a int); GRANT ALL ON u TO app", "BEGIN; INSERT INTO u VALUES (1); PREPARE TRANSACTION 'forgotten'")
	writer, pid := session(t, other, "app", "SET application_name = 'the writer'; BEGIN; INSERT INTO u VALUES (1)")
	e := &pgtest.Env{T: t, Dir: pgtest.Programs(t, false), Source: source.As("mover", ""), Target: pgtest.Target(t).Database(t, "").URI}
	p := e.Start(nil, io.Discard, "pgextract", "--data-only", "--slot", "mig")
	named(t, p, "'forgotten'", "database "+other.Name, "ROLLBACK PREPARED", "process "+pid, "role app", "GRANT pg_read_all_stats TO")
	status, out, _ := e.Run(nil, "pgcutover", "check")
	if status != 78 || !strings.Contains(string(out), "'forgotten'") || !strings.Contains(string(out), "process "+pid) {
		t.Errorf("check: status %d\n%s", status, out)
	}
	other.Exec("ROLLBACK PREPARED 'forgotten'")
	if _, err := writer.Exec(pgtest.Context(t), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if status := p.Wait(soon); status != 0 {
		t.Errorf("status %d: %s", status, p.Errors())
	}
	source.Exec("SELECT pg_drop_replication_slot('mig')")
}

// A lock on a table of the source holds nobody up who only looks; a lock on the target, or on the
// source's database, holds up open and fence for as long as they are told to wait, and they name
// who holds it.
func TestLocks_H3(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	slot, role := source.Name, "locker_"+source.Name
	source.Exec("CREATE TABLE t (a int PRIMARY KEY)",
		"CREATE TABLE child (a int PRIMARY KEY, t int REFERENCES t)",
		"INSERT INTO t SELECT generate_series(1, 10)")
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("CREATE ROLE " + role + " LOGIN")
		t.Cleanup(func() { d.Exec("BEGIN READ WRITE; DROP OWNED BY " + role + "; DROP ROLE " + role + "; COMMIT") })
	}
	source.Exec("GRANT ALL ON t, child TO " + role)
	e := pgtest.NewEnv(t, source, target)
	e.Bash(`pgextract --slot "$1" | pgapply`, slot)
	sync := e.Start(nil, nil, "bash", filepath.Join(pgtest.Root(), "scripts", "sync"), slot)
	holder, _ := session(t, source, role, "BEGIN; LOCK TABLE t, child IN ACCESS EXCLUSIVE MODE")
	for _, args := range [][]string{{"status"}, {"status", "--get", "missing_tables.count"}, {"check"},
		{"wait", "caught-up", "--timeout", "60s"}} {
		p := e.Start(nil, io.Discard, "pgcutover", append(args, "--slot", slot)...)
		if status := p.Wait(soon); status != 0 && !(args[0] == "check" && status == 1) {
			t.Errorf("%s: status %d\n%s", args, status, p.Errors())
		}
	}
	_ = holder.Close(context.Background())

	// What applies changes waits, and says for whom.
	holder, pid := session(t, target, role, "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
	source.Exec("INSERT INTO t VALUES (100)")
	named(t, sync, "process "+pid, role)
	_ = holder.Close(context.Background())

	// Somebody has begun to change a setting of the database.
	postgres := *source
	postgres.URI = source.Server.URI("postgres")
	holder, pid = session(t, &postgres, "postgres", "BEGIN; ALTER DATABASE "+source.Name+" SET work_mem = '5MB'")
	status, _, errs := e.Run(nil, "pgcutover", "fence", "--slot", slot, "--timeout", "3s")
	if status != 75 || !strings.Contains(errs, "process "+pid) {
		t.Errorf("fence: status %d\n%s", status, errs)
	}
	_ = holder.Close(context.Background())
	e.Bash(`pgcutover fence --slot "$1"; pgcutover drain --slot "$1"`, slot)
	holder, pid = session(t, target, role, "BEGIN; LOCK TABLE t IN ROW EXCLUSIVE MODE")
	status, _, errs = e.Run(nil, "pgcutover", "open", "--slot", slot, "--timeout", "3s")
	if status != 75 || !strings.Contains(errs, "process "+pid) || !strings.Contains(errs, role) {
		t.Errorf("open: status %d\n%s", status, errs)
	}
	p := e.Start(nil, nil, "pgcutover", "open", "--slot", slot)
	named(t, p, "process "+pid)
	_ = holder.Close(context.Background())
	if status := p.Wait(soon); status != 0 {
		t.Errorf("open: status %d\n%s", status, p.Errors())
	}
	if n := target.Query("SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conrelid = 'child'::regclass"); n != "1" {
		t.Errorf("%s foreign keys", n)
	}
	sync.Wait(soon)
	e.Bash(`pgcutover finish --slot "$1"`, slot)
	pgtest.Equal(t, source, target)
}

// A target whose commits wait for a standby that is not there is loaded, and follows, as the target
// itself has what it reports. It is not opened: check and fence say what the application would wait
// for.
func TestSyncStandby_H2(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source := pgtest.Source(t).Database(t, "")
	target := pgtest.Start(t, pgtest.Target(t).Major).Database(t, "")
	slot := source.Name
	source.Exec("CREATE TABLE t (a int PRIMARY KEY)", "INSERT INTO t SELECT generate_series(1, 10)")
	standbys := func(sql, want string) {
		t.Helper()
		target.Exec(sql, "SELECT pg_reload_conf()")
		pgtest.Wait(t, patience, "the setting is in force", func() bool { return target.Query("SHOW synchronous_standby_names") == want })
	}
	e := pgtest.NewEnv(t, source, target)
	standbys("ALTER SYSTEM SET synchronous_standby_names = 'ghost'", "ghost")
	if status, out, _ := e.Run(nil, "pgcutover", "check", "--slot", slot); status != 78 || !strings.Contains(string(out), "ghost") {
		t.Errorf("check: status %d\n%s", status, out)
	}
	run := func(script string) {
		t.Helper()
		p := e.Start(nil, nil, "bash", "-c", "set -euo pipefail; "+script, "bash", slot)
		if status := p.Wait(soon); status != 0 {
			t.Fatalf("%s: status %d\n%s", script, status, p.Errors())
		}
	}
	run(`pgextract --slot "$1" | pgapply`)
	source.Exec("INSERT INTO t SELECT generate_series(11, 20)")
	sync := e.Start(nil, nil, "bash", filepath.Join(pgtest.Root(), "scripts", "sync"), slot)
	run(`pgcutover wait caught-up --slot "$1" --timeout 30s`)
	pgtest.Equal(t, source, target)
	status, _, errs := e.Run(nil, "pgcutover", "fence", "--slot", slot)
	if status != 78 || !strings.Contains(errs, "ghost") {
		t.Errorf("fence: status %d\n%s", status, errs)
	}
	source.Exec("INSERT INTO t VALUES (21)") // it is not closed
	standbys("ALTER SYSTEM RESET synchronous_standby_names", "")
	run(`pgcutover fence --slot "$1"; pgcutover drain --slot "$1"`)
	// Lost just now, it is not opened either.
	standbys("ALTER SYSTEM SET synchronous_standby_names = 'ghost'", "ghost")
	if status, _, errs := e.Run(nil, "pgcutover", "open", "--slot", slot); status != 78 || !strings.Contains(errs, "ghost") {
		t.Errorf("open: status %d\n%s", status, errs)
	}
	standbys("ALTER SYSTEM RESET synchronous_standby_names", "")
	run(`pgcutover open --slot "$1"`)
	sync.Wait(soon)
	pgtest.Equal(t, source, target)
}

// A slot that is lost is said to be lost, and what to do, by everybody who looks at it.
func TestLostSlot_H4(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	if pgtest.Source(t).Major < 13 {
		t.Skip("slots are not lost before 13")
	}
	source := pgtest.Start(t, pgtest.Source(t).Major, "max_slot_wal_keep_size=1MB", "min_wal_size=32MB",
		"max_wal_size=32MB").Database(t, "")
	target := pgtest.Target(t).Database(t, "")
	slot := source.Name
	source.Exec("CREATE TABLE t (a int PRIMARY KEY)")
	e := pgtest.NewEnv(t, source, target)
	e.Bash(`pgextract --slot "$1" | pgapply`, slot)
	pgtest.Wait(t, time.Minute, "the slot is lost", func() bool {
		source.Exec("INSERT INTO t SELECT coalesce(max(a), 0) + 1 FROM t", "SELECT pg_switch_wal()", "CHECKPOINT")
		return source.Query("SELECT wal_status FROM pg_replication_slots") == "lost"
	})
	if got := string(e.Must(nil, "pgcutover", "status", "--slot", slot, "--get", "source_slot.wal_status")); got != "lost\n" {
		t.Errorf("wal_status is %q", got)
	}
	text := string(e.Must(nil, "pgcutover", "status", "--slot", slot))
	if !strings.Contains(text, "LOST") || !strings.Contains(text, "pgcutover cleanup --slot "+slot) {
		t.Errorf("status:\n%s", text)
	}
	for _, args := range [][]string{{"pgcutover", "wait", "caught-up"}, {"pgcutover", "fence"}, {"pgdecode"}} {
		p := e.Start(nil, io.Discard, args[0], append(args[1:], "--slot", slot)...)
		if status := p.Wait(patience); status != 69 || !strings.Contains(p.Errors(), "pgcutover cleanup --slot "+slot) {
			t.Errorf("%s: status %d\n%s", args, status, p.Errors())
		}
	}
	source.Exec("INSERT INTO t VALUES (-1)") // it is not closed
}

// A server that is too old, or a standby, is refused by every program, once and by its name. A full
// load that nothing follows may be read from a standby.
func TestRefusedServers_H6(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	major := max(pgtest.Source(t).Major, 12)
	primary := pgtest.Start(t, major)
	source, target := primary.Database(t, ""), pgtest.Target(t).Database(t, "")
	source.Exec("CREATE TABLE t (a int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
	e := pgtest.NewEnv(t, source, target)
	stream := e.Must(nil, "pgextract", "--data-only")
	standby := primary.Standby(t).URI(source.Name)
	old := pgtest.Stub{Version: "9.4.26"}.Start(t)
	for _, x := range []struct {
		name, source, target string
		says                 string
	}{
		{"old source", old, target.URI, "9.4.26"},
		{"old target", source.URI, old, "9.4.26"},
		{"standby as source", standby, target.URI, "standby"},
		{"standby as target", source.URI, standby, "standby"},
	} {
		e.Source, e.Target = x.source, x.target
		for _, args := range [][]string{{"pgcutover", "check"}, {"pgcutover", "ddl", "install"},
			{"pgextract", "--slot", "mig"}, {"pgdecode", "--slot", "mig", "--until", "now"}, {"pgextract"},
			{"pgapply"}, {"pgcutover", "status"}} {
			ofSource := args[0] == "pgextract" || args[0] == "pgdecode" || len(args) > 1 && args[1] == "ddl"
			want := 78
			switch {
			case ofSource && x.source == source.URI, args[0] == "pgapply" && x.target == target.URI,
				len(args) == 2 && args[1] == "status" && x.target == target.URI:
				continue // it does not ask the other
			case len(args) == 1 && args[0] == "pgextract" && x.source == standby:
				args, want = append(args, "--data-only"), 0
			case args[0] == "pgdecode" && major >= 16 && x.source == standby:
				continue // it decodes
			}
			var stdin []byte
			if args[0] == "pgapply" {
				stdin = stream
			}
			status, out, errs := e.Run(stdin, args[0], args[1:]...)
			errs += string(out) // the findings of check
			if status != want || want != 0 && !strings.Contains(errs, x.says) {
				t.Errorf("%s, %s: status %d\n%s", x.name, args, status, errs)
			}
		}
	}
	if n := source.Query("SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication)"); n != "0" {
		t.Error("something was made")
	}
}

// What is tried again before the fence, and in the downtime, does not queue for a lock for ever: it
// is said who holds it, and the step is given up in time.
func TestRetryBehindLock_F12(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	reader := "reader_" + source.Name
	source.Exec("CREATE ROLE "+reader, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE POLICY p ON t TO "+reader+" USING (id > 0)")
	t.Cleanup(func() { source.Exec("DROP TABLE t", "DROP ROLE "+reader) })
	e := pgtest.NewEnv(t, source, target)
	slot := source.Name
	e.Bash("pgextract --slot " + slot + " | pgapply || true; pgdecode --slot " + slot + " --until now | pgapply")
	target.Exec("CREATE ROLE " + reader)
	t.Cleanup(func() { target.Exec("DROP TABLE t", "DROP ROLE "+reader) })
	ctx, holder := pgtest.Context(t), target.Connect()
	if _, err := holder.Exec(ctx, "BEGIN; SELECT FROM t"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	status, _, errs := e.Run(nil, "pgcutover", "fence", "--slot", slot, "--timeout", "3s")
	if status != 75 || time.Since(began) > 20*time.Second || !strings.Contains(errs, fmt.Sprintf("process %d", holder.PgConn().PID())) {
		t.Errorf("fence: status %d after %v, %s", status, time.Since(began), errs)
	}
	source.Exec("INSERT INTO t VALUES (1)") // it is open
	if _, err := holder.Exec(ctx, "COMMIT"); err != nil {
		t.Fatal(err)
	}
	e.Must(nil, "pgcutover", "fence", "--slot", slot, "--timeout", "30s")
	if target.Query("SELECT count(*) FROM pg_policy") != "1" {
		t.Error("the policy is missing")
	}
	e.Must(nil, "pgcutover", "unfence", "--slot", slot)
}
