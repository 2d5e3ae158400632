package format_test

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/format"
)

// fixedBuffers is what Reader may allocate for any input: its buffer twice (it starts with a small
// one), and little things.
const fixedBuffers = 1<<20 + 512<<10

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Whatever lengths a stream announces, memory must be bounded by what is there.
func TestMemoryIsBounded(t *testing.T) {
	const mib = 1 << 20
	head := join(header("changes"), relation(1, 2), frame(format.KindBegin, pack(array{1, 1, 1})))
	load := header("load")
	in := func(k format.Kind, body string) []byte { return join(head, frame(k, []byte(body))) }
	tests := []struct {
		name string
		in   []byte
		want error
	}{
		{"a frame of 4 GiB", join(head, []byte("\x93\x0d\xce\x00\x00\x00\x00\xc6\xff\xff\xff\xff and a few bytes")), format.ErrTooLarge},
		{"a frame of 1 MiB and a byte", join(head,
			[]byte("\x93\x0d\xce\x00\x00\x00\x00\xc6\x00\x10\x00\x01 and a few bytes")), format.ErrTooLarge},
		{"a frame of 1 MiB", join(head, []byte("\x93\x0d\xce\x00\x00\x00\x00\xc6\x00\x10\x00\x00 and a few bytes")), format.ErrTruncated},
		{"a header of 4 GiB", []byte("\x93\x01\xce\x00\x00\x00\x00\xc6\xff\xff\xff\xff and a few bytes"), format.ErrNotStream},
		{"a second header of 1 MiB",
			join(head, []byte("\x93\x01\xce\x00\x00\x00\x00\xc6\x00\x10\x00\x00 and a few bytes")),
			format.ErrTooLarge},
		{"an array of 4 Gi in a body", in(format.KindInsert, "\xdd\xff\xff\xff\xff\x01\x90"), format.ErrCorrupt},
		{"a tuple of 4 Gi", in(format.KindInsert, "\x92\x01\xdd\xff\xff\xff\xff\xc0"), format.ErrCorrupt},
		{"a tuple of 1 Mi", in(format.KindInsert, "\x92\x01\xdd\x00\x0f\xff\xf0"+strings.Repeat("\xc0", 1<<20-16)), format.ErrCorrupt},
		{"a str of 4 GiB", in(format.KindInsert, "\x92\x01\x91\xdb\xff\xff\xff\xffabc"), format.ErrCorrupt},
		{"a bin of 4 GiB", in(format.KindInsert, "\x92\x01\x91\xc6\xff\xff\xff\xffabc"), format.ErrCorrupt},
		{"an ext of 4 GiB", in(format.KindInsert, "\x92\x01\x91\xc9\xff\xff\xff\xff\x02abc"), format.ErrCorrupt},
		{"a truncate of 4 Gi", in(format.KindTruncate, "\x92\xdd\xff\xff\xff\xff\x01\x00"), format.ErrCorrupt},
		{"a truncate of 1 Mi", in(format.KindTruncate, "\x92\xdd\x00\x0f\xff\xf0"+strings.Repeat("\x01", 1<<20-10)), format.ErrCorrupt},
		{"an unknown element of 4 GiB", in(format.KindInsert, "\x94\x01\x92\xc0\xc0\x00\xdb\xff\xff\xff\xffabc"), format.ErrCorrupt},
		{"a map of 4 Gi", in(format.KindRelation, "\xdf\xff\xff\xff\xff\xa2id\x01"), format.ErrCorrupt},
		{"a map of 2 Gi", in(format.KindRelation, "\xdf\x80\x00\x00\x00\xa2id\x01"), format.ErrCorrupt},
		{"a key of 4 GiB", in(format.KindRelation, "\x81\xdb\xff\xff\xff\xffid"), format.ErrCorrupt},
		{"a name of 4 GiB", in(format.KindRelation, "\x81\xa4name\xdb\xff\xff\xff\xffid"), format.ErrCorrupt},
		{"columns of 4 Gi", in(format.KindRelation, "\x81\xa7columns\xdd\xff\xff\xff\xff\x80"), format.ErrCorrupt},
		{"columns of 1 Mi", in(format.KindRelation,
			"\x81\xa7columns\xdd\x00\x0f\xff\x00"+strings.Repeat("\x80", 1<<20-256)), format.ErrCorrupt},
		{"an unknown key's array of 4 Gi", in(format.KindRelation, "\x81\xa1x\xdd\xff\xff\xff\xff\x80"), format.ErrCorrupt},
		{"nested arrays", in(format.KindRelation, "\x81\xa1x"+strings.Repeat("\x91", mib-4)+"\x90"), format.ErrCorrupt},
		{"nested arrays in an element", in(format.KindCommit, "\x94\x01\x02\x03"+strings.Repeat("\x91", mib-5)+"\x90"), format.ErrCorrupt},
		{"pieces that do not arrive", join(load, frame(format.KindContinued, make([]byte, 100)),
			[]byte("\x93\x03\xce\x00\x00\x00\x00\xc6\x00\x10\x00\x00 and a few bytes")), format.ErrTruncated},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var err error
			n := allocated(func() { err = drain(bytes.NewReader(test.in)) })
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if n > fixedBuffers+8*uint64(min(len(test.in), mib)) {
				t.Errorf("%d bytes allocated for %d bytes of input", n, len(test.in))
			}
		})
	}
}

// drain reads a stream without keeping anything.
func drain(in io.Reader) error {
	r := format.NewReader(in)
	r.AcceptTorn()
	for {
		if _, err := r.Next(); err != nil {
			return err
		}
	}
}

// 30 million arrays in one another, in a body of many pieces, must neither overflow the stack nor
// cost more than their length.
func TestHostileNesting(t *testing.T) {
	const depth = 30_000_000
	for name, test := range map[string]struct {
		kind format.Kind
		open string
	}{
		"in a map":         {format.KindRelation, "\x81\xa1x"},
		"in a known field": {format.KindRelation, "\x81\xa7columns"},
		"in an array":      {format.KindInsert, "\x94\x01\x92\xc0\xc0\x00"},
		"as the body":      {format.KindDDL, ""},
	} {
		t.Run(name, func(t *testing.T) {
			piece := frame(format.KindContinued, bytes.Repeat([]byte{0x91}, 1<<20))
			parts := []io.Reader{bytes.NewReader(join(header("changes"), relation(1, 2), frame(format.KindContinued, []byte(test.open))))}
			for range depth >> 20 {
				parts = append(parts, bytes.NewReader(piece))
			}
			parts = append(parts, bytes.NewReader(frame(test.kind, []byte{0x90})))
			var err error
			n := allocated(func() { err = drain(io.MultiReader(parts...)) })
			if !errors.Is(err, format.ErrCorrupt) {
				t.Errorf("got %v", err)
			}
			if n > 8*depth {
				t.Errorf("%d bytes allocated", n)
			}
		})
	}
}

// The limit of a record is checked as pieces arrive, and before the piece that exceeds it is kept.
func TestRecordLimit(t *testing.T) {
	piece := frame(format.KindContinued, bytes.Repeat([]byte("x"), 100))
	for _, test := range []struct {
		name  string
		in    []byte
		limit int
		want  error
	}{
		{"just under", join(piece, piece, frame(99, []byte("12345"))), 205, format.ErrTruncated},
		{"past it with the last piece", join(piece, piece, frame(99, []byte("12345"))), 204, format.ErrTooLarge},
		{"past it before the last piece", join(piece, piece, piece), 204, format.ErrTooLarge},
	} {
		r := format.NewReader(bytes.NewReader(join(header("load"), test.in)))
		r.SetLimit(test.limit)
		var err error
		for err == nil {
			_, err = r.Next()
		}
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}

// Relations, parts and transactions in progress are remembered by a few bytes each, not by their
// records.
func TestMemoryOfManyRelations(t *testing.T) {
	const n = 10_000
	var in bytes.Buffer
	in.Write(header("changes"))
	for i := range n {
		in.Write(frame(format.KindRelation, object("id", i+1, "name", strings.Repeat("n", 200))))
	}
	r := format.NewReader(&in)
	r.AcceptTorn()
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range n + 1 {
		_, err := r.Next()
		must(t, err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 100*n {
		t.Errorf("%d bytes are kept for %d relations", grown, n)
	}
	runtime.KeepAlive(r)
}
