package e2e

import (
	"bytes"
	"fmt"
	"image"
	"image/jpeg"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

const secret = "s3cret"

// refused checks what a program says about what it cannot do: the exit status, the message that
// names the thing, a hint, and no password.
func refused(t *testing.T, status, want int, errs string, says ...string) {
	t.Helper()
	if status != want {
		t.Errorf("exit status %d, not %d", status, want)
	}
	for _, s := range append(says, ": hint: ") {
		if !strings.Contains(errs, s) {
			t.Errorf("does not say %q", s)
		}
	}
	if strings.Contains(errs, secret) {
		t.Error("a password is printed")
	}
	if t.Failed() {
		t.Logf("standard error:\n%s", errs)
	}
}

// state returns everything on source and target that a refused command must leave as it is.
func state(source, target *pgtest.DB) string {
	s := source.Query("SELECT slot_name, confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database() ORDER BY 1") + "\n" +
		source.Query("SELECT pubname FROM pg_publication ORDER BY 1") + "\n" +
		target.Query("SELECT n.nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace ORDER BY 1, 2")
	if target.Query("SELECT to_regclass('pgsluice.streams') IS NOT NULL") == "t" {
		s += traces(target)
	}
	return s
}

// Each error names its cause and its remedy. Nothing is lost, and nothing is left behind.
func TestRefused(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	env := pgtest.NewEnv(t, source, target)
	source.Exec("CREATE TABLE shown (id int PRIMARY KEY)", "CREATE TABLE hidden (id int PRIMARY KEY, v text)",
		"INSERT INTO hidden VALUES (1, 'one')")
	role := func(d *pgtest.DB, name, options string) string {
		name = d.Name + "_" + name
		d.Exec("CREATE ROLE " + name + " LOGIN PASSWORD '" + secret + "' " + options)
		return d.As(name, secret)
	}
	ordinary := role(source, "ordinary", "")
	replicates := role(source, "replicates", "REPLICATION")
	reads := role(source, "reads", "")
	source.Exec("GRANT SELECT ON shown TO "+source.Name+"_ordinary",
		"GRANT SELECT ON shown, hidden TO "+source.Name+"_replicates, "+source.Name+"_reads",
		"GRANT CREATE ON DATABASE "+source.Name+" TO "+source.Name+"_replicates, "+source.Name+"_ordinary")
	stranger := role(target, "stranger", "")
	load := env.Must(nil, "pgextract", "--slot", source.Name)
	env.Must(load, "pgapply")
	other := target.Server.Database(t, "") // where nothing is
	wrong := pgtest.Start(t, 0, "wal_level=replica")
	wrong.AskPasswords(t)
	closed := wrong.Database(t, "")
	closed.Exec("CREATE ROLE app LOGIN PASSWORD 'right'")
	var picture bytes.Buffer
	if err := jpeg.Encode(&picture, image.NewGray(image.Rect(0, 0, 50, 50)), nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		stdin  []byte
		args   []string
		status int
		says   []string
	}{
		{"no such slot", nil, []string{"pgdecode", "--slot", "nosuch"}, 69,
			[]string{`slot "nosuch" does not exist`, "pgextract --slot nosuch"}},
		{"wal_level", nil, []string{"pgextract", "--source", closed.URI, "--slot", "s"}, 78,
			[]string{"wal_level is replica", "Set wal_level = logical and restart"}},
		{"no replication, load", nil, []string{"pgextract", "--source", reads, "--slot", "s"}, 77, []string{"ALTER ROLE … REPLICATION"}},
		{"no replication, sync", nil, []string{"pgdecode", "--source", ordinary, "--slot", source.Name}, 77,
			[]string{"ALTER ROLE … REPLICATION"}},
		{"not the owner", nil, []string{"pgextract", "--source", replicates, "--slot", "s"}, 77,
			[]string{"must be owner of", " hidden ", "The role must own the tables"}},
		{"no SELECT, schema", nil, []string{"pgextract", "--source", ordinary}, 77,
			[]string{"may not read", "public.hidden", `GRANT SELECT ON TABLE "public"."hidden" TO`}},
		{"no SELECT, rows", nil, []string{"pgextract", "--source", ordinary, "--data-only"}, 77,
			[]string{"may not read", "public.hidden", `GRANT SELECT ON TABLE "public"."hidden" TO`}},
		{"no CREATE on the target", load, []string{"pgapply", "--target",
			other.As(target.Name+"_stranger", secret)}, 77,
			[]string{"could not create schema pgsluice", "GRANT CREATE ON DATABASE"}},
		{"a stranger on the target", load, []string{"pgapply", "--target", stranger}, 77,
			[]string{"permission denied for schema pgsluice", "Connect as the role"}},
		{"wrong password", load, []string{"pgapply", "--target", closed.As("app", secret)}, 77,
			[]string{`could not connect to the target: FATAL: password authentication failed for user "app"`,
				"PGPASSFILE"}},
		{"wrong password, source", nil, []string{"pgextract", "--source", closed.As("app", secret)}, 77,
			[]string{`could not connect to the source: FATAL: password authentication failed for user "app"`}},
		{"no such database", load, []string{"pgapply", "--target",
			strings.Replace(target.URI, "/"+target.Name+"?", "/nosuch?", 1)}, 69,
			[]string{`database "nosuch" does not exist`, "CREATE DATABASE"}},
		{"no server", load, []string{"pgapply", "--target", "postgres://u:" + secret + "@127.0.0.1:1/x"}, 75,
			[]string{"could not connect to the target", "connection refused", "Check that the server is running"}},
		{"no URI", load, []string{"pgapply", "--target", "postgres://u:" + secret + "@127.0.0.1:port/x"}, 64,
			[]string{"could not use the target's connection string", "postgres://user@host:5432/database"}},
		{"a picture", picture.Bytes(), []string{"pgapply"}, 65, []string{"not a pgsluice stream", "Is the input compressed"}},
		{"empty", nil, []string{"pgapply"}, 65, []string{"the input is empty", "its own message says why"}},
		{"table not there, load", env.Must(nil, "pgextract", "--data-only"),
			[]string{"pgapply", "--target", other.URI}, 78, []string{`table "public.`, "pg_dump -s"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := state(source, target) + state(closed, other)
			status, out, errs := env.Run(c.stdin, c.args[0], c.args[1:]...)
			refused(t, status, c.status, errs, c.says...)
			if len(out) > 0 && c.args[0] != "pgextract" {
				t.Errorf("%d bytes on standard output", len(out))
			}
			if after := state(source, target) + state(closed, other); after != before && c.name != "table not there, load" {
				t.Errorf("something has changed: now\n%s\nand before\n%s", after, before)
			}
		})
	}
}

// Programs refuse to write a stream to a terminal or to read one from it.
func TestTerminal(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	env := pgtest.NewEnv(t, source, target)
	source.Exec("SELECT pg_create_logical_replication_slot('" + source.Name + "', 'pgoutput')")
	before := state(source, target)
	tty := terminal(t)
	for _, args := range [][]string{{"pgextract", "--slot", "new"}, {"pgdecode", "--slot", source.Name}} {
		p := env.Start(nil, tty, args[0], args[1:]...)
		refused(t, p.Wait(soon), 64, p.Errors(), "standard output is a terminal", "Pipe it into pgapply", "--force-terminal")
	}
	p := env.Start(tty, nil, "pgapply")
	refused(t, p.Wait(soon), 64, p.Errors(), "standard input is a terminal", "Pipe the output of pgextract or pgdecode into pgapply")
	if after := state(source, target); after != before {
		t.Errorf("something has changed: now\n%s\nand before\n%s", after, before)
	}
}

// terminal opens a terminal.
func terminal(t *testing.T) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	return slave
}

// One slot, one reader.
func TestSlotInUse(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	env := pgtest.NewEnv(t, source, target)
	source.Exec("CREATE PUBLICATION "+source.Name, "SELECT pg_create_logical_replication_slot('"+source.Name+"', 'pgoutput')")
	first := env.Start(nil, nil, "pgdecode", "--slot", source.Name)
	pgtest.Wait(t, 20*time.Second, "the slot is in use", func() bool {
		return source.Query("SELECT active FROM pg_replication_slots WHERE slot_name = '"+source.Name+"'") == "t"
	})
	before := state(source, target)
	status, out, errs := env.Run(nil, "pgdecode", "--slot", source.Name)
	if source.Major >= 12 {
		refused(t, status, 78, errs, `slot "`+source.Name+`" is being read by another running process`, "The process is pgdecode",
			"Let that one run")
	} else { // where nothing tells whether it is at work
		refused(t, status, 75, errs, `slot "`+source.Name+`" is in use by another session`, "Is another pgdecode running?")
	}
	if len(out) > 0 || state(source, target) != before || !first.Running() {
		t.Errorf("something has changed: %d bytes of output, the first one is running: %v", len(out), first.Running())
	}
}

// A change that the target has no table or column for stops pgapply before that change. Once the
// target has it, the same command continues.
func TestNoPlace(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	env := pgtest.NewEnv(t, source, target)
	source.Exec("CREATE TABLE kept (id int PRIMARY KEY)", `CREATE TABLE "Lost" (id int PRIMARY KEY, "The Value" numeric(5,2))`)
	env.Bash(`pgextract --slot "$1" | pgapply`, source.Name)
	for n, c := range []struct {
		name, take, give string
		says             []string
	}{
		{"table", `ALTER TABLE "Lost" RENAME TO found`, `ALTER TABLE found RENAME TO "Lost"`,
			[]string{`table "public.Lost" does not exist on the target`, `pg_dump -s -t '"public"."Lost"'`}},
		{"column", `ALTER TABLE "Lost" RENAME "The Value" TO v`, `ALTER TABLE "Lost" RENAME v TO "The Value"`,
			[]string{`column "The Value" of table "public.Lost" does not exist on the target`,
				`ALTER TABLE "public"."Lost" RENAME COLUMN "v" TO "The Value"; if it is new: ALTER TABLE "public"."Lost" ADD COLUMN "The Value" numeric, with the DEFAULT`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			target.Exec(c.take)
			source.Exec(fmt.Sprintf("INSERT INTO kept VALUES (%d)", 2*n),
				fmt.Sprintf(`BEGIN; INSERT INTO kept VALUES (%d); INSERT INTO "Lost" VALUES (%d, 1.50); COMMIT`, 2*n+1, n))
			slot := source.Query("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '" + source.Name + "'")
			stream := env.Must(nil, "pgdecode", "--slot", source.Name, "--until", "now")
			for range 2 { // and it stays there
				status, _, errs := env.Run(stream, "pgapply")
				refused(t, status, 78, errs, append(c.says, "commit LSN ")...)
				if got := target.Query("SELECT count(*) FROM kept"); got != fmt.Sprint(2*n+1) {
					t.Errorf("table kept has %s rows on the target, not what was there before the transaction that is stuck", got)
				}
			}
			if now := source.Query("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '" +
				source.Name + "'"); now != slot {
				t.Errorf("the slot has moved from %s to %s", slot, now)
			}
			target.Exec(c.give)
			env.Must(stream, "pgapply")
			pgtest.Equal(t, source, target)
		})
	}
}

// Told to stop, pgapply does not wait for an input that does not come, neither before a stream nor
// in the middle of one.
func TestStopped(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	env := pgtest.NewEnv(t, source, target)
	source.Exec("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t SELECT generate_series(1, 1000)")
	load := env.Must(nil, "pgextract", "--slot", source.Name)
	for _, n := range []int{0, len(load) / 2} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		p := env.Start(r, nil, "pgapply")
		_ = r.Close()
		if _, err := w.Write(load[:n]); err != nil {
			t.Fatal(err)
		}
		pgtest.Wait(t, time.Minute, "it waits", func() bool {
			if n == 0 {
				var caught uint64
				status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
				_, mask, _ := strings.Cut(string(status), "SigCgt:\t")
				_, _ = fmt.Sscanf(mask, "%x", &caught)
				return caught&(1<<(syscall.SIGTERM-1)) != 0
			}
			return target.Query("SELECT to_regclass('public.t') IS NOT NULL") == "t"
		})
		if err := p.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if s := p.Wait(soon); s != 143 {
			t.Errorf("after %d bytes: exit status %d\n%s", n, s, p.Errors())
		}
		_ = w.Close()
	}
	env.Must(load, "pgapply")
	pgtest.Equal(t, source, target)
}

func TestUnreadableInput(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	env := pgtest.NewEnv(t, source, target)
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	p := env.Start(dir, nil, "pgapply")
	refused(t, p.Wait(soon), 1, p.Errors(), "could not read the input", "directory")
}
