package pgtest

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// A DB is a database of a Server, made for one test.
type DB struct {
	*Server
	Name string
	URI  string

	t testing.TB
}

var databases atomic.Int32

// Database creates a database and drops it, with its slots, when the test ends. The options are
// appended to CREATE DATABASE name.
func (s *Server) Database(t testing.TB, options string) *DB {
	t.Helper()
	d := &DB{Server: s, Name: fmt.Sprintf("t%d", databases.Add(1)), t: t}
	d.URI = s.URI(d.Name)
	admin := &DB{Server: s, Name: "postgres", URI: s.URI("postgres"), t: t}
	admin.Exec("CREATE DATABASE " + d.Name + " " + options)
	t.Cleanup(func() {
		select {
		case <-s.done: // the test's own server has already stopped
		default:
			admin.with(func(x *session) { d.drop(x) })
		}
	})
	return d
}

// drop drops the database with its slots, in a session of another database.
func (d *DB) drop(admin *session) {
	here := "database = '" + d.Name + "'"
	admin.query(`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL AND ` + here)
	Wait(d.t, 10*time.Second, "slots released", func() bool {
		return admin.query(`SELECT count(*) FROM pg_replication_slots WHERE active AND `+here) == "0"
	})
	admin.query(`SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE ` + here)
	Wait(d.t, 10*time.Second, "database dropped", func() bool {
		_, _ = admin.try(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '` + d.Name + `'`)
		_, err := admin.try("DROP DATABASE " + d.Name)
		return err == nil
	})
}

// Pair creates an empty database on the shared source and one on the shared target.
func Pair(t testing.TB) (source, target *DB) {
	t.Helper()
	return Source(t).Database(t, ""), Target(t).Database(t, "")
}

// As returns the URI of the database for another user.
func (d *DB) As(user, password string) string {
	if password != "" {
		user += ":" + password
	}
	return strings.Replace(d.URI, "postgres@", user+"@", 1)
}

// Connect opens a session that is closed when the test ends.
func (d *DB) Connect() *pgx.Conn {
	d.t.Helper()
	c, err := pgx.Connect(context.Background(), d.URI)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

// Try runs SQL, which may be several statements, in its own session. It returns the rows of the
// last statement: columns separated by tabs, rows by newlines.
func (d *DB) Try(sql string) (string, error) {
	x, err := d.open()
	if err != nil {
		return "", err
	}
	defer x.close()
	return x.try(sql)
}

// Exec runs statements one after the other. It resets the session between them.
func (d *DB) Exec(sql ...string) {
	d.t.Helper()
	d.with(func(x *session) {
		for i, s := range sql {
			if i > 0 {
				x.query("DISCARD ALL")
			}
			x.query(s)
		}
	})
}

// Query is Try that fails the test on an error.
func (d *DB) Query(sql string) string {
	d.t.Helper()
	s, err := d.Try(sql)
	if err != nil {
		d.t.Fatal(err)
	}
	return s
}

// Wait waits until cond is true, and fails the test if that takes longer than timeout. It polls
// less often as time passes: cond may open a session, which is expensive when many tests do it at
// once.
func Wait(t testing.TB, timeout time.Duration, what string, cond func() bool) {
	t.Helper()
	if !Within(timeout, cond) {
		t.Fatalf("not within %v: %s", timeout, what)
	}
}

// Within is Wait for tests that say by themselves what they have seen instead. Tests run side by
// side: a condition that takes long, as one that runs programs, is asked less often.
func Within(timeout time.Duration, cond func() bool) bool {
	for began := time.Now(); ; {
		asked := time.Now()
		if cond() {
			return true
		}
		waited, took := time.Since(began), time.Since(asked)
		if waited > timeout {
			return false
		}
		time.Sleep(min(max(waited/10, 2*took, 10*time.Millisecond), 300*time.Millisecond))
	}
}

// listTables separates names by a character that no name in a test has. A name may have newlines.
const listTables = `SELECT coalesce(string_agg(format('%I.%I', n.nspname, c.relname), E'\x1f' ORDER BY n.nspname, c.relname), '') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relkind IN ('r', 'm') AND c.relispopulated AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgsluice')`

// Equal fails the test unless both databases have the same tables with the same rows, compared as
// text. It logs some rows that differ.
func Equal(t testing.TB, source, target *DB) {
	t.Helper()
	from, to := source.session(t), target.session(t)
	defer from.close()
	defer to.close()
	tables := from.query(listTables)
	if other := to.query(listTables); other != tables {
		t.Errorf("tables differ:\nsource: %s\ntarget: %s", oneLine(tables), oneLine(other))
		return
	}
	if tables == "" {
		t.Error("there are no tables to compare")
	}
	for _, table := range strings.Split(tables, "\x1f") {
		equalTable(t, from, to, table)
	}
}

// EqualTable compares one table as Equal does. The name is an SQL identifier, quoted if needed.
func EqualTable(t testing.TB, source, target *DB, table string) {
	t.Helper()
	from, to := source.session(t), target.session(t)
	defer from.close()
	defer to.close()
	equalTable(t, from, to, table)
}

func equalTable(t testing.TB, source, target *session, table string) {
	t.Helper()
	// The order of columns may differ, so the hash of a row takes the values in the order of names.
	columns := source.query(`SELECT coalesce(string_agg(format('%I', attname), ', ' ORDER BY attname::text COLLATE "C"), 'NULL') FROM pg_attribute WHERE attrelid = '` +
		strings.ReplaceAll(table, "'", "''") + `'::regclass AND attnum > 0 AND NOT attisdropped`)
	digits := Digits(source.db.Major, target.db.Major)
	sum := func(x *session) string {
		return x.query(fmt.Sprintf(`SET extra_float_digits = %d; SELECT count(*), coalesce(sum(hashtextextended(ROW(%s)::text, 0)::numeric), 0) FROM ONLY %s x`,
			digits, columns, table))
	}
	if source.db.Major < 11 || target.db.Major < 11 {
		sum = func(x *session) string {
			return x.query(fmt.Sprintf(`SET extra_float_digits = %d; SELECT count(*), coalesce(sum(('x' || left(md5(ROW(%s)::text), 15))::bit(60)::bigint::numeric), 0) FROM ONLY %s x`,
				digits, columns, table))
		}
	}
	a, b := sum(source), sum(target)
	if a == b {
		return
	}
	rows := func(x *session) map[string]int {
		m := make(map[string]int)
		for _, r := range strings.Split(x.query(fmt.Sprintf(`SET extra_float_digits = %d; SELECT left(ROW(%s)::text, 300) || md5(ROW(%s)::text) FROM ONLY %s x`,
			digits, columns, columns, table)), "\n") {
			m[r]++
		}
		return m
	}
	t.Errorf("table %s differs: rows and checksum are %s on the source, %s on the target", table, oneLine(a), oneLine(b))
	from, to := rows(source), rows(target)
	shown := 0
	for r, n := range from {
		if to[r] < n && shown < 5 {
			shown++
			t.Logf("%d times on the source, %d on the target: %.200s", n, to[r], r)
		}
	}
	for r, n := range to {
		if from[r] < n && shown < 10 {
			shown++
			t.Logf("%d times on the target, %d on the source: %.200s", n, from[r], r)
		}
	}
}

// Digits returns the extra_float_digits with which servers of both versions print the same text for
// a floating-point number: all digits, or 15 if only one version is older than 12.
func Digits(a, b int) int {
	if (a < 12) != (b < 12) {
		return 0
	}
	return 3
}

func oneLine(s string) string { return strings.NewReplacer("\n", ", ", "\t", " ").Replace(s) }
