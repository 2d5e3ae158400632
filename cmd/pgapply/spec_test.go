package main_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/format"
)

// bench is an empty target that streams are applied to.
type bench struct {
	*pgtest.Env
	t      testing.TB
	target *pgtest.DB
}

func newBench(t testing.TB) *bench {
	t.Helper()
	target := pgtest.Target(t).Database(t, "")
	return &bench{Env: &pgtest.Env{T: t, Dir: pgtest.Programs(t, false), Target: target.URI}, t: t, target: target}
}

// apply has pgapply apply a stream, and checks its exit status. It returns what it said.
func (b *bench) apply(stream []byte, status int, args ...string) string {
	b.t.Helper()
	got, out, errs := b.Run(stream, "pgapply", append(args, "--adopt")...)
	if got != status {
		b.t.Fatalf("pgapply %s: exit status %d, not %d\n%s%s", strings.Join(args, " "), got, status, out, errs)
	}
	return errs
}

// want checks what a query returns on the target.
func (b *bench) want(query, want string) {
	b.t.Helper()
	if got := b.target.Query(query); got != want {
		b.t.Errorf("%s\nis %q, not %q", query, got, want)
	}
}

// stream makes a stream that is complete.
func stream(t *testing.T, records ...format.Record) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := format.NewWriter(&buf)
	for _, r := range records {
		if err := w.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.End(format.Complete, 0); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// loadOf makes a full load of records.
func loadOf(t *testing.T, records ...format.Record) []byte {
	t.Helper()
	h := &format.Header{StreamKind: format.Load, SystemID: "1", Database: "d", ServerVersion: 150000,
		Encoding: "UTF8", StartLSN: 0x1000, Load: &format.LoadInfo{Snapshot: "s1"}}
	return stream(t, append([]format.Record{h}, records...)...)
}

func tableDDL(name, columns string) *format.DDL {
	return &format.DDL{Section: format.PreData, Type: "TABLE", Schema: "public", Name: name,
		SQL: "CREATE TABLE public." + name + " (" + columns + ");"}
}

func relationOf(id uint32, name string, columns ...string) *format.Relation {
	r := &format.Relation{ID: id, Schema: "public", Name: name, ReplicaIdentity: "d"}
	for i, c := range columns {
		r.Columns = append(r.Columns, format.Column{Name: c, TypeMod: -1, Key: i == 0})
	}
	return r
}

func part(number, relation uint32, index, of uint64, columns ...string) *format.CopyBegin {
	return &format.CopyBegin{Part: number, Relation: relation, Columns: columns, Format: format.CopyText,
		Index: index, Of: of, SnapshotLSN: 0x1000}
}

// copied is a part as a whole.
func copied(number, relation uint32, index, of uint64, text string) []format.Record {
	n := uint64(strings.Count(text, "\n"))
	return []format.Record{part(number, relation, index, of, "a"), &format.CopyData{Part: number, Rows: n, Data: []byte(text)},
		&format.CopyEnd{Part: number, Rows: n, Bytes: uint64(len(text))}}
}

// The streams that stand for those that users have kept can be applied to an empty database.
func TestFrozenStreams_H10(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	frozen := func(name string) []byte {
		s, err := os.ReadFile(filepath.Join(pgtest.Root(), "format/testdata/v1", name))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	load, changes := frozen("load.pgs"), frozen("changes.pgs")
	// Their owner may be missing: they say nothing of roles.
	b.apply(load, 0)
	b.want("SELECT count(*), sum(id), max(customer) FROM public.orders WHERE total > 0", "501\t125250\tżółć")
	b.want("SELECT order_id, photo FROM public.items", "1\t\\xffd8")
	b.want("SELECT oid, length(lo_get(oid)), encode(lo_get(oid, 600, 10), 'hex') FROM pg_largeobject_metadata", "24576\t602\t00ff")
	b.want("SELECT conname FROM pg_constraint WHERE conrelid = 'public.orders'::regclass AND contype = 'p'", "orders_pkey")
	b.apply(load, 0) // what is there is skipped
	b.want("SELECT count(*) FROM public.orders", "501")

	// One update in them says of a row with full identity what it was not.
	b.apply(changes, 0, "--on-conflict", "skip")
	b.want("SELECT count(*) FROM public.orders", "0")
	b.want("SELECT order_id, photo FROM public.items ORDER BY 1", "1\t\\x00ff\n3\tNULL")
	b.want("SELECT applied_lsn, (SELECT count(*) FROM pgsluice.conflicts) FROM pgsluice.streams", "17/0\t1")
	b.apply(changes, 0)
	b.want("SELECT order_id, photo FROM public.items ORDER BY 1", "1\t\\x00ff\n3\tNULL")
}

// A large object is created by its first record, wherever the second one begins.
func TestLargeObjectInPieces_H10(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := loadOf(t, &format.LargeObject{OID: 7}, &format.LargeObject{OID: 9, Data: []byte("nine")},
		&format.LargeObject{OID: 7}, &format.LargeObject{OID: 7, Data: []byte("se")},
		&format.LargeObject{OID: 8}, &format.LargeObject{OID: 7, Offset: 2, Data: []byte("ven")})
	b.apply(s, 0)
	b.want("SELECT oid, convert_from(lo_get(oid), 'UTF8') FROM pg_largeobject_metadata ORDER BY oid", "7\tseven\n8\t\n9\tnine")

	other := newBench(t)
	other.target.Exec("SELECT lo_from_bytea(8, 'mine')")
	if errs := other.apply(s, 78); strings.Contains(errs, "lo_unlink") {
		t.Errorf("the hint removes what is somebody's:\n%s", errs)
	}
	other.want("SELECT count(*) FROM pg_largeobject_metadata", "1")
}

// Columns need no types, binary data neither.
func TestBinaryWithoutTypes_H10(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	data := []byte("PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x04\x00\x00\x00\x2a\x00\x00\x00\x02hi\xff\xff")
	begin := part(1, 1, 1, 1, "a", "b")
	begin.Format = format.CopyBinary
	b.apply(loadOf(t, &format.DDL{Section: format.PreData, Type: "TYPE", Schema: "public", Name: "m",
		SQL: "CREATE TYPE public.m AS ENUM ('hi');"},
		tableDDL("t", "b public.m, a int"), relationOf(1, "t", "a", "b"), begin, &format.CopyData{Part: 1, Rows: 1, Data: data},
		&format.CopyEnd{Part: 1, Rows: 1, Bytes: uint64(len(data))}), 0)
	b.want("SELECT a, b FROM public.t", "42\thi")
}

// A stream that comes to its end without a part that it promised is not good.
func TestMissingPart_H10(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := loadOf(t, slices.Concat([]format.Record{tableDDL("whole", "a int"), tableDDL("half", "a int"), tableDDL("none", "a int"),
		relationOf(1, "whole", "a"), relationOf(2, "half", "a"), relationOf(3, "none", "a")},
		copied(1, 1, 1, 1, "1\n"), copied(1, 2, 1, 2, "1\n"))...)
	errs := b.apply(s, 65)
	if !strings.Contains(errs, "public.half") || !strings.Contains(errs, "public.none") || strings.Contains(errs, "public.whole") {
		t.Errorf("the tables are not named:\n%s", errs)
	}
	// The rest, in the same input or later, makes it whole.
	rest := loadOf(t, slices.Concat([]format.Record{relationOf(2, "half", "a"), relationOf(3, "none", "a")},
		copied(1, 2, 2, 2, "2\n"), copied(2, 3, 1, 1, "3\n"))...)
	b.apply(rest, 0)
	b.want("SELECT load_status FROM pgsluice.streams", "loaded")
	other := newBench(t)
	other.apply(slices.Concat(s, rest), 0)
	other.want("SELECT sum(a) FROM public.half", "3")

	// One of several streams may lack what others have, until all of them were there.
	some := func(part uint64, more ...format.Record) []byte {
		h := &format.Header{StreamKind: format.Load, SystemID: "1", Database: "d",
			Load: &format.LoadInfo{Snapshot: "s", Part: part, Parts: 2}}
		return stream(t, append([]format.Record{h, tableDDL("t", "a int"), relationOf(1, "t", "a")}, more...)...)
	}
	several := newBench(t)
	one := some(1, copied(1, 1, 1, 2, "1\n")...)
	several.apply(one, 0)
	several.apply(slices.Concat(one, some(2)), 65)
	several.apply(some(2, copied(1, 1, 2, 2, "2\n")...), 0)
	several.want("SELECT load_status, (SELECT sum(a) FROM public.t) FROM pgsluice.streams", "loaded\t3")
}

// The same part twice is damage; 75 would be tried for ever.
func TestPartTwice_H10(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.apply(damaged(t, loadOf(t, slices.Concat([]format.Record{tableDDL("t", "a int"),
		relationOf(1, "t", "a")}, copied(1, 1, 1, 2, "1\n"), copied(2, 1, 2, 2, "2\n"))...),
		func(body []byte) []byte {
			return bytes.Replace(body, []byte("\xa5index\x02"), []byte("\xa5index\x01"), 1)
		}), 65)
	b.want("SELECT count(*) FROM public.t", "1")

	// Two relations that are one table on the target.
	b = newBench(t)
	b.apply(loadOf(t, slices.Concat([]format.Record{tableDDL("t", "a int"), relationOf(1, "t", "a"),
		relationOf(2, "t", "a")}, copied(1, 1, 1, 1, "1\n"), copied(2, 2, 1, 1, "2\n"))...), 65)
}

// damaged changes the bodies of a stream's frames, and makes their checksums right.
func damaged(t *testing.T, s []byte, change func(body []byte) []byte) []byte {
	t.Helper()
	var out []byte
	for len(s) > 0 {
		head, n := 9, int(s[8])
		switch s[7] {
		case 0xc5:
			head, n = 10, int(binary.BigEndian.Uint16(s[8:]))
		case 0xc6:
			head, n = 12, int(binary.BigEndian.Uint32(s[8:]))
		}
		body := change(s[head : head+n])
		if len(body) != n {
			t.Fatal("the length of a body must not change")
		}
		frame := append(append([]byte(nil), s[:head]...), body...)
		binary.BigEndian.PutUint32(frame[3:], crc32.Checksum(append([]byte{s[1]}, body...), crc32.MakeTable(crc32.Castagnoli)))
		out, s = append(out, frame...), s[head+n:]
	}
	return out
}

// Records stand in any order that the specification allows.
func TestAnyOrder_H10(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	post := func(id uint64, kind, name, sql string) *format.DDL {
		return &format.DDL{ID: id, Section: format.PostData, Type: kind, Schema: "public", Name: name, Table: "t", SQL: sql}
	}
	data := func(number uint32, text string) format.Record {
		return &format.CopyData{Part: number, Rows: uint64(strings.Count(text, "\n")), Data: []byte(text)}
	}
	end := func(number uint32, rows, bytes uint64) format.Record {
		return &format.CopyEnd{Part: number, Rows: rows, Bytes: bytes}
	}
	b.apply(loadOf(t,
		// before it is created
		&format.Sequence{Schema: "public", Name: "s", LastValue: 77, IsCalled: true},
		relationOf(2, "u", "a"), // before it is created
		post(9, "INDEX", "t_b", "CREATE INDEX t_b ON public.t (b);"), // before its table
		relationOf(1, "t", "b", "a"),
		tableDDL("t", "a int, c int GENERATED BY DEFAULT AS IDENTITY, b text"),
		&format.LargeObject{OID: 5, Data: []byte("x")},
		// columns: those of the relation
		&format.CopyBegin{Part: 1, Relation: 1, Format: format.CopyText, Index: 1, Of: 3},
		part(7, 1, 3, 3, "a", "b"),
		data(1, "one\t1\n"), data(7, "3\tthree\n"),
		part(2, 1, 2, 3, "b", "a"),
		&format.DDL{Section: format.PreData, Type: "SCHEMA", Name: "x", SQL: "CREATE SCHEMA x;"},
		data(2, "two\t2\n"), data(1, "ten\t10\n"), end(7, 1, 8),
		post(10, "CONSTRAINT", "t_pkey", "ALTER TABLE public.t ADD CONSTRAINT t_pkey PRIMARY KEY (a);"),
		end(1, 2, 13),
		tableDDL("u", "a int"),
		end(2, 1, 6), // now t is complete
		part(1, 2, 1, 1, "a"), data(1, "5\n"),
		&format.LargeObject{OID: 5, Offset: 1, Data: []byte("y")},
		end(1, 1, 2),
		&format.DDL{Section: format.PreData, Type: "SEQUENCE", Schema: "public", Name: "s", SQL: "CREATE SEQUENCE public.s;"},
		post(11, "INDEX", "t_late", "CREATE INDEX t_late ON public.t (b, a);"),
		post(12, "INDEX", "u_late", "CREATE INDEX u_late ON public.u (a);"),
	), 0)
	b.want("SELECT a, b FROM public.t ORDER BY a", "1\tone\n2\ttwo\n3\tthree\n10\tten")
	b.want("SELECT last_value, is_called FROM public.s", "77\tt")
	b.want("SELECT string_agg(indexname, ' ' ORDER BY indexname) FROM pg_indexes WHERE schemaname = 'public'", "t_b t_late t_pkey u_late")
	b.want("SELECT convert_from(lo_get(5), 'UTF8')", "xy")
	b.want("SELECT DISTINCT state FROM pgsluice.deferred", "done")
	b.want("SELECT load_status FROM pgsluice.streams", "loaded")
}

// Nothing in a stream writes where only the server, or pgapply itself, may write.
func TestReservedSchemas_P12(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.apply(loadOf(t, tableDDL("t", "a int")), 0)
	before := b.target.Query("SELECT md5(string_agg(s::text, '')) FROM pgsluice.streams s")
	for _, schema := range []string{"pgsluice", "pg_catalog", "pg_toast", "information_schema", "pg_temp_3"} {
		in := func(name string) *format.Relation {
			return &format.Relation{ID: 1, Schema: schema, Name: name, Columns: []format.Column{{Name: "slot"}}}
		}
		for name, s := range map[string][]byte{
			"relation": loadOf(t, in("streams")),
			"schema":   loadOf(t, &format.DDL{Section: format.PreData, Type: "SCHEMA", Name: schema, SQL: "DROP TABLE public.t;"}),
			"ddl": loadOf(t, &format.DDL{Section: format.PreData, Type: "TABLE", Schema: schema,
				Name: "x", SQL: "DROP TABLE public.t;"}),
			"post": loadOf(t, &format.DDL{Section: format.PostData, Type: "INDEX", Schema: schema,
				Name: "x", SQL: "DROP TABLE public.t;"}),
			"sequence": loadOf(t, &format.Sequence{Schema: schema, Name: "streams_stream_id_seq", LastValue: 9}),
			"copy":     loadOf(t, append([]format.Record{in("cutover")}, copied(1, 1, 1, 1, "x\n")...)...),
			"changes": func() []byte {
				s := newScribe(t)
				s.write(in("streams"))
				s.transaction(&format.Truncate{Relations: []uint32{1}})
				return s.end()
			}(),
			"statement": func() []byte {
				s := newScribe(t)
				d := ddl("DROP TABLE public.t;")
				d.Type, d.Objects = "DROP TABLE", []format.Object{{Type: "table", Names: []string{schema, "streams"}}}
				s.transaction(d)
				return s.end()
			}(),
			"block": func() []byte {
				s := newScribe(t)
				s.block(77, true, in("streams"), &format.Insert{Relation: 1, New: format.Tuple{format.TextValue([]byte("x"))}})
				s.commit(77)
				return s.end()
			}(),
		} {
			if name == "statement" && schema == "pg_temp_3" {
				continue // a session's own
			}
			if schema != "pgsluice" && name != "relation" && !pgtest.Full() {
				continue // one list has all of these schemas
			}
			if errs := b.apply(s, 65); !strings.Contains(errs, schema) {
				t.Errorf("%s of %s: %s", name, schema, errs)
			}
		}
	}
	b.want("SELECT to_regclass('public.t') IS NOT NULL, (SELECT count(*) FROM pgsluice.cutover)", "t\t0")
	b.want("SELECT md5(string_agg(s::text, '')) FROM pgsluice.streams s WHERE slot = ''", before)
	b.apply(loadOf(t, relationOf(1, "t", "a")), 78, "--rename", "public=pgsluice")
}

// A commit that ends before it begins would have its position go back.
func TestCommitEndsBeforeItBegins_P12(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.target.Exec("CREATE TABLE t (a text PRIMARY KEY)")
	s := newScribe(t)
	s.write(relation("a"))
	s.transaction(insert("1"))
	good := len(s.flush())
	s.transaction(insert("2"))
	whole := s.end()
	lsn := func(l format.LSN) []byte { return []byte{0xcd, byte(l >> 8), byte(l)} }
	bad := slices.Concat(whole[:good], damaged(t, whole[good:], func(body []byte) []byte {
		return bytes.Replace(body, slices.Concat(lsn(s.lsn), lsn(s.lsn+8)), slices.Concat(lsn(s.lsn), lsn(s.lsn-8)), 1)
	}))
	if bytes.Equal(bad, whole) {
		t.Fatal("nothing was changed")
	}
	b.apply(bad, 65)
	b.want("SELECT string_agg(a, '') FROM t", "1")
}

// The load in section 11 of SPEC.md, and after it the changes in section 8, are applied as they
// stand there.
func TestSpecExamples_H10(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	spec, err := os.ReadFile(filepath.Join(pgtest.Root(), "format/SPEC.md"))
	if err != nil {
		t.Fatal(err)
	}
	example := func(section string) []byte {
		_, rest, _ := strings.Cut(string(spec), "\n## "+section+". ")
		_, block, _ := strings.Cut(rest, "```\n")
		block, _, _ = strings.Cut(block, "```\n")
		var out []byte
		for line := range strings.Lines(block) {
			code, _, _ := strings.Cut(line, "#")
			b, err := hex.DecodeString(strings.Join(strings.Fields(code), ""))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, b...)
		}
		return out
	}
	b.apply(example("11"), 0)
	b.want("SELECT a, b FROM public.t ORDER BY a", "1\tone\n2\tNULL")
	other := newBench(t)
	other.target.Exec("CREATE TABLE t (a text)")
	other.apply(example("8"), 0)
	other.want("SELECT a FROM t", "x")
}
