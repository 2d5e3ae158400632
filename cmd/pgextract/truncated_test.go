package main_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// To a snapshot that is older than its truncation a table looks empty: that must not pass for what
// was in it.
func TestTruncatedMeanwhile(t *testing.T) {
	source := pgtest.Source(t).Database(t, "")
	source.Exec("CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE b (id int PRIMARY KEY)",
		"INSERT INTO a VALUES (1)", "INSERT INTO b VALUES (1)")
	for _, change := range []string{"TRUNCATE b", "VACUUM FULL b", "ALTER TABLE b ALTER id TYPE bigint", "DROP TABLE b"} {
		env := &pgtest.Env{T: t, Dir: pgtest.Programs(t, false), Source: source.URI}
		r, w := io.Pipe()
		hold := env.Start(nil, w, "pgextract", "--hold", "--slot", source.Name)
		token := ""
		for lines := bufio.NewScanner(r); token == "" && lines.Scan(); {
			if after, ok := strings.CutPrefix(lines.Text(), "snapshot\t"); ok {
				token = after
			}
		}
		args := []string{"--data-only", "--slot", source.Name, "--snapshot", token}
		env.Must(nil, "pgextract", args...)
		source.Exec(change)
		if status, _, errs := env.Run(nil, "pgextract", args...); status != 75 ||
			!strings.Contains(errs, "cannot read public.b as of the snapshot: truncated, rewritten, altered, renamed or dropped") {
			t.Errorf("%s: status %d: %s", change, status, errs)
		}
		hold.Kill()
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Tables that are changed before their turn comes are read with another snapshot, by the same
// process.
func TestChangedMeanwhile(t *testing.T) {
	source, target := pgtest.Pair(t)
	for _, name := range []string{"truncated", "dropped", "renamed", "rewritten", "swapped1", "swapped2"} {
		source.Exec("CREATE TABLE "+name+" (id int, v text)", "ALTER TABLE "+name+" REPLICA IDENTITY FULL",
			"INSERT INTO "+name+" SELECT i, '"+name+"' FROM generate_series(1, 100) i")
	}
	source.Exec("CREATE TABLE big (id int PRIMARY KEY, v text)",
		"INSERT INTO big SELECT i, repeat('x', 1000) FROM generate_series(1, 40000) i", "CREATE SEQUENCE s")
	e := pgtest.NewEnv(t, source, target)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	x := e.Start(nil, w, "pgextract", "--slot", source.Name, "--jobs", "1")
	_ = w.Close()
	// Nobody reads: it stands in the middle of the largest table, which comes first.
	pgtest.Wait(t, timeout, "the first table is read", func() bool {
		return source.Query("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgextract' AND query LIKE 'COPY \"public\".\"big\"%' AND wait_event = 'ClientWrite' AND datname = '"+
			source.Name+"'") == "1"
	})
	source.Exec("TRUNCATE truncated", "INSERT INTO truncated VALUES (7, 'new')", "DROP TABLE dropped",
		"ALTER TABLE renamed RENAME TO other", "VACUUM FULL rewritten",
		"BEGIN; ALTER TABLE swapped1 RENAME TO x; ALTER TABLE swapped2 RENAME TO swapped1; ALTER TABLE x RENAME TO swapped2; COMMIT",
		"SELECT nextval('s')", "CREATE TABLE made (id serial PRIMARY KEY)")
	a := e.Start(r, nil, "pgapply")
	_ = r.Close()
	if xs, as := x.Wait(timeout), a.Wait(timeout); xs != 0 || as != 0 {
		t.Fatalf("exit statuses %d and %d\n%s%s", xs, as, x.Errors(), a.Errors())
	}
	if !strings.Contains(x.Errors(),
		"cannot read public.dropped, public.renamed, public.rewritten, public.swapped1, public.swapped2, public.truncated as of the snapshot") {
		t.Errorf("pgextract said: %s", x.Errors())
	}
	for _, name := range []string{"dropped", "renamed"} {
		if !strings.Contains(a.Errors(), "table public."+name+" of an earlier run is no longer on the source") {
			t.Errorf("nothing is said of %s: %s", name, a.Errors())
		}
		target.Exec("DROP TABLE " + name)
	}
	if n := target.Query("SELECT load_status FROM pgsluice.streams"); n != "loaded" {
		t.Errorf("the load is %s", n)
	}
	source.Exec("INSERT INTO truncated VALUES (8, 'sync')", "DELETE FROM swapped1 WHERE id > 50",
		"UPDATE other SET v = 'sync'", "UPDATE big SET v = 'sync' WHERE id < 10")
	e.Bash(`pgdecode --slot "$1" --until now | pgapply >/dev/null`, source.Name)
	pgtest.Equal(t, source, target)
}

// A table that is truncated all the time is loaded nonetheless.
func TestTruncatedAllTheTime(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE big (id int PRIMARY KEY, v text)",
		"INSERT INTO big SELECT i, repeat('x', 1000) FROM generate_series(1, 10000) i")
	e := pgtest.NewEnv(t, source, target)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := source.Try(fmt.Sprintf("BEGIN; TRUNCATE t; INSERT INTO t VALUES (%d); COMMIT; SELECT pg_sleep(1)",
				i)); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	load(t, e, "--slot", source.Name)
	stop()
	<-ended
	e.Bash(`pgdecode --slot "$1" --until now | pgapply >/dev/null`, source.Name)
	pgtest.Equal(t, source, target)
}

// Columns that are renamed before their table is read are still those of the snapshot, whatever has
// their names now. A column that is gone, or of another type, needs another snapshot.
func TestColumnsMeanwhile(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	source.Exec("CREATE DOMAIN positive AS int CHECK (VALUE > 0)", "CREATE DOMAIN small AS positive",
		`CREATE TABLE taken (id int PRIMARY KEY, b text, d small, "C 2" int GENERATED ALWAYS AS IDENTITY)`,
		"INSERT INTO taken (id, b, d) SELECT i, 'b' || i, i FROM generate_series(1, 5) i",
		"CREATE TABLE swapped (id int PRIMARY KEY, x int, y int)", "INSERT INTO swapped SELECT i, 1, 2 FROM generate_series(1, 5) i",
		"CREATE TABLE again (id int PRIMARY KEY, b int)", "CREATE TABLE retyped (id int PRIMARY KEY, b regclass)")
	e := pgtest.NewEnv(t, source, target)
	reader := "reader_" + source.Name
	source.Exec("CREATE ROLE "+reader+" LOGIN", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO "+reader, "GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO "+reader)
	e.Source = source.As(reader, "")
	_, snapshot := hold(t, e)
	args := []string{"--snapshot", snapshot}
	source.Exec(`BEGIN; ALTER TABLE taken RENAME b TO old; ALTER TABLE taken RENAME "C 2" TO "c ""2"; ALTER TABLE taken ADD b int DEFAULT 7; COMMIT`,
		"BEGIN; ALTER TABLE swapped RENAME x TO z; ALTER TABLE swapped RENAME y TO x; ALTER TABLE swapped RENAME z TO y; ALTER TABLE swapped ADD z int; COMMIT",
		"ALTER TABLE again DROP b", "ALTER TABLE again ADD b int", "ALTER TABLE retyped ALTER b TYPE oid")
	load(t, e, append(args, "--exclude-table", "again", "--exclude-table", "retyped")...)
	for query, want := range map[string]string{
		`SELECT DISTINCT b = 'b' || id, d = id, "C 2" = id FROM taken`: "t\tt\tt",
		"SELECT DISTINCT x, y FROM swapped":                            "1\t2",
	} {
		if got := target.Query(query); got != want {
			t.Errorf("as of the snapshot: %s\nfor %s", got, query)
		}
	}
	if status, _, errs := e.Run(nil, "pgextract", append(args, "--table", "again", "--table", "retyped")...); status != 75 ||
		!strings.Contains(errs, "cannot read public.again, public.retyped as of the snapshot") {
		t.Errorf("exit status %d\n%s", status, errs)
	}
}
