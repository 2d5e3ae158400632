package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A load comes to its end unattended although all connections are cut again and again, and both
// servers are restarted. It reads little more than once, and leaves no dead rows behind.
func TestBadNight(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	badNight(t, 32, 2*time.Second, 3)
}

// The same for minutes, with as many cuts as there are until it is loaded.
func TestLongBadNight(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	badNight(t, 400, 20*time.Second, 1000)
}

func badNight(t *testing.T, tables int, every time.Duration, cuts int) {
	const rows, rate, role = 2000, 1 << 20, "night"
	sourceServer, targetServer := pgtest.Start(t, pgtest.Source(t).Major), pgtest.Start(t, pgtest.Target(t).Major)
	source, target, quiet := sourceServer.Database(t, ""), targetServer.Database(t, ""), targetServer.Database(t, "")
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("CREATE ROLE app_owner", "ALTER DATABASE "+d.Name+" OWNER TO app_owner", "GRANT ALL ON SCHEMA public TO app_owner")
	}
	source.Exec(fmt.Sprintf(`SET ROLE app_owner; DO $$ BEGIN FOR t IN 1..%d LOOP
		EXECUTE format('CREATE TABLE t%%s (id int PRIMARY KEY, v text)', t);
		EXECUTE format('INSERT INTO t%%s SELECT g, repeat(''x'', 80) FROM generate_series(1, %d) g', t); END LOOP; END $$`, tables, rows))
	read := func() int {
		n, err := strconv.Atoi(source.Query("SELECT sum(seq_tup_read) FROM pg_stat_user_tables"))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	pgtest.NewEnv(t, source, quiet).Bash("pgextract | pgapply")
	pgtest.Wait(t, soon, "the rows are counted", func() bool { return read() >= tables*rows })
	before := read()

	e := pgtest.NewEnv(t, source, target)
	e.LeastPrivilege(source, target, role)
	from, to := newRelay(t, source), newRelay(t, target)
	from.rate.Store(rate)
	e.Source, e.Target = strings.Replace(from.URI, "postgres@", role+"@", 1), strings.Replace(to.URI, "postgres@", role+"@", 1)
	began := time.Now()
	load := e.Start(nil, nil, "bash", script("load"), "mig", "--jobs", "2", "--", "--jobs", "2")
	// On a busy machine a load may need longer than that to begin: a cut waits for one more table.
	loaded := func() int {
		n, _ := target.Try("SELECT count(*) FROM pgsluice.tables WHERE status = 'loaded'")
		count, _ := strconv.Atoi(n) // 0 if there is no such table yet
		return count
	}
	cut := 0
	for last, at := 0, time.Now(); cut < cuts; cut++ {
		pgtest.Wait(t, 5*time.Minute, "one more table is loaded, or all", func() bool {
			return !load.Running() || time.Since(at) > every && loaded() > last
		})
		if !load.Running() {
			break
		}
		switch cut {
		case 1:
			sourceServer.Stop()
			sourceServer.Restart(t)
		case 2:
			targetServer.Stop()
			targetServer.Restart(t)
		default:
			from.cut()
			to.cut()
		}
		last, at = loaded(), time.Now()
	}
	if status := load.Wait(5 * time.Minute); status != 0 {
		t.Fatalf("status %d:\n%s", status, load.Errors())
	}
	if got := strings.Count(load.Errors(), "load: not complete; starting again in 1 s\n"); got < 3 {
		t.Errorf("it was started again %d times:\n%s", got, load.Errors())
	}
	pgtest.Wait(t, soon, "all sessions have ended", func() bool {
		return source.Query("SELECT count(*) FROM pg_stat_activity WHERE usename = '"+role+"'") == "0"
	})
	const size = "SELECT pg_database_size(current_database()) - pg_database_size('template1')"
	times := float64(read()-before) / float64(tables*rows)
	bloat := target.Query("SELECT round((" + size + ")::numeric / " + quiet.Query(size) + ", 2)")
	t.Logf("%d cuts in %v: the rows were read %.2f times, the target is %s times as large", cut, time.Since(began).Round(time.Second), times, bloat)
	if times > 1.3 || bloat > "1.10" {
		t.Errorf("the rows were read %.2f times, and the target is %s times as large:\n%s", times, bloat, load.Errors())
	}
	pgtest.Equal(t, source, target)
	if got := target.Query("SELECT load_status FROM pgsluice.streams"); got != "loaded" {
		t.Errorf("the load is %s", got)
	}
}

// What load does follows from the exit statuses of its programs, which are replaced here: each
// attempt takes the next pair of statuses.
func TestLoadScript(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, extract, apply string // exit statuses, in order
		want                 int
		attempts, says       string
	}{
		{"at once", "0", "0", 0, "1", ""},
		{"lost, then complete", "75 0", "65 0", 0, "2", "starting again in 1 s"},
		{"killed, then complete", "75 0", "137 0", 0, "2", "starting again in 1 s"},
		{"another stream was to follow", "75 0", "0 0", 0, "2", "starting again in 1 s"},
		{"a right is missing", "77", "65", 77, "1", "ended with status 77"},
		{"a table is refused", "0", "1", 1, "1", "ended with status 1"},
		{"refused by the target", "75", "78", 78, "1", "ended with status 78"},
		{"a damaged stream", "0", "65", 65, "1", "ended with status 65"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for name, statuses := range map[string]string{"pgextract": c.extract, "pgapply": c.apply, "pgcutover": "78 78 78 78"} {
				text := "#!/bin/bash\necho \"$*\" >>" + dir + "/" + name + ".args\nset -- " + statuses +
					"\nn=$(wc -l <" + dir + "/" + name + ".args)\nexit ${!n}\n"
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			e := &pgtest.Env{T: t, Dir: dir}
			status, _, errs := e.Run(nil, "bash", script("load"), "mig", "--jobs", "3", "--", "--jobs", "2")
			if n := strings.TrimSpace(e.Bash("wc -l <" + dir + "/pgapply.args")); status != c.want || n != c.attempts || !strings.Contains(errs, c.says) {
				t.Errorf("status %d, %s attempts: %s", status, n, errs)
			}
			if args := e.Bash("head -qn 1 " + dir + "/pgextract.args " + dir + "/pgapply.args"); args != "--slot mig --resume --jobs 3\n--jobs 2\n" {
				t.Errorf("arguments: %s", args)
			}
		})
	}
	e := &pgtest.Env{T: t, Dir: t.TempDir()}
	if status, _, errs := e.Run(nil, "bash", script("load")); status != 64 || !strings.Contains(errs, "usage:") {
		t.Errorf("no slot: status %d: %s", status, errs)
	}
}

// Told to stop while it runs, or while it waits for a server, load stops, and leaves nothing
// running.
func TestLoadStops(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t SELECT generate_series(1, 200000)")
	e := pgtest.NewEnv(t, source, target)
	from := newRelay(t, source)
	from.rate.Store(200 << 10)
	e.Source = from.URI
	for _, waits := range []bool{false, true} {
		load := e.Start(nil, nil, "bash", script("load"), source.Name)
		pgtest.Wait(t, soon, "the load has begun", func() bool {
			n, err := target.Try("SELECT count(*) FROM pgsluice.tables WHERE status = 'loading'")
			return err == nil && n == "1"
		})
		if waits {
			from.refuses.Store(true)
			from.cut()
			pgtest.Wait(t, soon, "it waits", func() bool { return strings.Contains(load.Errors(), "the source does not answer; waiting for it") })
		}
		if err := syscall.Kill(load.Process.Pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if status := load.Wait(soon); status != 143 || !strings.Contains(load.Errors(), "To continue: "+script("load")+" "+source.Name) {
			t.Errorf("status %d: %s", status, load.Errors())
		}
		if left := running("PGSLUICE_SOURCE=" + e.Source); left != "" {
			t.Errorf("left running:\n%s", left)
		}
	}
}
