package format_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/pgsluice/pgsluice/format"
)

// bigValue has n bytes that differ from place to place.
func bigValue(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>16 ^ i>>8 ^ i)
	}
	return b
}

// What a Writer makes of a long record is the same bytes wherever the large values stand, and
// however large they are; and it copies none of it.
func TestWriterDoesNotCopyLongRecords_H11(t *testing.T) {
	slow(t)
	const mib = 1 << 20
	for _, sizes := range [][]int{{mib - 20, 1}, {mib, 0}, {mib + 1, 5000}, {4095, mib, 4096},
		{3 * mib, 3 * mib}, {20 * mib, 1, 17, 2*mib - 1}, {5000, 5000, 8 * mib, 5000}} {
		var tuple format.Tuple
		var columns []format.Column
		body := []byte{0x92, 1, 0x90 | byte(len(sizes))}
		for i, n := range sizes {
			v := format.Value{Kind: format.Binary, Data: bigValue(n)}
			tuple = append(tuple, v)
			columns = append(columns, format.Column{Name: strings.Repeat("c", i+1)})
			body = append(body, pack(v.Data)...)
		}
		head := []format.Record{changeHeader(), &format.Relation{ID: 1, Name: "t", Columns: columns}, &format.Begin{XID: 1, CommitLSN: 200}}
		before := write(t, head...)
		var out bytes.Buffer
		out.Grow(len(before) + len(body) + mib)
		w := format.NewWriter(&out)
		for _, rec := range head {
			must(t, w.Write(rec))
		}
		n := allocated(func() { must(t, w.Write(&format.Insert{Relation: 1, New: tuple})) })
		if n > 4*mib {
			t.Errorf("%v: %d bytes allocated", sizes, n)
		}
		must(t, w.Flush())
		want := before
		for len(body) > mib {
			want = append(want, frame(format.KindContinued, body[:mib])...)
			body = body[mib:]
		}
		want = append(want, frame(format.KindInsert, body)...)
		if !bytes.Equal(out.Bytes(), want) {
			t.Errorf("%v: not the bytes of the record", sizes)
		}
	}
}

// fromReader are records whose data can come from a reader, and the records before them.
func fromReader(data []byte) map[string][]format.Record {
	return map[string][]format.Record{
		"copy-data":    {loadHeader(), relationT(), copyBegin(1), &format.CopyData{Part: 1, Rows: 1, Data: data}},
		"large-object": {loadHeader(), &format.LargeObject{OID: 7, Offset: 11, Data: data}},
		"message":      {changeHeader(), &format.Message{LSN: 5, Prefix: []byte("p"), Content: data}},
		"message in a block": {changeHeader(), &format.StreamStart{XID: 3, First: true},
			&format.Message{Transactional: true, LSN: 5, Prefix: bytes.Repeat([]byte("p"), 5000), Content: data, XID: 4}},
	}
}

// without returns a record without its data.
func without(rec format.Record) format.Record {
	switch r := clone(rec).(type) {
	case *format.CopyData:
		r.Data = nil
		return r
	case *format.LargeObject:
		r.Data = nil
		return r
	case *format.Message:
		r.Content = nil
		return r
	}
	panic(rec.Kind())
}

// A record whose data comes from a reader is the same record, and takes no more memory than a
// frame.
func TestWriteFrom_H11(t *testing.T) {
	slow(t)
	for _, n := range []int{0, 1, 4095, 70_000, 1<<20 - 6, 1 << 20, 3 << 20, 10<<20 + 1} {
		data := bigValue(n)
		for name, recs := range fromReader(data) {
			last := len(recs) - 1
			var out bytes.Buffer
			out.Grow(2 * (n + 1<<20))
			w := format.NewWriter(&out)
			for _, rec := range recs[:last] {
				must(t, w.Write(rec))
			}
			rec := without(recs[last])
			in := iotest.HalfReader(bytes.NewReader(append(bytes.Clone(data), "not this"...)))
			got := allocated(func() { must(t, w.WriteFrom(rec, n, in)) })
			if got > 2<<20 {
				t.Errorf("%s, %d bytes: %d bytes allocated", name, n, got)
			}
			must(t, w.Write(&format.Unknown{K: 99, Body: []byte("next")}))
			must(t, w.Flush())
			read, err := readBytes(out.Bytes())
			if !errors.Is(err, format.ErrTruncated) {
				t.Fatalf("%s, %d bytes: %v", name, n, err)
			}
			same(t, read, append(recs, &format.Unknown{K: 99, Body: []byte("next")}))
		}
	}
	w := format.NewWriter(io.Discard)
	for _, rec := range []format.Record{changeHeader(), relationT(), &format.Begin{XID: 1, CommitLSN: 200}} {
		must(t, w.Write(rec))
	}
	if err := w.WriteFrom(&format.Insert{Relation: 1, New: row("1", "2")}, 1, strings.NewReader("x")); err == nil {
		t.Error("an insert has no data of its own")
	}
}

// When the data of a record breaks off, a header is all that may follow, and a Reader takes the
// record for torn.
func TestWriteFromBreaksOff_H11(t *testing.T) {
	for name, recs := range fromReader(nil) {
		for _, n := range []int{0, 100, 1 << 20, 5 << 20} {
			var out bytes.Buffer
			w := format.NewWriter(&out)
			last := len(recs) - 1
			for _, rec := range recs[:last] {
				must(t, w.Write(rec))
			}
			broken := errors.New("broken")
			err := w.WriteFrom(recs[last], n+1, io.MultiReader(bytes.NewReader(bigValue(n)), iotest.ErrReader(broken)))
			if !errors.Is(err, broken) {
				t.Fatalf("%s: %v", name, err)
			}
			if !w.InTransaction() {
				t.Errorf("%s: the stream could end here", name)
			}
			again := format.NewWriter(&out) // a refusal breaks it
			*again = *w
			if err := again.Write(&format.Unknown{K: 99}); err == nil {
				t.Errorf("%s: a record may follow", name)
			}
			for _, rec := range recs[:1] {
				must(t, w.Write(rec))
			}
			e, err := w.End(format.Complete, 0)
			must(t, err)
			got, err := readBytes(out.Bytes())
			must(t, err)
			same(t, got, append(append(recs[:last:last], recs[0]), &e))
		}
	}
}

// lender is memory that LongRecords is given.
type lender struct {
	t      *testing.T
	lent   [][]byte
	freed  int
	asked  int
	latest []byte
}

func (l *lender) alloc(n int) []byte {
	l.asked = n
	l.latest = make([]byte, 64<<20) // as much as this test needs of what is asked for
	l.lent = append(l.lent, l.latest)
	return l.latest
}

func (l *lender) free(b []byte) {
	if len(b) != len(l.latest) || &b[0] != &l.latest[0] {
		l.t.Error("something else is given back")
	}
	for i := range b {
		b[i] = 0xdd // whoever looks at it now sees this
	}
	l.freed++
}

// Long records are kept in the memory that is lent for them, once, and only as long as they are
// valid.
func TestLongRecordsInLentMemory_H11(t *testing.T) {
	slow(t)
	const mib = 1 << 20
	recs := []format.Record{changeHeader(), relationT(), &format.Begin{XID: 1, CommitLSN: 200}}
	for _, n := range []int{10, 2 * mib, 5 * mib, 10, 30 * mib, 31 * mib, 3 * mib, 6 * mib} {
		recs = append(recs, &format.Insert{Relation: 1, New: format.Tuple{{Kind: format.Text, Data: bigValue(n)}, text("x")}})
	}
	b := write(t, append(recs, &format.Commit{CommitLSN: 200, EndLSN: 300})...)
	l := &lender{t: t}
	r := format.NewReader(bytes.NewReader(b))
	r.LongRecords(l.alloc, l.free)
	for i := range recs {
		var rec format.Record
		n := allocated(func() {
			var err error
			rec, err = r.Next()
			must(t, err)
		})
		if n > 64<<20+16*mib {
			t.Errorf("record %d: %d bytes allocated", i, n)
		}
		same(t, []format.Record{rec}, recs[i:i+1])
		if len(l.lent) > l.freed+1 {
			t.Errorf("record %d: %d lent, %d given back", i, len(l.lent), l.freed)
		}
	}
	if len(l.lent) != 4 || l.asked < 1<<30 {
		t.Errorf("%d times, %d bytes", len(l.lent), l.asked)
	}
	_, err := r.Next()
	must(t, err)
	if l.freed != 4 {
		t.Errorf("%d given back", l.freed)
	}
	// Where there is no such memory, any other does.
	r = format.NewReader(bytes.NewReader(b))
	r.LongRecords(func(int) []byte { return nil }, func([]byte) { t.Error("what was not lent is given back") })
	for i := range recs {
		rec, err := r.Next()
		must(t, err)
		same(t, []format.Record{rec}, recs[i:i+1])
	}
	// Nor does anything stay when a record breaks off.
	l = &lender{t: t}
	r = format.NewReader(bytes.NewReader(b[:len(b)-20]))
	r.LongRecords(l.alloc, l.free)
	for err = nil; err == nil; {
		_, err = r.Next()
	}
	if !errors.Is(err, format.ErrTruncated) || l.freed != len(l.lent) || l.freed == 0 {
		t.Errorf("%v; %d lent, %d given back", err, len(l.lent), l.freed)
	}
}

// The content of messages that nobody wants is dropped while it arrives, and what is around it is
// checked.
func TestDropMessages_H11(t *testing.T) {
	const mib = 1 << 20
	small := &format.Message{LSN: 1, Prefix: []byte("p"), Content: []byte("kept")}
	tuple := format.Tuple{{Kind: format.Text, Data: bigValue(3 * mib)}, text("x")}
	recs := []format.Record{changeHeader(), relationT(), small, &format.Message{LSN: 2, Prefix: []byte("pp"), Content: bigValue(40 * mib)},
		&format.Begin{XID: 1, CommitLSN: 200}, &format.Message{Transactional: true, LSN: 2,
			Prefix: []byte("pp"), Content: bigValue(2 * mib)},
		&format.Insert{Relation: 1, New: tuple}, &format.Commit{CommitLSN: 200, EndLSN: 300},
		&format.StreamStart{XID: 3, First: true},
		&format.Message{Transactional: true, LSN: 2, Prefix: []byte("pp"), Content: bigValue(2 * mib),
			XID: 7},
		&format.Insert{Relation: 1, New: row("1", "2"), XID: 8}, &format.StreamStop{},
		&format.StreamCommit{XID: 3, CommitLSN: 400, EndLSN: 500}}
	var out bytes.Buffer
	w := format.NewWriter(&out)
	for _, rec := range recs {
		must(t, w.Write(rec))
	}
	e, err := w.End(format.Complete, 0)
	must(t, err)
	r := format.NewReader(bytes.NewReader(out.Bytes()))
	r.DropMessages()
	for i, want := range append(recs, &e) {
		var rec format.Record
		n := allocated(func() {
			var err error
			rec, err = r.Next()
			must(t, err)
		})
		if m, ok := want.(*format.Message); ok && len(m.Content) > mib {
			want = without(m)
			if n > 8*mib {
				t.Errorf("record %d: %d bytes allocated", i, n)
			}
		}
		same(t, []format.Record{rec}, []format.Record{want})
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("got %v", err)
	}
	// A content that ends too early, bytes behind the end, a transaction that is not open, and a
	// header between the pieces.
	content := pack(bigValue(200))
	message := func(transactional bool, content []byte, more ...byte) []byte {
		b := append([]byte{0x94}, pack(transactional, 7, "p")...)
		b = append(append(b, content...), more...)
		return join(frame(format.KindContinued, b[:50]), frame(format.KindContinued, b[50:100]), frame(format.KindMessage, b[100:]))
	}
	for name, test := range map[string]struct {
		in   []byte
		want error
	}{
		"all there":     {message(false, content), format.ErrTruncated},
		"too short":     {message(false, content[:len(content)-1]), format.ErrCorrupt},
		"too long":      {message(false, content, 0), format.ErrCorrupt},
		"transactional": {message(true, content), format.ErrCorrupt},
		"another kind": {join(frame(format.KindContinued, content[:0]),
			frame(format.KindContinued, append([]byte{0x94}, append(pack(false, 7, "p"), content...)...)),
			frame(format.KindBegin, nil)), format.ErrCorrupt},
		"a header": {join(message(false, content)[:150], header("changes")), format.ErrCorrupt},
	} {
		r := format.NewReader(bytes.NewReader(join(header("changes"), test.in)))
		r.DropMessages()
		var err error
		for err == nil {
			_, err = r.Next()
		}
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	// One that is torn within its content, or between its pieces.
	whole := message(false, content)
	for n := 1; n < len(whole); n++ {
		r := format.NewReader(bytes.NewReader(join(header("changes"), whole[:n], header("changes"), end(1))))
		r.AcceptTorn()
		r.DropMessages()
		var kinds []format.Kind
		var err error
		for err == nil {
			var rec format.Record
			if rec, err = r.Next(); err == nil {
				kinds = append(kinds, rec.Kind())
			}
		}
		if err != io.EOF || len(kinds) != 3 {
			t.Errorf("torn after %d of %d bytes: %v, %v", n, len(whole), kinds, err)
		}
	}
}

// slow skips a test that needs much memory, unless scripts/test --full runs it.
func slow(t *testing.T) {
	t.Helper()
	if os.Getenv("PGSLUICE_TEST_FULL") == "" {
		t.Skip("scripts/test --full runs it")
	}
}
