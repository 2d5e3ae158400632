package format_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"testing"

	"github.com/pgsluice/pgsluice/format"
)

// The targets that fuzz streams as a whole; those of single decoders are in fuzz_internal_test.go.
// Seeds are the vectors. go test ./format -run '^$' -fuzz FuzzReader -fuzzminimizetime 10x

func addVectors(f *testing.F) {
	for _, v := range vectors(f) {
		if len(v.stream) < 100_000 { // the longer ones slow the fuzzer down
			f.Add(v.stream)
		}
	}
}

// FuzzReader reads anything.
func FuzzReader(f *testing.F) {
	addVectors(f)
	f.Fuzz(func(t *testing.T, in []byte) { checkStream(t, in) })
}

// FuzzRecords reads anything whose checksums are right, so that the fuzzer gets at what is behind
// them.
func FuzzRecords(f *testing.F) {
	addVectors(f)
	f.Fuzz(func(t *testing.T, in []byte) { checkStream(t, seal(bytes.Clone(in))) })
}

// seal puts right checksums into everything that looks like a frame.
func seal(b []byte) []byte {
	for rest := b; len(rest) > 9; {
		head, body := 9, int(rest[8])
		switch {
		case rest[7] == 0xc5 && len(rest) > 10:
			head, body = 10, int(binary.BigEndian.Uint16(rest[8:]))
		case rest[7] == 0xc6 && len(rest) > 12:
			head, body = 12, int(binary.BigEndian.Uint32(rest[8:]))
		}
		if len(rest) < head+body {
			break
		}
		crc := crc32.Update(crc32.Checksum(rest[1:2], crc32.MakeTable(crc32.Castagnoli)),
			crc32.MakeTable(crc32.Castagnoli), rest[head:head+body])
		binary.BigEndian.PutUint32(rest[3:], crc)
		rest = rest[head+body:]
	}
	return b
}

func checkStream(t *testing.T, in []byte) {
	var recs []format.Record
	var err error
	n := allocated(func() { recs, err = readAll(t, in) })
	if n > 4*fixedBuffers+500*uint64(len(in)) {
		// the clones that readAll makes are most of it: a record has up to 200 bytes and its frame
		// 9
		t.Errorf("%d bytes allocated for %d", n, len(in))
	}
	var where *format.Error
	if !errors.As(err, &where) && err != io.EOF {
		t.Fatalf("an error without a place: %v", err)
	}
	if len(recs) == 0 {
		return
	}
	// What was read can be written, and is read again.
	b := write(t, rewritable(recs)...)
	again, err := readAll(t, b)
	if !errors.Is(err, format.ErrTruncated) && err != io.EOF {
		t.Fatalf("what was written cannot be read: %v", err)
	}
	same(t, again, rewritable(recs))
	if !bytes.Equal(write(t, again...), b) {
		t.Error("it is written in another way then")
	}
}

// rewritable leaves out what Writer does not write as it was: end records, which count the frames
// that were there, and what follows them.
func rewritable(recs []format.Record) []format.Record {
	for i, rec := range recs {
		switch rec.(type) {
		case *format.End:
			return recs[:i]
		case *format.Header:
			if i > 0 { // a stream that was torn within its header may be followed by any other
				return recs[:i]
			}
		}
	}
	return recs
}

// readAll is read, with checks of what Reader says about itself.
func readAll(t *testing.T, in []byte) (recs []format.Record, err error) {
	r := format.NewReader(bytes.NewReader(in))
	for last := int64(0); ; {
		rec, err := r.Next()
		if err != nil {
			if _, again := r.Next(); again != err {
				t.Fatalf("%v, then %v", err, again)
			}
			return recs, err
		}
		if r.N() <= last || r.N()+int64(r.Buffered()) > int64(len(in)) || r.Header() == nil {
			t.Fatalf("at %d, with %d buffered, of %d after record %d", r.N(), r.Buffered(), len(in), len(recs))
		}
		last = r.N()
		recs = append(recs, clone(rec))
	}
}

// FuzzTear cuts a stream and lets another follow that continues it. All that may be lost is what
// the tear, or damage, has taken.
func FuzzTear(f *testing.F) {
	for i, v := range vectors(f) {
		if len(v.stream) < 10_000 {
			f.Add(v.stream, uint(i*37))
		}
	}
	next := changeStream()
	tail := write(f, next...)
	f.Fuzz(func(t *testing.T, in []byte, cut uint) {
		in = seal(bytes.Clone(in))
		in = in[:min(uint(len(in)), cut)]
		recs, err := readAll(t, in)
		both, err2 := readAll(t, join(in, tail))
		if len(both) < len(recs) {
			t.Fatalf("%d records, %d with a stream behind them", len(recs), len(both))
		}
		same(t, both[:len(recs)], recs)
		if err2 == io.EOF && !isPrefix(both[len(recs):], next) {
			t.Fatalf("%v, then %d records in place of %d", err, len(both)-len(recs), len(next))
		}
	})
}

// FuzzHeader reads headers, which hold for all versions.
func FuzzHeader(f *testing.F) {
	f.Add([]byte(object("magic", "pgsluice", "version", 1, "kind", "load", "load", object("part", 1, "parts", 2))))
	f.Add([]byte(object("magic", "pgsluice", "version", 2)))
	for _, v := range vectors(f) {
		if len(v.stream) > 10 && v.stream[1] == 1 && v.stream[7] == 0xc4 && len(v.stream) > 9+int(v.stream[8]) {
			f.Add(v.stream[9 : 9+int(v.stream[8])])
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > 1<<20 {
			return
		}
		recs, err := readAll(t, frame(format.KindHeader, body))
		var version *format.VersionError
		switch {
		case errors.As(err, &version):
			if version.Version == format.Version {
				t.Error("version 1 was refused")
			}
		case errors.Is(err, format.ErrNotStream), errors.Is(err, format.ErrCorrupt):
		case errors.Is(err, format.ErrTruncated):
			h := recs[0].(*format.Header)
			if h.Magic != "pgsluice" || h.Version != format.Version {
				t.Errorf("accepted %+v", h)
			}
			h.Minor = 0
			got, _ := readAll(t, write(t, h))
			same(t, got, []format.Record{h})
		default:
			t.Errorf("got %v", err)
		}
	})
}
