package main_test

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/format"
)

// An update whose key the source has left out is refused, whatever the policy: another row of the
// target may have the key without the missing value. Nothing of its transaction stays.
func TestKeyNotSent(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.target.Exec("CREATE TABLE t (a text, b int, c text, PRIMARY KEY (a, b)); INSERT INTO t VALUES ('', 1, 'bystander'), ('long', 1, 'old'), ('short', 1, 'old')")
	update := func(xid uint32, key format.Value) *format.Update {
		return &format.Update{Relation: 1, XID: xid, New: format.Tuple{key, format.TextValue([]byte("1")), format.TextValue([]byte("new"))}}
	}
	left := format.Value{Kind: format.Unchanged}
	rel := relation("a", "b", "c")
	rel.Columns[1].Key = true
	const rows = "SELECT string_agg(a || ' ' || c, ', ' ORDER BY a) FROM t"
	for _, inProgress := range []bool{false, true} {
		s := newScribe(t)
		s.write(rel)
		s.transaction(insert("new", "1", "row"))
		s.lsn += 8
		if inProgress {
			s.write(&format.StreamStart{XID: 7, First: true}, update(7, format.TextValue([]byte("short"))), update(7, left), &format.StreamStop{})
			s.commit(7)
		} else {
			s.transaction(update(0, format.TextValue([]byte("short"))), update(0, left))
		}
		lsn := s.lsn.String()
		stream := s.end()
		for _, args := range [][]string{nil, {"--on-conflict", "skip"}, {"--on-conflict", "overwrite"}} {
			said := b.apply(stream, 1, args...)
			for _, want := range []string{`"public.t"`, lsn, "the key (a)", "REPLICA IDENTITY FULL", "--reload"} {
				if !strings.Contains(said, want) {
					t.Errorf("%v: no %q in %s", args, want, said)
				}
			}
			b.want(rows, " bystander, long old, new row, short old")
		}
		b.apply(stream, 0, "--skip-lsn", lsn)
		b.want(rows, " bystander, long old, new row, short old")
		b.target.Exec("DELETE FROM t WHERE a = 'new'; DROP SCHEMA pgsluice CASCADE")
	}
}

// A value that the target's column cannot hold is refused before the commit, also in a statement
// for many rows.
func TestValueOfAnotherType(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.target.Exec("CREATE TABLE t (a text PRIMARY KEY, b int)")
	s := newScribe(t)
	s.write(relation("a", "b"))
	s.transaction(insert("1", "1"), insert("2", "1.5"), insert("3", "3"))
	stream := s.end()
	for range 2 {
		if said := b.apply(stream, 1); !strings.Contains(said, `"1.5"`) {
			t.Error(said)
		}
		b.want("SELECT count(*), (SELECT count(*) FROM pgsluice.streams WHERE applied_lsn > '0/1000') FROM t", "0\t0")
	}
	b.target.Exec("ALTER TABLE t ALTER b TYPE numeric")
	b.apply(stream, 0)
	b.want("SELECT count(*), sum(b) FROM t", "3\t5.5")
}

// A change with a long value is recorded with the beginning of the value, its length and its sum.
func TestLongConflict(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	b := newBench(t)
	b.target.Exec("CREATE TABLE t (a text PRIMARY KEY, b text); INSERT INTO t VALUES ('1', 'mine')")
	s := newScribe(t)
	s.write(relation("a", "b"))
	long := strings.Repeat("ż", 3<<20)
	s.transaction(insert("1", long))
	lsn := s.lsn.String()
	s.transaction(insert("1", "short"))
	b.apply(s.end(), 0, "--skip-lsn", lsn, "--on-conflict", "skip")
	b.want("SELECT tuple->'b'->>'bytes', length(tuple->'b'->>'prefix'), tuple->'b'->>'sha256' FROM pgsluice.conflicts WHERE reason = '--skip-lsn'",
		fmt.Sprintf("6291456\t512\t%x", sha256.Sum256([]byte(long))))
	b.want("SELECT tuple->>'b', key::text FROM pgsluice.conflicts WHERE reason <> '--skip-lsn'", "short\t{\"a\": \"1\"}")
}
