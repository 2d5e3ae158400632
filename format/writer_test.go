package format_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/format"
)

// A writer must not make what a reader refuses.
func TestWriterRefusesInvalidRecords(t *testing.T) {
	many := make([]format.Column, 1<<16)
	for i := range many {
		many[i].Name = "a"
	}
	load := []format.Record{&format.Header{StreamKind: format.Load}, relationT()}
	tx := []format.Record{changeHeader(), relationT(), &format.Begin{XID: 1}}
	null := format.Value{}
	unchanged := format.Value{Kind: format.Unchanged}
	tests := []struct {
		name   string
		before []format.Record
		rec    format.Record
	}{
		{"header without kind", nil, &format.Header{}},
		{"header without slot", nil, &format.Header{StreamKind: format.Changes, SystemID: "1", Database: "d"}},
		{"header of 64 KiB", nil, &format.Header{StreamKind: format.Load, Producer: strings.Repeat("x", 65500)}},
		{"relation without id", load, &format.Relation{Name: "t"}},
		{"relation without name", load, &format.Relation{ID: 1}},
		{"column without name", load, &format.Relation{ID: 1, Name: "t", Columns: make([]format.Column, 1)}},
		{"65536 columns", load, &format.Relation{ID: 1, Name: "t", Columns: many}},
		{"ddl without section", load, &format.DDL{SQL: "x"}},
		{"ddl after 65536", load, &format.DDL{Section: format.PostData, After: make([]uint64, 1<<16)}},
		{"copy-begin without format", load, &format.CopyBegin{Part: 1, Relation: 1, Index: 1, Of: 1}},
		{"copy-begin without index", load, &format.CopyBegin{Part: 1, Relation: 1, Format: format.CopyText, Of: 1}},
		{"copy-begin of 65536 columns", load, &format.CopyBegin{Part: 1, Relation: 1, Format: format.CopyText,
			Index: 1, Of: 1, Columns: make([]string, 1<<16)}},
		{"sequence without name", load, &format.Sequence{}},
		{"end without reason", load, &format.End{Frames: 2}},
		{"value of no kind", tx, &format.Insert{Relation: 1, New: format.Tuple{{Kind: 9}, null}}},
		{"unchanged in insert", tx, &format.Insert{Relation: 1, New: format.Tuple{null, unchanged}}},
		{"unchanged in old", tx, &format.Update{Relation: 1, Old: format.Tuple{null, unchanged}, New: format.Tuple{null, null}}},
		{"unchanged in delete", tx, &format.Delete{Relation: 1, Old: format.Tuple{null, unchanged}}},
		{"truncate of 65536", tx, &format.Truncate{Relations: bytes32(1<<16, 1)}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			w := format.NewWriter(&out)
			for _, rec := range test.before {
				must(t, w.Write(rec))
			}
			must(t, w.Flush())
			n := out.Len()
			err := w.Write(test.rec)
			if err == nil {
				t.Fatal("not refused")
			}
			if again := w.Write(test.rec); again != err {
				t.Errorf("then %v, first %v", again, err)
			}
			if w.Flush() != err || w.Close() != err || out.Len() != n {
				t.Errorf("something was written after %v", err)
			}
		})
	}
}

func bytes32(n int, v uint32) []uint32 {
	s := make([]uint32, n)
	for i := range s {
		s[i] = v
	}
	return s
}

// Writer keeps nothing of what it is given, so the caller may reuse its buffers at once.
func TestWriterKeepsNothing(t *testing.T) {
	for name, recs := range map[string][]format.Record{"load": loadStream(), "changes": changeStream(), "chunks": chunkStream()} {
		t.Run(name, func(t *testing.T) {
			want := write(t, recs...)
			var out bytes.Buffer
			w := format.NewWriter(&out)
			for _, rec := range clones(recs) {
				must(t, w.Write(rec))
				scribble(rec)
			}
			must(t, w.Close())
			if !bytes.Equal(out.Bytes(), want) {
				t.Error("the stream changed after Write had returned")
			}
		})
	}
}

// chunkStream has chunks on both sides of the sizes that Writer treats differently: 64 KiB, 1 MiB.
func chunkStream() []format.Record {
	recs := []format.Record{loadHeader(), relationT(), copyBegin(1)}
	total := 0
	for _, n := range []int{0, 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 256 << 10, 1<<20 - 32, 1<<20 - 31, 1<<20 - 8, 1<<20 - 7, 5, 1<<20 + 1} {
		recs = append(recs, &format.CopyData{Part: 1, Data: bytes.Repeat([]byte{'x'}, n)})
		total += n
	}
	recs = append(recs, &format.CopyEnd{Part: 1, Bytes: uint64(total)})
	// two are in two pieces
	return append(recs, &format.End{Reason: format.Complete, Frames: uint64(len(recs)) + 2})
}

// An io.Writer that takes less than it is given must say why. One that does not is caught.
func TestWriterShortWrite(t *testing.T) {
	w := format.NewWriter(shortWriter{})
	must(t, w.Write(changeHeader()))
	if err := w.Flush(); err != io.ErrShortWrite {
		t.Errorf("got %v", err)
	}
	if err := w.Write(relationT()); err != io.ErrShortWrite {
		t.Errorf("then %v", err)
	}
}

type shortWriter struct{}

func (shortWriter) Write(p []byte) (int, error) { return len(p) - 1, nil }

// An error of the underlying writer, whichever write it meets, is returned by the call that made
// it, and by all that follow.
func TestWriterError(t *testing.T) {
	recs := chunkStream()
	var all fullDisk
	for w, i := format.NewWriter(&all), 0; i < len(recs); i++ {
		all.left = -1
		must(t, w.Write(recs[i]))
	}
	for n := range all.writes {
		w := format.NewWriter(&fullDisk{left: n})
		var first error
		for _, rec := range recs {
			err := w.Write(rec)
			if first != nil && err != first {
				t.Fatalf("write %d: %v after %v", n, err, first)
			}
			first = err
		}
		if err := w.Flush(); !errors.Is(err, errFull) {
			t.Fatalf("write %d: flush says %v", n, err)
		}
		if err := w.Close(); !errors.Is(err, errFull) {
			t.Fatalf("write %d: close says %v", n, err)
		}
		if _, err := w.End(format.Stopped, 0); !errors.Is(err, errFull) {
			t.Fatalf("write %d: end says %v", n, err)
		}
	}
}

var errFull = errors.New("no space left")

// fullDisk takes some writes.
type fullDisk struct{ left, writes int }

func (d *fullDisk) Write(p []byte) (int, error) {
	if d.writes == d.left {
		return len(p) / 2, errFull
	}
	d.writes++
	return len(p), nil
}

// Only what a reader may skip can be forwarded unread, and nothing that would get round the checks
// on a kind that is known.
func TestWriterUnknown(t *testing.T) {
	for k := range 256 {
		w := format.NewWriter(io.Discard)
		must(t, w.Write(changeHeader()))
		err := w.Write(&format.Unknown{K: format.Kind(k), Body: []byte{0xc0}})
		if (err == nil) != (k > 64 && k < 128 && k != 66) {
			t.Errorf("kind %d: %v", k, err)
		}
	}
}

func TestWriterClose(t *testing.T) {
	tests := []struct {
		name string
		recs []format.Record
		ok   bool
	}{
		{"nothing", nil, false},
		{"no end", []format.Record{changeHeader()}, false},
		{"an end", []format.Record{changeHeader(), &format.End{Reason: format.Complete, Frames: 1}}, true},
		{"a second stream without end", []format.Record{changeHeader(),
			&format.End{Reason: format.Complete, Frames: 1}, changeHeader()}, false},
	}
	for _, test := range tests {
		w := format.NewWriter(io.Discard)
		for _, rec := range test.recs {
			must(t, w.Write(rec))
		}
		if err := w.Close(); (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestWriterHeader(t *testing.T) {
	h := &format.Header{Magic: "x", Version: 9, Minor: 9, StreamKind: format.Repair}
	write(t, h)
	if h.Magic != "pgsluice" || h.Version != format.Version || h.Minor != format.Minor {
		t.Errorf("header is %+v", h)
	}
}

func TestWriterState(t *testing.T) {
	var out bytes.Buffer
	w := format.NewWriter(&out)
	type state struct {
		tx       bool
		lsn      format.LSN
		txs, chg uint64
	}
	steps := []struct {
		rec  format.Record
		want state
	}{
		{changeHeader(), state{lsn: 100}},
		{relationT(), state{lsn: 100}},
		{&format.Begin{XID: 1}, state{tx: true, lsn: 100}},
		{&format.Insert{Relation: 1, New: row("1", "2")}, state{tx: true, lsn: 100, chg: 1}},
		{&format.Truncate{Relations: []uint32{1}}, state{tx: true, lsn: 100, chg: 2}},
		{&format.Commit{EndLSN: 200}, state{lsn: 200, txs: 1, chg: 2}},
		{&format.StreamStart{XID: 1, First: true}, state{tx: true, lsn: 200, txs: 1, chg: 2}},
		{&format.StreamStop{}, state{lsn: 200, txs: 1, chg: 2}},
		{&format.StreamCommit{XID: 1, EndLSN: 300}, state{lsn: 300, txs: 2, chg: 2}},
		{&format.Progress{LSN: 400}, state{lsn: 400, txs: 2, chg: 2}},
	}
	for i, step := range steps {
		must(t, w.Write(step.rec))
		e := w.Totals()
		if got := (state{w.InTransaction(), e.LSN, e.Transactions, e.Changes}); got != step.want || e.Frames != uint64(i+1) {
			t.Errorf("after record %d: %+v with %d frames, want %+v", i, got, e.Frames, step.want)
		}
	}
	size := len(write(t, changeHeader(), relationT()))
	if w.N() != 0 || w.Buffered() <= size || out.Len() != 0 {
		t.Errorf("%d bytes written, %d buffered", w.N(), w.Buffered())
	}
	buffered := w.Buffered()
	must(t, w.Flush())
	if w.N() != int64(buffered) || w.Buffered() != 0 || out.Len() != buffered {
		t.Errorf("%d bytes written, %d buffered after Flush", w.N(), w.Buffered())
	}
	e, err := w.End(format.Stopped, 350)
	must(t, err)
	want := format.End{Reason: format.Stopped, Frames: 10, Transactions: 2, Changes: 2, LSN: 400}
	if e != want || w.Buffered() != 0 {
		t.Errorf("end is %+v, want %+v", e, want)
	}
	must(t, w.Close())
	recs, err := readBytes(out.Bytes())
	must(t, err)
	same(t, recs[10:], []format.Record{&want})
}

// End takes the caller's position where the records have not come so far, and counts rows and bytes
// of finished parts.
func TestWriterEnd(t *testing.T) {
	w := format.NewWriter(io.Discard)
	for _, rec := range []format.Record{loadHeader(), relationT(), copyBegin(1), copyBegin(2),
		&format.CopyData{Part: 1, Rows: 2, Data: []byte("1\n2\n")},
		&format.CopyEnd{Part: 1, Rows: 2, Bytes: 4}, &format.CopyEnd{Part: 2}} {
		must(t, w.Write(rec))
	}
	e, err := w.End(format.Complete, 500)
	must(t, err)
	if want := (format.End{Reason: format.Complete, Frames: 7, Rows: 2, Bytes: 4, LSN: 500}); e != want {
		t.Errorf("got %+v, want %+v", e, want)
	}
	w = format.NewWriter(io.Discard)
	if e, err := w.End(format.Complete, 1); err == nil || e != (format.End{}) {
		t.Errorf("an end without a header: %+v, %v", e, err)
	}
}

// The order of keys in a map must not change from run to run, for streams are compared byte by
// byte.
func TestWriterIsDeterministic(t *testing.T) {
	for _, recs := range [][]format.Record{loadStream(), changeStream()} {
		if fmt.Sprintf("%x", write(t, recs...)) != fmt.Sprintf("%x", write(t, clones(recs)...)) {
			t.Error("two streams of the same records differ")
		}
	}
}
