package format_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"
	"time"

	"github.com/pgsluice/pgsluice/format"
)

// A poisonReader uses the whole of the caller's buffer as scratch space, which io.Reader allows.
type poisonReader struct{ r io.Reader }

func (p poisonReader) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 0xee
	}
	return p.r.Read(b[:min(len(b), 7)])
}

// Records must not depend on how the input is cut.
func TestReaderOfEveryPace(t *testing.T) {
	paces := map[string]func(io.Reader) io.Reader{
		"one byte":          iotest.OneByteReader,
		"half":              iotest.HalfReader,
		"data with the end": iotest.DataErrReader,
		"poison":            func(r io.Reader) io.Reader { return poisonReader{r} },
	}
	for name, pace := range paces {
		t.Run(name, func(t *testing.T) {
			eachStream(t, func(t *testing.T, recs []format.Record, b []byte) {
				got, err := read(pace(bytes.NewReader(b)))
				must(t, err)
				same(t, got, recs)
			})
		})
	}
}

// A complete frame must be returned although nothing follows it, for a stream may stand still for
// hours.
func TestReaderDoesNotWait(t *testing.T) {
	in, out := io.Pipe()
	r := format.NewReader(in)
	r.AcceptTorn()
	// The second is the smallest frame that there is among those that we know.
	for _, b := range [][]byte{header("changes"), frame(format.KindStreamStart, pack(array{1, true})),
		frame(format.KindStreamStop, pack(array{}))} {
		go out.Write(b)
		done := make(chan error, 1)
		go func() {
			_, err := r.Next()
			done <- err
		}()
		select {
		case err := <-done:
			must(t, err)
		case <-time.After(10 * time.Second):
			t.Fatalf("Next still waits after %x", b)
		}
	}
}

var errCable = errors.New("cable cut")

// What was read together with an error comes first, and the error is passed on.
func TestReaderInputError(t *testing.T) {
	recs := changeStream()
	b := write(t, recs...)
	for n := range len(b) {
		for name, in := range map[string]io.Reader{
			"after": io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(errCable)),
			"with":  &dataThenError{b[:n], errCable},
		} {
			got, err := read(in)
			if !errors.Is(err, errCable) || errors.Is(err, format.ErrTruncated) {
				t.Fatalf("%s byte %d: %v", name, n, err)
			}
			same(t, got, recs[:wholeFrames(b, n)])
		}
	}
}

// dataThenError returns the last bytes together with the error.
type dataThenError struct {
	b   []byte
	err error
}

func (d *dataThenError) Read(p []byte) (int, error) {
	n := copy(p, d.b)
	d.b = d.b[n:]
	if len(d.b) == 0 {
		return n, d.err
	}
	return n, nil
}

// A reader that returns nothing now and then is legal, one that never returns anything is not
// waited for.
func TestReaderOfNothing(t *testing.T) {
	recs := changeStream()
	got, err := read(&stutter{bytes.NewReader(write(t, recs...)), 0, 50})
	must(t, err)
	same(t, got, recs)
	if _, err := read(&stutter{bytes.NewReader(nil), 0, 1 << 30}); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("got %v", err)
	}
}

type stutter struct {
	r        io.Reader
	n, every int
}

func (s *stutter) Read(p []byte) (int, error) {
	if s.n++; s.n%s.every != 0 {
		return 0, nil
	}
	return s.r.Read(p[:min(len(p), 5)])
}

func TestReaderStaysBroken(t *testing.T) {
	r := format.NewReader(bytes.NewReader(join(header("changes"), []byte("garbage that is long enough"), end(2))))
	_, err := r.Next()
	must(t, err)
	_, first := r.Next()
	for range 3 {
		if rec, err := r.Next(); rec != nil || err != first || err == nil {
			t.Fatalf("got %v, %v, after %v", rec, err, first)
		}
	}
	r = format.NewReader(bytes.NewReader(join(header("changes"), end(1))))
	for range 2 {
		_, err := r.Next()
		must(t, err)
	}
	for range 3 {
		if rec, err := r.Next(); rec != nil || err != io.EOF {
			t.Fatalf("after the end: %v, %v", rec, err)
		}
	}
}

// What Next returns is the caller's until the next call.
func TestRecordsMayBeOverwritten(t *testing.T) {
	eachStream(t, func(t *testing.T, recs []format.Record, b []byte) {
		r := format.NewReader(iotest.HalfReader(bytes.NewReader(b)))
		for i := range recs {
			rec, err := r.Next()
			must(t, err)
			same(t, []format.Record{rec}, recs[i:i+1])
			scribble(rec) // a filter may do this, and it must not disturb what comes after
		}
	})
}

// scribble overwrites the bytes that a record points to.
func scribble(rec format.Record) {
	fill := func(b []byte) {
		for i := range b {
			b[i] = 0xdd
		}
	}
	tuple := func(t format.Tuple) {
		for i := range t {
			fill(t[i].Data)
			t[i].Kind = format.RawText
		}
	}
	switch r := rec.(type) {
	case *format.Insert:
		tuple(r.New)
	case *format.Update:
		tuple(r.Old)
		tuple(r.New)
	case *format.Delete:
		tuple(r.Old)
	case *format.CopyData:
		fill(r.Data)
	case *format.LargeObject:
		fill(r.Data)
	case *format.Message:
		fill(r.Prefix)
		fill(r.Content)
	case *format.Unknown:
		fill(r.Body)
	}
}

func TestReaderState(t *testing.T) {
	recs := changeStream()
	b := write(t, recs...)
	r := format.NewReader(bytes.NewReader(b))
	if r.Header() != nil || r.Position() != 0 || r.N() != 0 || r.Buffered() != 0 {
		t.Error("a new Reader is not empty")
	}
	var positions []format.LSN
	for i := range recs {
		rec, err := r.Next()
		must(t, err)
		if r.Header() == nil || r.Header().Slot != "mig" {
			t.Fatalf("header is %+v", r.Header())
		}
		if rec.Kind() != format.KindEnd && r.Totals().Frames != uint64(i+1) {
			t.Fatalf("%d frames after record %d", r.Totals().Frames, i)
		}
		if p := r.Position(); len(positions) == 0 || positions[len(positions)-1] != p {
			positions = append(positions, p)
		}
		if want := len(write(t, recs[:i+1]...)); r.N() != int64(want) || r.Buffered() != len(b)-want {
			t.Fatalf("N %d, buffered %d after %d of %d bytes", r.N(), r.Buffered(), want, len(b))
		}
	}
	if got, want := fmt.Sprint(positions), "[0/64 0/D2 0/DC 0/F0 0/118]"; got != want {
		t.Errorf("positions %v, want %v", got, want)
	}
	e := r.Totals()
	if e.Transactions != 3 || e.Changes != 9 {
		t.Errorf("totals %+v", e)
	}
}

// What is not a stream, what is one of another version, and what is a damaged one are different
// errors.
func TestReaderFirstFrame(t *testing.T) {
	long := object("magic", "pgsluice", "version", 1, "kind", "load", "producer", string(bytes.Repeat([]byte{'x'}, 1<<16)))
	ok := object("magic", "pgsluice", "version", 1, "kind", "load")
	damaged := frame(format.KindHeader, ok)
	damaged[len(damaged)-1] ^= 1
	tests := []struct {
		name string
		in   []byte
		want error
	}{
		{"nothing", nil, format.ErrEmpty},
		{"a byte", []byte{0x93}, format.ErrTruncated},
		{"another byte", []byte{0x92}, format.ErrNotStream},
		{"a newline", []byte("\n"), format.ErrNotStream},
		{"text", []byte("--\n-- PostgreSQL database dump\n--\n"), format.ErrNotStream},
		{"JPEG", []byte("\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"), format.ErrNotStream},
		{"gzip", []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x4b\x4c\x4a\x06\x00"), format.ErrNotStream},
		{"pg_dump", []byte("PGDMP\x01\x0e\x00\x04\x08\x01\x01\x01\x00\x00\x00\x00"), format.ErrNotStream},
		{"zeros", make([]byte, 100), format.ErrNotStream},
		{"another frame first", join(relation(1, 1), header("load")), format.ErrNotStream},
		{"a continued frame first", join(frame(format.KindContinued, ok), header("load")), format.ErrNotStream},
		{"an unknown frame first", join(frame(50, ok), header("load")), format.ErrNotStream},
		{"kind 0", join(frame(0, ok), header("load")), format.ErrNotStream},
		{"kind 128", join(frame(128, ok), header("load")), format.ErrNotStream},
		{"an empty header", frame(format.KindHeader, nil), format.ErrNotStream},
		{"an array", frame(format.KindHeader, pack(array{"magic", "pgsluice", "version", 1})), format.ErrNotStream},
		{"an array with a map's fields", frame(format.KindHeader, append([]byte{0x96}, ok[1:]...)), format.ErrNotStream},
		{"magic second", frame(format.KindHeader, object("version", 1, "magic", "pgsluice", "kind", "load")), format.ErrNotStream},
		{"other magic", frame(format.KindHeader, object("magic", "pgsluicf", "version", 1, "kind", "load")), format.ErrNotStream},
		{"64 KiB", frame(format.KindHeader, long), format.ErrNotStream},
		{"version third", frame(format.KindHeader, object("magic", "pgsluice", "kind", "load", "version", 1)), format.ErrCorrupt},
		{"version is a str", frame(format.KindHeader, object("magic", "pgsluice", "version", "1", "kind", "load")), format.ErrCorrupt},
		{"version is cut", frame(format.KindHeader, ok[:16]), format.ErrCorrupt},
		{"a wrong checksum", damaged, format.ErrCorrupt},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			recs, err := readBytes(test.in)
			if !errors.Is(err, test.want) || len(recs) != 0 {
				t.Errorf("got %d records, %v; want %v", len(recs), err, test.want)
			}
			if test.want == format.ErrNotStream && (errors.Is(err, format.ErrCorrupt) || errors.Is(err, format.ErrTruncated)) {
				t.Errorf("%v is more than that", err)
			}
		})
	}
}

func TestReaderVersion(t *testing.T) {
	for _, version := range []uint64{0, 2, 1 << 40} {
		// A later version may have another header after these keys, and another checksum.
		b := frame(format.KindHeader, object("magic", "pgsluice", "version", version, "x", nested(20)))
		b[3]++
		_, err := readBytes(join(b, end(1)))
		var v *format.VersionError
		if !errors.As(err, &v) || v.Version != version || errors.Is(err, format.ErrCorrupt) {
			t.Errorf("version %d: %v", version, err)
		}
	}
	_, err := readBytes(frame(format.KindHeader, object("magic", "pgsluice", "version", 2)))
	if got, want := err.Error(), "stream has format version 2, this program reads version 1 (frame 0, byte 0)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A caller may put its own slices into a record, to write it, and must find them as they were after
// the next call.
func TestReaderLeavesForeignSlices(t *testing.T) {
	two, other := row("1", "2"), row("3", "4")
	in := write(t, changeHeader(), relationT(), &format.Begin{XID: 1},
		&format.Insert{Relation: 1, New: two}, &format.Insert{Relation: 1, New: other},
		&format.Update{Relation: 1, Old: two, New: two}, &format.Update{Relation: 1, Old: other, New: other},
		&format.Delete{Relation: 1, Old: two}, &format.Delete{Relation: 1, Old: other},
		&format.Truncate{Relations: []uint32{1}}, &format.Truncate{Relations: []uint32{1, 1}})
	r := format.NewReader(bytes.NewReader(in))
	mine, ids := row("mine", "too"), []uint32{77, 78}
	for {
		rec, err := r.Next()
		if err != nil {
			break
		}
		if fmt.Sprint(mine) != fmt.Sprint(row("mine", "too")) || ids[0] != 77 {
			t.Fatalf("%v record went into %v, %v", rec.Kind(), mine, ids)
		}
		switch rec := rec.(type) {
		case *format.Insert:
			rec.New = mine
		case *format.Update:
			rec.Old, rec.New = mine, mine
		case *format.Delete:
			rec.Old = mine
		case *format.Truncate:
			rec.Relations = ids
		}
	}
}
