package format_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/pgsluice/pgsluice/format"
)

const (
	maxLSN  = format.LSN(math.MaxUint64)
	maxTime = format.Time(math.MaxInt64)
	minTime = format.Time(math.MinInt64)
	maxXID  = math.MaxUint32
)

// everyValue has a value of each kind, and those that are easily taken for one another.
func everyValue() format.Tuple {
	return format.Tuple{
		{},
		text(""),
		text("x"),
		text("NULL"),
		text("\\N"),
		text("żółć\n\t\x01"),
		{Kind: format.Binary},
		{Kind: format.Binary, Data: []byte{0}},
		{Kind: format.Binary, Data: []byte("text")},
		{Kind: format.RawText},
		{Kind: format.RawText, Data: []byte{0xff, 0xfe}},
		{Kind: format.RawText, Data: []byte("text")},
	}
}

// everyLength has values of the lengths at which an encoding changes its width.
func everyLength(k format.ValueKind) (t format.Tuple) {
	for _, n := range []int{0, 1, 2, 4, 8, 15, 16, 17, 31, 32, 255, 256, 65535, 65536} {
		t = append(t, format.Value{Kind: k, Data: bytes.Repeat([]byte{'y'}, n)})
	}
	return t
}

// Every kind of record with its zero value, with its greatest values, and with what is special
// about it. Each stands after the records that it needs.
func roundTrips() map[string][]format.Record {
	values := everyValue()
	wide := &format.Relation{ID: 1, Schema: "public", Name: "wide", Columns: make([]format.Column, len(values))}
	for i := range wide.Columns {
		wide.Columns[i] = format.Column{Name: fmt.Sprint("c", i)}
	}
	unchanged := everyValue()
	unchanged[0] = format.Value{Kind: format.Unchanged}
	lengths := &format.Relation{ID: 1, Name: "lengths", Columns: wide.Columns[:1:1]}
	for len(lengths.Columns) < len(everyLength(format.Text)) {
		lengths.Columns = append(lengths.Columns, format.Column{Name: "c"})
	}
	changes := []format.Record{changeHeader(), wide, relation0()}
	tx := after(changes, &format.Begin{XID: 1})
	block := after(changes, &format.StreamStart{XID: 1, First: true})
	load := []format.Record{loadHeader(), relationT(), relation0(), copyBegin(1)}
	long := strings.Repeat("long ", 100_000)
	all := map[string][]format.Record{
		"load header, zero":    {loadHeader()},
		"repair header, zero":  {&format.Header{StreamKind: format.Repair}},
		"changes header, zero": {&format.Header{StreamKind: format.Changes, SystemID: "1", Database: "d", Slot: "s"}},
		"header, max": {&format.Header{StreamKind: format.Load, Producer: long[:60000], Created: minTime, SystemID: "18446744073709551615",
			Timeline: math.MaxUint64, Database: "d\x00\xff", ServerVersion: math.MaxUint64,
			Encoding: "SQL_ASCII", Slot: "s", StartLSN: maxLSN,
			Publications: []string{"", "a", long[:300]},
			Load: &format.LoadInfo{Snapshot: "s", Part: math.MaxUint64, Parts: math.MaxUint64,
				DataOnly: true,
				Tables:   math.MaxUint64, Bytes: math.MaxUint64, Resumed: true, Scope: format.ScopeTables}}},
		"header, empty load": {&format.Header{StreamKind: format.Load, Load: &format.LoadInfo{}}},
		"relation, max": after(changes, &format.Relation{ID: math.MaxUint32, Schema: long[:70000], Name: "n",
			ReplicaIdentity: "n", Columns: []format.Column{
				{Name: "a", Type: "character varying", OID: math.MaxUint32, TypeMod: math.MaxInt32, Key: true,
					Generated: true, Identity: "d"},
				{Name: "b", TypeMod: math.MinInt32}, {Name: "c", TypeMod: 0}, {Name: "d", TypeMod: -1}}}),
		"ddl, zero": after(load, pre(format.PreData), &format.DDL{Section: format.PostData}),
		"ddl, max": after(load, &format.DDL{ID: math.MaxUint64, Section: format.PostData,
			Type: "FK CONSTRAINT", Schema: "s", Name: "n", Table: "t", Owner: "o",
			SQL: long, Index: "i", Attach: "a", After: []uint64{0, 1, math.MaxUint64}}),
		"ddl in a transaction": after(tx, &format.DDL{Section: format.Change, SQL: "x", SearchPath: `"$user", public`}),
		"ddl in a block":       after(block, &format.DDL{Section: format.Change, SQL: "x", XID: maxXID}),
		"ddl, recorded": after(tx, &format.DDL{Section: format.Change, Type: "CREATE TABLE", Owner: "o",
			SQL: "x", Settings: map[string]string{"b": "", "a": "on"},
			Objects: []format.Object{{Type: "table", Names: []string{"s", "t"}},
				{Type: "function", Names: []string{"f"}, Args: []string{"int4", ""}}}}),
		"copy-begin, max": after(load, &format.CopyBegin{Part: math.MaxUint32, Relation: 2,
			Columns: []string{"", "b"}, Format: format.CopyBinary,
			Index: math.MaxUint64, Of: math.MaxUint64, SnapshotLSN: maxLSN, Rows: math.MaxUint64, Bytes: math.MaxUint64}),
		"copy-begin, zero": after(load, &format.CopyBegin{Relation: 2, Format: format.CopyText, Index: 1, Of: 1}),
		"copy-data, zero":  after(load, &format.CopyData{Part: 1}),
		"copy-data, max": after(load, &format.CopyData{Part: 1, Rows: math.MaxUint64, Data: []byte(long)},
			&format.CopyEnd{Part: 1, Rows: math.MaxUint64, Bytes: uint64(len(long))}),
		"copy-end, zero": after(load, &format.CopyEnd{Part: 1}),
		"fingerprint": after(load, &format.Fingerprint{Class: "index", Schema: "s", Table: "t",
			Name: "i", Definition: "d", Facts: "f"}),
		"sequence, min": after(load, &format.Sequence{Schema: "s", Name: "n", LastValue: math.MinInt64}),
		"sequence, max": after(load, &format.Sequence{Schema: "s", Name: "n", LastValue: math.MaxInt64, IsCalled: true}),
		"large-object": after(load, &format.LargeObject{},
			&format.LargeObject{OID: math.MaxUint32, Offset: math.MaxUint64, Data: []byte(long)}),
		"begin, zero": after(changes, &format.Begin{}),
		"begin, max":  after(changes, &format.Begin{XID: maxXID, CommitLSN: maxLSN, Time: maxTime}),
		"commit, max": after(changes, &format.Begin{XID: 1, CommitLSN: maxLSN - 1},
			&format.Commit{CommitLSN: maxLSN - 1, EndLSN: maxLSN, Time: minTime}),
		"commit, least":    after(tx, &format.Commit{EndLSN: 101}),
		"commit in repair": {&format.Header{StreamKind: format.Repair}, &format.Begin{}, &format.Commit{}},
		"insert":           after(tx, &format.Insert{Relation: 1, New: values}),
		"insert, nothing":  after(tx, &format.Insert{Relation: 2}, &format.Insert{Relation: 2, New: format.Tuple{}}),
		"insert, xid":      after(block, &format.Insert{Relation: 1, New: values, XID: maxXID}),
		"update":           after(tx, &format.Update{Relation: 1, New: unchanged}),
		"update, old":      after(tx, &format.Update{Relation: 1, Old: values, New: unchanged}),
		"update, xid": after(block, &format.Update{Relation: 1, New: values, XID: 1},
			&format.Update{Relation: 1, Old: values, New: unchanged, XID: maxXID}),
		"update, nothing": after(tx, &format.Update{Relation: 2},
			&format.Update{Relation: 2, Old: format.Tuple{}}, &format.Update{Relation: 2}),
		"old comes and goes": after(tx, &format.Update{Relation: 1, Old: values, New: values}, &format.Update{Relation: 1, New: values},
			&format.Update{Relation: 1, Old: values, New: values}),
		"delete":      after(tx, &format.Delete{Relation: 1, Old: values}, &format.Delete{Relation: 2}),
		"delete, xid": after(block, &format.Delete{Relation: 1, Old: values, XID: maxXID}),
		"truncate": after(tx, &format.Truncate{},
			&format.Truncate{Relations: []uint32{1}, Cascade: true},
			&format.Truncate{Relations: []uint32{2, 1}, RestartIdentity: true}),
		"truncate, many":            after(tx, &format.Truncate{Relations: bytes32(65535, 1), Cascade: true, RestartIdentity: true}),
		"truncate, xid":             after(block, &format.Truncate{Relations: []uint32{1}, XID: maxXID}),
		"message, zero":             after(changes, &format.Message{}),
		"message, max":              after(changes, &format.Message{LSN: maxLSN, Prefix: []byte(long), Content: []byte(long)}),
		"message, in a transaction": after(tx, &format.Message{Transactional: true, LSN: 1}),
		"message, xid": after(block, &format.Message{Transactional: true, XID: maxXID},
			&format.Message{}, &format.Message{XID: 1}),
		"stream-start": after(changes, &format.StreamStart{XID: maxXID, First: true},
			&format.StreamStop{}, &format.StreamStart{XID: maxXID}),
		"stream-commit, max": after(block, &format.StreamStop{},
			&format.StreamCommit{XID: 1, CommitLSN: maxLSN - 1, EndLSN: maxLSN, Time: maxTime}),
		"stream-abort, zero": after(block, &format.StreamStop{}, &format.StreamAbort{XID: 1},
			&format.StreamAbort{XID: 1, SubXID: 1}),
		"stream-abort, max": after(block, &format.StreamStop{},
			&format.StreamAbort{XID: 1, SubXID: maxXID, LSN: maxLSN, Time: minTime}),
		"prepare": after(tx, &format.Prepare{XID: 1, EndLSN: 1}),
		"prepare, max": after(block, &format.StreamStop{},
			&format.Prepare{GID: []byte(long), XID: 1, PrepareLSN: maxLSN - 1, EndLSN: maxLSN,
				Time: maxTime}),
		"commit-prepared, max": after(changes,
			&format.CommitPrepared{GID: []byte("\xff"), XID: maxXID, CommitLSN: maxLSN - 1, EndLSN: maxLSN,
				Time: minTime}),
		"rollback-prepared": after(changes, &format.RollbackPrepared{EndLSN: 1},
			&format.RollbackPrepared{GID: []byte("g"), XID: maxXID, PrepareEndLSN: maxLSN - 1, EndLSN: maxLSN,
				Time: maxTime}),
		"progress":  after(changes, &format.Progress{}, &format.Progress{LSN: maxLSN, Time: minTime}),
		"unknown":   after(changes, &format.Unknown{K: 65}, &format.Unknown{K: 127, Body: []byte(long)}),
		"end, zero": after(changes, &format.End{Reason: format.Stopped, Frames: 3}),
		"end, max": after(changes,
			&format.End{Reason: format.Complete, Frames: 3, Transactions: math.MaxUint64,
				Changes: math.MaxUint64, Rows: math.MaxUint64, Bytes: math.MaxUint64, LSN: maxLSN}),
		"relation without a relation": after(changes, &format.Relation{ID: 9, Name: "t", Columns: []format.Column{}}),
	}
	for name, k := range map[string]format.ValueKind{"text": format.Text, "binary": format.Binary, "raw text": format.RawText} {
		all["lengths of "+name] = []format.Record{changeHeader(), lengths, &format.Begin{XID: 1},
			&format.Insert{Relation: 1, New: everyLength(k)}}
	}
	for _, n := range []int{0, 15, 16, 31, 32, 1600, 65535} {
		cols := make([]format.Column, n)
		for i := range cols {
			cols[i].Name = "c"
		}
		rel := &format.Relation{ID: 1, Name: "t", Columns: cols}
		all[fmt.Sprint(n, " columns")] = []format.Record{changeHeader(), rel, &format.Begin{XID: 1},
			&format.Insert{Relation: 1, New: make(format.Tuple, n)},
			&format.Update{Relation: 1, Old: make(format.Tuple, n), New: make(format.Tuple, n)},
			&format.Delete{Relation: 1, Old: make(format.Tuple, n)}}
	}
	return all
}

// after appends to a copy.
func after(before []format.Record, recs ...format.Record) []format.Record {
	return append(before[:len(before):len(before)], recs...)
}

func TestRoundTrip(t *testing.T) {
	for name, recs := range roundTrips() {
		t.Run(name, func(t *testing.T) {
			b := write(t, recs...)
			got, err := readBytes(b)
			if _, ended := recs[len(recs)-1].(*format.End); ended != (err == nil) {
				t.Fatalf("after %d records: %v", len(got), err)
			}
			same(t, got, recs)
			if !bytes.Equal(write(t, got...), b) {
				t.Error("what was read is written in another way")
			}
			if len(b) < 1<<12 { // and not through the same eyes only
				if !bytes.Equal(unchecked(t, recs...), b) {
					t.Error("the frames are not as specified")
				}
			}
		})
	}
}

// Bodies of every length around which the head of a frame, or the number of frames, changes.
func TestBodySizes(t *testing.T) {
	const piece = 1 << 20
	for _, size := range []int{0, 1, 254, 255, 256, 257, 65534, 65535, 65536, 65537, piece - 1, piece,
		piece + 1, 2*piece - 1, 2 * piece, 2*piece + 1, 3*piece + 17} {
		body := make([]byte, size)
		for i := range body {
			body[i] = byte(i * i >> 8)
		}
		rec := &format.Unknown{K: 100, Body: body}
		b := write(t, changeHeader(), rec)[len(write(t, changeHeader())):]
		// The pieces are in frames of kind continued, the last one is in a frame of the record's
		// own kind.
		var want []byte
		for len(body) > piece {
			want = append(want, frame(format.KindContinued, body[:piece])...)
			body = body[piece:]
		}
		if want = append(want, frame(100, body)...); !bytes.Equal(b, want) {
			t.Errorf("body of %d: frames are not as specified", size)
		}
		frames := uint64(max(1, (size+piece-1)/piece))
		in := join(header("changes"), b, end(int(frames)+1))
		for name, r := range map[string]io.Reader{"whole": bytes.NewReader(in), "halves": iotest.HalfReader(bytes.NewReader(in))} {
			got, err := read(r)
			if err != nil || len(got) != 3 {
				t.Fatalf("body of %d, %s: %d records, %v", size, name, len(got), err)
			}
			same(t, got[1:2], []format.Record{rec})
		}
	}
}

// Records of every kind that can be long, between others, in several paces.
func TestLongRecords(t *testing.T) {
	big := func(n int) []byte { return bytes.Repeat([]byte("0123456789abcdef"), n/16) }
	const mib = 1 << 20
	changes := []format.Record{changeHeader(), relationT(), &format.Begin{XID: 1, CommitLSN: 200},
		&format.Insert{Relation: 1, New: format.Tuple{{Kind: format.Text, Data: big(mib + 16)}, {}}},
		&format.Insert{Relation: 1, New: row("small", "one")},
		&format.Update{Relation: 1, Old: format.Tuple{{Kind: format.Binary, Data: big(3 * mib)}, text("x")},
			New: format.Tuple{{Kind: format.RawText, Data: big(mib)}, {Kind: format.Unchanged}}},
		&format.Delete{Relation: 1, Old: format.Tuple{text("x"), {Kind: format.Text, Data: big(2 * mib)}}},
		&format.Message{Transactional: true, Prefix: []byte("p"), Content: big(3*mib + 160)},
		&format.DDL{Section: format.Change, SQL: string(big(2 * mib))},
		&format.Commit{CommitLSN: 200, EndLSN: 210},
		&format.Unknown{K: 99, Body: big(mib + 16)}}
	load := []format.Record{loadHeader(), relationT(), copyBegin(1), copyBegin(2),
		&format.CopyData{Part: 1, Rows: 1, Data: big(mib)},
		&format.CopyData{Part: 2, Rows: 1, Data: big(3 * mib)},
		&format.CopyData{Part: 1, Rows: 1, Data: big(256 << 10)},
		&format.CopyEnd{Part: 1, Rows: 2, Bytes: mib + 256<<10}, &format.CopyEnd{Part: 2, Rows: 1, Bytes: 3 * mib},
		&format.LargeObject{OID: 1, Data: big(2 * mib)}}
	paces := map[string]func(io.Reader) io.Reader{
		"whole":             func(r io.Reader) io.Reader { return r },
		"pipe":              func(r io.Reader) io.Reader { return &pipe{r, 1000} },
		"half":              iotest.HalfReader,
		"data with the end": iotest.DataErrReader,
	}
	for _, recs := range [][]format.Record{changes, load} {
		var out bytes.Buffer
		w := format.NewWriter(&out)
		for _, rec := range recs {
			must(t, w.Write(rec))
		}
		e, err := w.End(format.Complete, 0)
		must(t, err)
		want := append(recs, &e)
		for name, pace := range paces {
			t.Run(name, func(t *testing.T) {
				got, err := read(pace(bytes.NewReader(out.Bytes())))
				must(t, err)
				same(t, got, want)
			})
		}
	}
}

// pipe returns n bytes at once at most.
type pipe struct {
	r io.Reader
	n int
}

func (p *pipe) Read(b []byte) (int, error) { return p.r.Read(b[:min(len(b), p.n)]) }

// A record may come in more pieces than it needs. Frames that hold the pieces count.
func TestManySmallPieces(t *testing.T) {
	body := pack(array{false, 7, "prefix", []byte("content")})
	in := [][]byte{header("changes")}
	for i := range body[1:] {
		in = append(in, frame(format.KindContinued, body[i:i+1]), frame(format.KindContinued, nil))
	}
	in = append(in, frame(format.KindMessage, body[len(body)-1:]))
	in = append(in, end(len(in)))
	got, err := readBytes(join(in...))
	must(t, err)
	same(t, got[1:2], []format.Record{&format.Message{LSN: 7, Prefix: []byte("prefix"), Content: []byte("content")}})
}

// Text that is not UTF-8 must not stand in a str.
func TestTextValue(t *testing.T) {
	for s, want := range map[string]format.ValueKind{"": format.Text, "x": format.Text, "żółć": format.Text, "\x00": format.Text,
		"\xff": format.RawText, "ok\xc3": format.RawText, "\xed\xa0\x80": format.RawText} {
		if v := format.TextValue([]byte(s)); v.Kind != want || string(v.Data) != s {
			t.Errorf("%q is %v", s, v)
		}
	}
}

// What tells a source's history apart survives, and a history of another shape is refused.
func TestHistory_I4(t *testing.T) {
	h := &format.Header{StreamKind: format.Changes, SystemID: "7301", Database: "shop", Slot: "mig",
		Timeline: 3, Token: "a1b2", SourceLSN: 0x16_b374d878,
		History: []format.TimelineEnd{{1, 0x300}, {2, 0x16_b374d848}}}
	got, _ := readAll(t, write(t, h))
	same(t, got, []format.Record{h})
	read := got[0].(*format.Header)
	if end, ok := read.EndOf(2); !ok || end != 0x16_b374d848 {
		t.Errorf("timeline 2 ends at %v, %v", end, ok)
	}
	if end, ok := read.EndOf(4); ok {
		t.Errorf("timeline 4 ends at %v", end)
	}
	for _, history := range [][]any{{1, 2}, {[]any{1}}, {[]any{1, 2, 3}}, {[]any{"1", 2}}, {map[string]any{"timeline": 1}}} {
		if _, err := readBytes(join(header("changes", "history", history))); !errors.Is(err, format.ErrCorrupt) {
			t.Errorf("%v: %v", history, err)
		}
	}
}
