package format_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/pgsluice/pgsluice/format"
)

// eachStream runs f on a full load and on a change stream.
func eachStream(t *testing.T, f func(t *testing.T, recs []format.Record, b []byte)) {
	for name, recs := range map[string][]format.Record{"load": loadStream(), "changes": changeStream()} {
		t.Run(name, func(t *testing.T) { f(t, recs, write(t, recs...)) })
	}
}

// wholeFrames returns how many records of a stream (of no long records) end within its first n
// bytes.
func wholeFrames(b []byte, n int) (count int) {
	for len(b) > 0 {
		size := 9 + int(b[8])
		if b[7] == 0xc5 {
			size = 10 + int(b[8])<<8 + int(b[9])
		}
		if n -= size; n < 0 {
			return count
		}
		b = b[size:]
		count++
	}
	return count
}

func TestTruncatedAtEveryByte(t *testing.T) {
	eachStream(t, func(t *testing.T, recs []format.Record, b []byte) {
		for n := range len(b) {
			got, err := readBytes(b[:n])
			if !errors.Is(err, format.ErrTruncated) || errors.Is(err, format.ErrCorrupt) {
				t.Errorf("cut at %d: %v", n, err)
			}
			if errors.Is(err, format.ErrEmpty) != (n == 0) {
				t.Errorf("cut at %d: %v", n, err)
			}
			same(t, got, recs[:wholeFrames(b, n)])
		}
	})
}

// A stream that was cut anywhere may be followed by one that continues it.
func TestTornAtEveryByte(t *testing.T) {
	// What follows must not depend on its length: the torn frame's claim may end within the header
	// or long after it.
	for _, producer := range []string{"", string(make([]byte, 300))} {
		eachStream(t, func(t *testing.T, recs []format.Record, b []byte) {
			next := clones(recs)
			next[0].(*format.Header).Producer = producer
			tail := write(t, next...)
			for n := range len(b) + 1 {
				in := bytes.NewReader(join(b[:n], tail))
				readers := map[string]io.Reader{"whole": in}
				if producer == "" {
					readers["bytes"] = iotest.OneByteReader(in)
				}
				for name, reader := range readers {
					in.Seek(0, io.SeekStart)
					whole := wholeFrames(b, n)
					r := format.NewReader(reader)
					r.AcceptTorn()
					var got []format.Record
					for rec, err := r.Next(); err != io.EOF; rec, err = r.Next() {
						if err != nil {
							t.Fatalf("%s, cut at %d: %v", name, n, err)
						}
						got = append(got, clone(rec))
						torn := len(got) == whole+1 && n != 0 && n != len(b)
						if r.Torn() != torn {
							t.Fatalf("%s, cut at %d: record %d, Torn is %t", name, n, len(got)-1, r.Torn())
						}
					}
					same(t, got, append(recs[:whole:whole], next...))
				}
			}
		})
	}
}

func TestTornThenAnotherSource(t *testing.T) {
	others := map[string]func(h *format.Header){
		"system":   func(h *format.Header) { h.SystemID = "7302" },
		"database": func(h *format.Header) { h.Database = "shop2" },
		"slot":     func(h *format.Header) { h.Slot = "mig2" },
		"kind":     func(h *format.Header) { h.StreamKind, h.Load = format.Repair, nil },
	}
	for name, change := range others {
		t.Run(name, func(t *testing.T) {
			eachStream(t, func(t *testing.T, recs []format.Record, b []byte) {
				other := clone(recs[0]).(*format.Header)
				change(other)
				tail := join(write(t, other), end(1))
				first := 0 // where the first header ends; a stream torn within it has no source
				for wholeFrames(b, first) == 0 {
					first++
				}
				for n := first; n < len(b); n++ {
					got, err := readBytes(join(b[:n], tail))
					if !errors.Is(err, format.ErrCorrupt) && !errors.Is(err, format.ErrTruncated) {
						t.Fatalf("cut at %d: %v", n, err)
					}
					same(t, got, recs[:wholeFrames(b, n)])
				}
			})
		})
	}
}

// A header that is not valid does not continue anything. One that stands behind it may.
func TestTornThenInvalidHeader(t *testing.T) {
	next := changeStream()
	head := write(t, next[:2]...)
	torn := write(t, after(next[:2], &format.Message{Content: make([]byte, 200)})...)[:len(head)+50]
	invalid := frame(format.KindHeader, object("magic", "pgsluice", "version", 1, "kind", "what"))
	if _, err := readBytes(join(torn, invalid, make([]byte, 200))); !errors.Is(err, format.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
	got, err := readBytes(join(torn, invalid, write(t, next...)))
	must(t, err)
	same(t, got, after(next[:2], next...))
}

// A long record may be torn within or between its pieces.
func TestTornLongRecord(t *testing.T) {
	const size = 2<<20 + 100
	recs := []format.Record{changeHeader(), relationT(), &format.Begin{XID: 1},
		&format.Insert{Relation: 1, New: format.Tuple{{Kind: format.Text, Data: bytes.Repeat([]byte{'x'}, size)}, {}}}}
	b := write(t, recs...)
	start := len(write(t, recs[:3]...))
	piece := start + 12 + 1<<20
	next := changeStream()
	tail := write(t, next...)
	for _, n := range []int{start, start + 1, start + 11, start + 12, start + 13, start + 500, piece - 1,
		piece, piece + 1, piece + 12, piece + 500,
		2*piece - start - 1, 2*piece - start, 2*piece - start + 1, len(b) - 1} {
		got, err := readBytes(join(b[:n], tail))
		if err != nil {
			t.Errorf("cut at %d of %d: %v", n, len(b), err)
		}
		same(t, got, append(recs[:3:3], next...))
	}
}

// Damage must not be taken for a tear, although a stream follows that would continue a torn one.
func TestEveryBitOfConcatenated(t *testing.T) {
	recs := changeStream()
	b := write(t, recs...)
	for i := range len(b) * 8 {
		bad := join(b, b)
		bad[i/8] ^= 1 << (i % 8)
		got, err := readBytes(bad)
		if err == nil || err == io.EOF {
			t.Fatalf("byte %d, bit %d: not noticed", i/8, i%8)
		}
		same(t, got, recs[:wholeFrames(b, i/8)])
	}
}

// What a row holds must not be taken for a stream that follows, unless the row's own frame is
// broken.
func TestHeaderInsideOfData(t *testing.T) {
	b := write(t, ended(changeHeader(), &format.Message{Content: write(t, changeStream()...)})...)
	if got, err := readBytes(b); err != nil || len(got) != 3 {
		t.Fatalf("%d records, %v", len(got), err)
	}
	// A frame with a good checksum whose body is wrong is damage, not a tear.
	bad := join(header("changes"), frame(format.KindMessage, pack(array{false, 1, 2, write(t, changeStream()...)})))
	if got, err := readBytes(bad); !errors.Is(err, format.ErrCorrupt) || len(got) != 1 {
		t.Fatalf("%d records, %v", len(got), err)
	}
}

func TestEveryBit(t *testing.T) {
	eachStream(t, func(t *testing.T, recs []format.Record, b []byte) {
		for i := range len(b) * 8 {
			bad := bytes.Clone(b)
			bad[i/8] ^= 1 << (i % 8)
			got, err := readBytes(bad)
			if err == nil {
				t.Fatalf("byte %d, bit %d: not noticed", i/8, i%8)
			}
			same(t, got, recs[:wholeFrames(b, i/8)])
			var where *format.Error
			if !errors.As(err, &where) || where.Frame != uint64(len(got)) {
				t.Fatalf("byte %d, bit %d: %v after %d records", i/8, i%8, err, len(got))
			}
		}
	})
}

func TestGarbageAfterEnd(t *testing.T) {
	recs := changeStream()
	b := write(t, recs...)
	tests := []struct {
		name, garbage string
		want          error
	}{
		{"a newline", "\n", format.ErrCorrupt},
		{"a zero", "\x00", format.ErrCorrupt},
		{"text", "a longer text after the end", format.ErrCorrupt},
		{"the beginning of a frame", "\x93\x01\xce", format.ErrTruncated},
		{"a record", string(relation(1, 1)), format.ErrCorrupt},
		{"a second end", string(end(0)), format.ErrCorrupt},
		{"a piece", string(frame(format.KindContinued, []byte("x"))), format.ErrCorrupt},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := readBytes(join(b, []byte(test.garbage)))
			same(t, got, recs)
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			var where *format.Error
			if !errors.As(err, &where) || where.Offset != int64(len(b)) {
				t.Errorf("%v does not say byte %d", err, len(b))
			}
		})
	}
}
