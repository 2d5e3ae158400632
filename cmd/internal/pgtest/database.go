package pgtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A DB is a database of a Server, made for one test.
type DB struct {
	*Server
	Name string
	URI  string

	t testing.TB
}

var databases atomic.Int32

// Database makes a database that is dropped, with its slots, when the test has ended. Options follow CREATE DATABASE name.
func (s *Server) Database(t testing.TB, options string) *DB {
	t.Helper()
	d := &DB{Server: s, Name: fmt.Sprintf("t%d", databases.Add(1)), t: t}
	d.URI = s.URI(d.Name)
	admin := &DB{Server: s, Name: "postgres", URI: s.URI("postgres"), t: t}
	admin.Exec("CREATE DATABASE " + d.Name + " " + options)
	t.Cleanup(func() {
		select {
		case <-s.done:
			return // a server of the test's own is gone already
		default:
		}
		admin.Exec(`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = '` + d.Name + `' AND active_pid IS NOT NULL`)
		Wait(t, 10*time.Second, "slots released", func() bool {
			return admin.Query(`SELECT count(*) FROM pg_replication_slots WHERE active AND database = '`+d.Name+`'`) == "0"
		})
		admin.Exec(`SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '` + d.Name + `'`)
		Wait(t, 10*time.Second, "database dropped", func() bool {
			_, _ = admin.Try(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '` + d.Name + `'`)
			_, err := admin.Try("DROP DATABASE " + d.Name)
			return err == nil
		})
	})
	return d
}

// Pair makes an empty database on the shared source and one on the shared target.
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

// Connect opens a session that is closed when the test has ended.
func (d *DB) Connect() *pgx.Conn {
	d.t.Helper()
	c, err := pgx.Connect(context.Background(), d.URI)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

// queryTimeout bounds a single Exec or Query.
const queryTimeout = 2 * time.Minute

// Try runs SQL, which may be several statements, in a session of its own and returns the last one's rows: columns with tabs between, rows with newlines.
func (d *DB) Try(sql string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	c, err := pgconn.Connect(ctx, d.URI)
	if err != nil {
		return "", err
	}
	defer c.Close(ctx)
	results, err := c.Exec(ctx, sql).ReadAll()
	if err != nil {
		var pg *pgconn.PgError
		if errors.As(err, &pg) {
			return "", fmt.Errorf("%w\nin: %.500s", err, sql)
		}
		return "", err
	}
	var b strings.Builder
	if len(results) == 0 {
		return "", nil
	}
	for i, row := range results[len(results)-1].Rows {
		if i > 0 {
			b.WriteByte('\n')
		}
		for n, v := range row {
			if n > 0 {
				b.WriteByte('\t')
			}
			if v == nil {
				b.WriteString("NULL")
			} else {
				b.Write(v)
			}
		}
	}
	return b.String(), nil
}

// Exec runs statements.
func (d *DB) Exec(sql ...string) {
	d.t.Helper()
	for _, s := range sql {
		d.Query(s)
	}
}

// Query runs SQL and returns the last statement's rows as Try does.
func (d *DB) Query(sql string) string {
	d.t.Helper()
	s, err := d.Try(sql)
	if err != nil {
		d.t.Fatal(err)
	}
	return s
}

// Wait waits until cond is true, and fails the test if that takes too long.
func Wait(t testing.TB, timeout time.Duration, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(timeout); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", timeout, what)
		}
	}
}

// listTables lists tables with a character between them that no name has: a newline may be in one.
const listTables = `SELECT coalesce(string_agg(format('%I.%I', n.nspname, c.relname), E'\x1f' ORDER BY n.nspname, c.relname), '') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relkind IN ('r', 'm') AND c.relispopulated AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgsluice')`

// Equal fails the test unless both databases have the same tables with the same rows, compared by their text, and says which rows are not.
func Equal(t testing.TB, source, target *DB) {
	t.Helper()
	tables := source.Query(listTables)
	if other := target.Query(listTables); other != tables {
		t.Errorf("tables differ:\nsource: %s\ntarget: %s", oneLine(tables), oneLine(other))
		return
	}
	if tables == "" {
		t.Error("there are no tables to compare")
	}
	for _, table := range strings.Split(tables, "\x1f") {
		EqualTable(t, source, target, table)
	}
}

// EqualTable compares one table, whose name is quoted where needed.
func EqualTable(t testing.TB, source, target *DB, table string) {
	t.Helper()
	// The order of columns may differ; a row's hash is made of its values in the order of their names.
	columns := source.Query(`SELECT coalesce(string_agg(format('%I', attname), ', ' ORDER BY attname::text COLLATE "C"), 'NULL') FROM pg_attribute WHERE attrelid = '` +
		strings.ReplaceAll(table, "'", "''") + `'::regclass AND attnum > 0 AND NOT attisdropped`)
	digits := Digits(source.Major, target.Major)
	sum := func(d *DB) string {
		return d.Query(fmt.Sprintf(`SET extra_float_digits = %d; SELECT count(*), coalesce(sum(hashtextextended(ROW(%s)::text, 0)::numeric), 0) FROM ONLY %s x`, digits, columns, table))
	}
	if source.Major < 11 || target.Major < 11 {
		sum = func(d *DB) string {
			return d.Query(fmt.Sprintf(`SET extra_float_digits = %d; SELECT count(*), coalesce(sum(('x' || left(md5(ROW(%s)::text), 15))::bit(60)::bigint::numeric), 0) FROM ONLY %s x`, digits, columns, table))
		}
	}
	a, b := sum(source), sum(target)
	if a == b {
		return
	}
	rows := func(d *DB) map[string]int {
		m := make(map[string]int)
		for _, r := range strings.Split(d.Query(fmt.Sprintf(`SET extra_float_digits = %d; SELECT left(ROW(%s)::text, 300) || md5(ROW(%s)::text) FROM ONLY %s x`, digits, columns, columns, table)), "\n") {
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

// Digits returns the extra_float_digits with which servers of both versions print floating-point numbers alike: all of them, or, between versions before 12
// and newer ones, rounded to 15.
func Digits(a, b int) int {
	if (a < 12) != (b < 12) {
		return 0
	}
	return 3
}

func oneLine(s string) string { return strings.NewReplacer("\n", ", ", "\t", " ").Replace(s) }
