package main_test

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// hold starts a process that holds a snapshot, and returns it and what it has printed.
func hold(t *testing.T, e *pgtest.Env, args ...string) (p *pgtest.Process, snapshot string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p = e.Start(nil, w, "pgextract", append(args, "--hold")...)
	_ = w.Close()
	t.Cleanup(func() { _ = r.Close() })
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if s, ok := strings.CutPrefix(lines.Text(), "snapshot\t"); ok {
			return p, s
		}
	}
	t.Fatalf("no snapshot was printed: %s", p.Errors())
	return nil, ""
}

// Several processes load disjoint parts of one snapshot, while the source goes on and one of them
// is killed.
func TestParts(t *testing.T) {
	pgtest.Slow(t)
	pgtest.Raced(t)
	source, target := pgtest.Pair(t)
	manyTables(source, 10)
	e := pgtest.NewEnv(t, source, target)
	slot := source.Name
	holder, snapshot := hold(t, e, "--slot", slot)
	// From here on the source is another; the tables grow beyond what the plan was made for.
	source.Exec("CREATE TABLE reference AS SELECT * FROM big",
		"INSERT INTO big SELECT i, repeat('y', 450) FROM generate_series(30001, 60000) i", "DELETE FROM t3",
		"CREATE TABLE too_late (a int)")
	const n = 3
	part := func(i int) []string {
		return []string{"--slot", slot, "--snapshot", snapshot, "--part", fmt.Sprintf("%d/%d", i, n), "--resume"}
	}
	// The one that has the large parts is killed when it is in the middle of them.
	x, a := startSlowly(e, 4<<20, nil, part(1))
	pgtest.Wait(t, timeout, "it copies", func() bool {
		s, err := target.Try("SELECT count(*) FROM pgsluice.tables WHERE status = 'loading'")
		return err == nil && s != "0"
	})
	x.Kill()
	a.Kill()
	x2, a2 := startPipe(e, nil, part(2))
	x3, a3 := startPipe(e, nil, part(3))
	for _, p := range []*pgtest.Process{x2, a2, x3, a3} {
		if s := p.Wait(timeout); s != 0 {
			t.Fatalf("exit status %d\n%s", s, p.Errors())
		}
	}
	if s := target.Query("SELECT load_status FROM pgsluice.streams"); s != "loading" {
		t.Errorf("with a part missing, the load is %s", s)
	}
	if said := load(t, e, part(1)...); strings.Contains(said, "other parts of this load are not complete") {
		t.Error(said)
	}
	if s := target.Query("SELECT load_status FROM pgsluice.streams"); s != "loaded" {
		t.Errorf("the load is %s", s)
	}
	if s := target.Query("SELECT count(DISTINCT part), max(of) FROM pgsluice.parts WHERE table_name = 'big'"); s != "2\t2" {
		t.Errorf("parts of the large table: %s", s)
	}
	pgtest.EqualTable(t, source, target, "t5")
	if a, b := source.Query("SELECT count(*), sum(id) FROM reference"), target.Query("SELECT count(*), sum(id) FROM big"); a != b {
		t.Errorf("the table as of the snapshot: %s, on the target: %s", a, b)
	}
	_ = holder.Process.Signal(syscall.SIGTERM)
	if s := holder.Wait(timeout); s != 0 {
		t.Errorf("the holder: exit status %d\n%s", s, holder.Errors())
	}
	// Without it there is no snapshot.
	if s, _, said := e.Run(nil, "pgextract", part(1)...); s != 69 || !strings.Contains(said, "does not exist") {
		t.Errorf("exit status %d\n%s", s, said)
	}
	// Sync begins where the snapshot was.
	source.Exec("DROP TABLE reference, too_late")
	e.Bash(`pgdecode --slot "$1" --until now | pgapply >/dev/null`, slot)
	whole(t, source, target)
}

// The same part comes from two processes at the same time. The one that was there first ends well;
// the other one says why it does not.
func TestLoadedTwice(t *testing.T) {
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE big (id bigint PRIMARY KEY, v text)",
		"INSERT INTO big SELECT i, repeat('x', 100) FROM generate_series(1, 40000) i")
	e := pgtest.NewEnv(t, source, target)
	holder, snapshot := hold(t, e, "--slot", source.Name)
	stream := e.Must(nil, "pgextract", "--slot", source.Name, "--snapshot", snapshot)
	begin := func() (*pgtest.Process, *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		p := e.Start(r, nil, "pgapply")
		_ = r.Close()
		return p, w
	}
	feed := func(w *os.File, data []byte) {
		if _, err := w.Write(data); err != nil {
			t.Error(err)
		}
	}
	first, in := begin()
	half := len(stream) / 2
	feed(in, stream[:half])
	pgtest.Wait(t, timeout, "the first one has the table", func() bool {
		return target.Query("SELECT count(*) FROM pg_locks WHERE relation = to_regclass('public.big') AND mode = 'AccessExclusiveLock' AND granted") == "1"
	})
	second, in2 := begin()
	go func() {
		feed(in2, stream)
		_ = in2.Close()
	}()
	pgtest.Wait(t, timeout, "the second one waits for it", func() bool {
		return target.Query("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") == "1"
	})
	feed(in, stream[half:])
	_ = in.Close()
	if s := first.Wait(timeout); s != 0 {
		t.Errorf("the first one: exit status %d\n%s", s, first.Errors())
	}
	if s := second.Wait(timeout); s != 75 || !strings.Contains(second.Errors(), "another process is loading or has loaded") {
		t.Errorf("the second one: exit status %d\n%s", s, second.Errors())
	}
	holder.Kill()
	whole(t, source, target)
}

func TestLoadParallel(t *testing.T) {
	pgtest.Slow(t)
	pgtest.Raced(t)
	source, target := pgtest.Pair(t)
	manyTables(source, 10)
	e := pgtest.NewEnv(t, source, target)
	e.Bash(`scripts/load-parallel "$1" 3`, source.Name)
	whole(t, source, target)
	// Again, there is nothing to do.
	e.Bash(`scripts/load-parallel "$1" 2`, source.Name)
	whole(t, source, target)
}

// A password of a URI is in no process's arguments on the way to another host.
func TestLoadParallelKeepsPasswords(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE t AS SELECT g FROM generate_series(1, 100) g")
	e := pgtest.NewEnv(t, source, target)
	const secret = "s3cretS3cret"
	e.Source, e.Target = source.As("postgres", secret), target.As("postgres", secret)
	dir := t.TempDir()
	ssh := "#!/bin/bash\ntr '\\0' '\\n' </proc/$$/cmdline >>'" + dir + "/argv'\nwhile [[ $1 == -* ]]; do shift; done; shift\n[[ $1 != -- ]] || shift\nexec bash -c \"$*\"\n"
	if err := os.WriteFile(dir+"/ssh", []byte(ssh), 0o755); err != nil {
		t.Fatal(err)
	}
	e.Bash(`PATH=$2:$PATH; scripts/load-parallel "$1" 2 --sshlogin other`, source.Name, dir)
	argv, err := os.ReadFile(dir + "/argv")
	if err != nil || len(argv) == 0 {
		t.Fatalf("ssh was not run: %v", err)
	}
	for _, form := range []string{secret, fmt.Sprintf("%x", secret), base64.StdEncoding.EncodeToString([]byte(secret))} {
		if strings.Contains(strings.ToLower(string(argv)), strings.ToLower(form)) {
			t.Errorf("the arguments of ssh have the password, as %s", form)
		}
	}
	pgtest.Equal(t, source, target)
}

// What the target refuses for good is said, and not tried again.
func TestLoadParallelRefused(t *testing.T) {
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE good AS SELECT i FROM generate_series(1, 1000) i",
		"CREATE FUNCTION picky(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN n / (current_database() = '"+
			source.Name+"')::int; END$$",
		"CREATE TABLE bad AS SELECT i FROM generate_series(1, 1000) i", "CREATE INDEX refused ON bad (picky(i))")
	e := pgtest.NewEnv(t, source, target)
	errors := t.TempDir() + "/errors"
	out := e.Bash(`scripts/load-parallel "$1" 2 2> "$2" || echo "status $?"`, source.Name, errors)
	said, err := os.ReadFile(errors)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(said), "ERROR: division by zero"); !strings.Contains(out, "status 1") ||
		n < 1 || n > 2 || !strings.Contains(string(said), "could not be created on the target") {
		t.Errorf("%s, and %d refusals:\n%s", out, n, said)
	}
	pgtest.Equal(t, source, target)
}

// Servers before 14 have no scans of ranges of pages; their tables are cut by ranges of the primary
// key.
func TestKeyRanges(t *testing.T) {
	pgtest.Slow(t)
	old := pgtest.Start(t, 13)
	source, target := old.Database(t, ""), pgtest.Target(t).Database(t, "")
	splitTable(source, "big")
	source.Exec("UPDATE big SET id = id - 13000",
		"INSERT INTO big VALUES (-9223372036854775808, 'least'), (9223372036854775807, 'greatest')",
		"CREATE TABLE no_key AS SELECT * FROM big LIMIT 10")
	e := pgtest.NewEnv(t, source, target)
	load(t, e)
	pgtest.Equal(t, source, target)
	if s := target.Query("SELECT max(of) FROM pgsluice.parts"); s == "1" {
		t.Error("the table was not cut")
	}
}
