package main_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/format"
)

// A scribe writes change streams by hand.
type scribe struct {
	t   testing.TB
	buf bytes.Buffer
	w   *format.Writer
	lsn format.LSN
}

func newScribe(t testing.TB) *scribe {
	s := &scribe{t: t, lsn: 0x1000}
	s.w = format.NewWriter(&s.buf)
	s.write(&format.Header{StreamKind: format.Changes, Producer: "test", SystemID: "1", Timeline: 1,
		Database: "d", ServerVersion: 150000, Encoding: "UTF8", Slot: "s",
		Publications: []string{"s"}, StartLSN: s.lsn})
	return s
}

func (s *scribe) write(records ...format.Record) {
	s.t.Helper()
	for _, r := range records {
		if err := s.w.Write(r); err != nil {
			s.t.Fatal(err)
		}
	}
}

// transaction writes a transaction as a whole.
func (s *scribe) transaction(records ...format.Record) {
	s.t.Helper()
	s.lsn += 0x100
	s.write(&format.Begin{CommitLSN: s.lsn, XID: uint32(s.lsn)})
	s.write(records...)
	s.write(&format.Commit{CommitLSN: s.lsn, EndLSN: s.lsn + 8})
}

// block writes a block of a transaction in progress.
func (s *scribe) block(xid uint32, first bool, records ...format.Record) {
	s.t.Helper()
	s.write(&format.StreamStart{XID: xid, First: first})
	for _, r := range records {
		switch x := r.(type) {
		case *format.Insert:
			x.XID = xid
		case *format.DDL:
			x.XID = xid
		}
		s.write(r)
	}
	s.write(&format.StreamStop{})
}

func (s *scribe) commit(xid uint32) {
	s.t.Helper()
	s.lsn += 0x100
	s.write(&format.StreamCommit{XID: xid, CommitLSN: s.lsn, EndLSN: s.lsn + 8})
}

// flush returns what has been written so far.
func (s *scribe) flush() []byte {
	s.t.Helper()
	if err := s.w.Flush(); err != nil {
		s.t.Fatal(err)
	}
	return bytes.Clone(s.buf.Bytes())
}

func (s *scribe) end() []byte {
	s.t.Helper()
	if _, err := s.w.End(format.Complete, s.lsn+8); err != nil {
		s.t.Fatal(err)
	}
	return s.buf.Bytes()
}

func relation(columns ...string) *format.Relation {
	r := &format.Relation{ID: 1, Schema: "public", Name: "t", ReplicaIdentity: "d"}
	for i, c := range columns {
		r.Columns = append(r.Columns, format.Column{Name: c, OID: 25, Type: "text", Key: i == 0})
	}
	return r
}

func insert(values ...string) *format.Insert {
	r := &format.Insert{Relation: 1}
	for _, v := range values {
		r.New = append(r.New, format.Value{Kind: format.Text, Data: []byte(v)})
	}
	return r
}

func ddl(sql string) *format.DDL {
	return &format.DDL{Section: format.Change, SQL: sql, SearchPath: "public"}
}

// begun returns a target with a table, and a stream of changes that has the table's first row.
func begun(t *testing.T) (*pgtest.DB, *pgtest.Env, *scribe) {
	_, target := pgtest.Pair(t)
	target.Exec("CREATE TABLE t (a text PRIMARY KEY)")
	s := newScribe(t)
	s.write(relation("a"))
	s.transaction(insert("1"))
	return target, pgtest.NewEnv(t, target, target), s
}

// Changes of the schema between changes of rows, within and without a transaction of their own.
func TestDDL(t *testing.T) {
	pgtest.Raced(t)
	target, env, s := begun(t)
	s.transaction(ddl("ALTER TABLE t ADD COLUMN b text DEFAULT 'x;''y'"))
	s.write(relation("a", "b"))
	s.transaction(insert("2", "two"))
	s.transaction(insert("3", "three"), ddl("ALTER TABLE t ADD c text"), relation("a", "b", "c"),
		insert("4", "four", "more"), ddl("ALTER TABLE t DROP COLUMN b"),
		relation("a", "c"), insert("5", "more"))
	s.transaction(insert("6", "more"))
	stream := s.end()
	want := "1\tNULL\n2\tNULL\n3\tNULL\n4\tmore\n5\tmore\n6\tmore"
	// Cut anywhere, a transaction is there as a whole or not at all.
	for i := 0; i < len(stream); i += 101 {
		if status, _, errs := env.Run(stream[:i], "pgapply", "--adopt"); status != 65 {
			t.Fatalf("cut at %d: status %d: %s", i, status, errs)
		}
		if got := target.Query("SELECT count(*) FROM t"); strings.Contains("34", got) {
			t.Fatalf("cut at %d: %s rows", i, got)
		}
	}
	for range 2 {
		env.Must(stream, "pgapply", "--adopt")
		if got := target.Query("SELECT * FROM t ORDER BY a"); got != want {
			t.Fatalf("the target has\n%s", got)
		}
	}
}

// The same in transactions that come in blocks, small and large, beside others.
func TestDDLInProgress(t *testing.T) {
	_, target := pgtest.Pair(t)
	env := pgtest.NewEnv(t, target, target)
	target.Exec("CREATE TABLE t (a text PRIMARY KEY)")
	many := func(first int, more ...string) (l []format.Record) {
		pad := strings.Repeat("x", 1000)
		for i := range 3000 {
			l = append(l, insert(append([]string{fmt.Sprintf("%d %s", first+i, pad)}, more...)...))
		}
		return l
	}
	s := newScribe(t)
	s.write(relation("a"))
	s.transaction(insert("1"))
	s.block(7, true, insert("2"), ddl("ALTER TABLE t ADD b text"), relation("a", "b"), insert("3", "three"))
	s.commit(7)
	s.transaction(insert("4", "four"))
	s.block(8, true, many(10000, "b")...) // large: ahead
	s.transaction(insert("5", "five"))
	s.block(8, false, append([]format.Record{ddl("ALTER TABLE t ADD c text"), relation("a", "b", "c")}, many(20000, "b", "c")...)...)
	s.block(8, false, append([]format.Record{ddl("ALTER TABLE t DROP b"), relation("a", "c"), insert("6", "six")}, many(30000, "c")...)...)
	s.commit(8)
	s.transaction(insert("7", "seven"))
	env.Must(s.end(), "pgapply", "--adopt")
	got := target.Query("SELECT count(*), count(c), max(c) FROM t")
	if got != "9007\t6002\tsix" && got != "9007\t6002\tseven" {
		t.Errorf("the target has %s", got)
	}
}

func TestDDLRefused(t *testing.T) {
	target, env, s := begun(t)
	s.transaction(insert("2"), ddl("ALTER TABLE other ADD b text"))
	s.transaction(insert("3"))
	stream := s.end()
	status, _, errs := env.Run(stream, "pgapply", "--adopt")
	if status != 1 || !strings.Contains(errs, "ALTER TABLE other ADD b text") ||
		!strings.Contains(errs, "0/1200") || !strings.Contains(errs, "--skip-lsn 0/1200") {
		t.Fatalf("status %d: %s", status, errs)
	}
	if got := target.Query("SELECT * FROM t ORDER BY a"); got != "1" {
		t.Fatalf("the target has %q", got)
	}
	env.Must(stream, "pgapply", "--adopt", "--skip-lsn", "0/1200")
	if got := target.Query("SELECT * FROM t ORDER BY a"); got != "1\n3" {
		t.Fatalf("the target has %q", got)
	}
	if got := target.Query("SELECT operation, reason FROM pgsluice.conflicts ORDER BY 1"); got != "ddl\t--skip-lsn: ALTER TABLE other ADD b text\ninsert\t--skip-lsn" {
		t.Errorf("recorded: %s", got)
	}
}

// A statement of a transaction in progress is taken back with the subtransaction that ran it, and
// with no other. (It once named the transaction only, and pgapply had to stop.)
func TestDDLRolledBack(t *testing.T) {
	target, env, s := begun(t)
	s.block(7, true, insert("2"), ddl("ALTER TABLE t ADD good text"))
	bad := ddl("ALTER TABLE t ADD bad text")
	bad.XID = 8
	s.write(&format.StreamStart{XID: 7}, bad, &format.StreamStop{}, &format.StreamAbort{XID: 7, SubXID: 8})
	s.commit(7)
	env.Must(s.end(), "pgapply", "--adopt")
	if got := target.Query("SELECT a, good FROM t ORDER BY a"); got != "1\tNULL\n2\tNULL" {
		t.Errorf("the target has %q", got)
	}
	if got := target.Query("SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0"); got != "2" {
		t.Errorf("it has %s columns", got)
	}
}

// Statements that a table's snapshot includes are left out, in blocks and outside of them.
func TestDDLBeforeSnapshot(t *testing.T) {
	target, env, s := begun(t)
	if status, _, errs := env.Run(s.flush(), "pgapply", "--adopt"); status != 65 {
		t.Fatalf("status %d\n%s", status, errs)
	}
	target.Exec("UPDATE pgsluice.tables SET snapshot_lsn = '0/2000'")
	of := func(tag, sql string) *format.DDL {
		d := ddl(sql)
		d.Type, d.Objects = tag, []format.Object{{Type: "table", Names: []string{"public", "t"}}}
		return d
	}
	s.block(7, true, of("ALTER TABLE", "ALTER TABLE t ADD b text"))
	s.commit(7)
	s.transaction(insert("skipped"), of("DROP TABLE", "DROP TABLE t"), of("CREATE TABLE", "CREATE TABLE t (a text PRIMARY KEY)"))
	s.lsn = 0x2000
	s.block(8, true, of("ALTER TABLE", "ALTER TABLE t ADD c text"))
	s.commit(8)
	s.write(relation("a", "c"))
	s.transaction(insert("2", "x"))
	if status, _, errs := env.Run(s.flush(), "pgapply", "--adopt"); status != 65 || strings.Count(errs, "is not repeated") != 3 {
		t.Fatalf("status %d\n%s", status, errs)
	}
	if got := target.Query("SELECT * FROM t ORDER BY a"); got != "1\tNULL\n2\tx" {
		t.Errorf("the target has\n%s", got)
	}
	target.Exec("UPDATE pgsluice.tables SET snapshot_lsn = '0/9000'")
	s.block(9, true, &format.DDL{Section: format.Change, Type: "DROP TYPE", SQL: "DROP TYPE x CASCADE;", SearchPath: "public"})
	s.commit(9)
	if status, _, errs := env.Run(s.flush(), "pgapply", "--adopt"); status != 78 || !strings.Contains(errs, "The statement: DROP TYPE x CASCADE;") ||
		!strings.Contains(errs, fmt.Sprintf("--skip-lsn %v", s.lsn)) {
		t.Errorf("status %d\n%s", status, errs)
	}
}
