package format_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"reflect"
	"testing"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/pgsluice/pgsluice/format"
)

// The helpers below make streams without package format, so that tests can have what Writer
// refuses, and so that a mistake that Reader and Writer share is seen.

// frame returns one frame as section 2 of SPEC.md has it.
func frame(k format.Kind, body []byte) []byte {
	crc := crc32.Checksum(append([]byte{byte(k)}, body...), crc32.MakeTable(crc32.Castagnoli))
	b := binary.BigEndian.AppendUint32([]byte{0x93, byte(k), 0xce}, crc)
	switch n := len(body); {
	case n < 1<<8:
		b = append(b, 0xc4, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0xc5), uint16(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, 0xc6), uint32(n))
	}
	return append(b, body...)
}

// pack encodes values one after the other with the msgpack library, which knows nothing of our
// helpers.
func pack(values ...any) []byte {
	var b bytes.Buffer
	e := msgpack.NewEncoder(&b)
	e.UseCompactInts(true)
	for _, v := range values {
		if err := e.Encode(v); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

// object is a map with an order of its own, as name, value, name, value…
func object(pairs ...any) msgpack.RawMessage {
	n := len(pairs) / 2
	if n > 15 {
		return append([]byte{0xde, byte(n >> 8), byte(n)}, pack(pairs...)...)
	}
	return append([]byte{0x80 | byte(n)}, pack(pairs...)...)
}

type array = []any

// join concatenates frames to a stream.
func join(frames ...[]byte) []byte { return bytes.Join(frames, nil) }

// header returns the frame of a header of the given kind of stream, all from one source and slot.
func header(kind string, more ...any) []byte {
	return frame(format.KindHeader, object(append(array{"magic", "pgsluice", "version", 1, "kind", kind,
		"system_id", "7301", "database", "shop", "slot", "mig"}, more...)...))
}

// end returns the frame of an end record after n frames.
func end(n int) []byte {
	return frame(format.KindEnd, object("reason", "complete", "frames", n))
}

// relation returns the frame that describes a relation of n columns.
func relation(id, n int) []byte {
	cols := array{}
	for i := range n {
		cols = append(cols, object("name", string(rune('a'+i)), "typmod", -1))
	}
	return frame(format.KindRelation, object("id", id, "schema", "public", "name", "t", "columns", cols))
}

// write returns the stream that Writer makes of the records. It fails the test where Writer refuses
// one.
func write(tb testing.TB, recs ...format.Record) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := format.NewWriter(&b)
	for i, rec := range recs {
		if err := w.Write(rec); err != nil {
			tb.Fatalf("write record %d, %v: %v", i, rec.Kind(), err)
		}
	}
	must(tb, w.Flush())
	return b.Bytes()
}

// read returns copies of all records of a stream, and the error that ended it, nil for io.EOF.
func read(in io.Reader) ([]format.Record, error) {
	r := format.NewReader(in)
	r.AcceptTorn()
	return readFrom(r)
}

func readFrom(r *format.Reader) ([]format.Record, error) {
	var recs []format.Record
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return recs, nil
		}
		if err != nil {
			return recs, err
		}
		recs = append(recs, clone(rec))
	}
}

func readBytes(b []byte) ([]format.Record, error) { return read(bytes.NewReader(b)) }

// clone copies a record and all that it points to. What is empty becomes nil, except where that
// makes a difference: the old row of an update. So two clones are equal when the records mean the
// same.
func clone(rec format.Record) format.Record {
	v := reflect.ValueOf(rec)
	c := reflect.New(v.Type().Elem())
	copyInto(c.Elem(), v.Elem())
	if u, ok := rec.(*format.Update); ok && u.Old != nil && len(u.Old) == 0 {
		c.Interface().(*format.Update).Old = format.Tuple{}
	}
	return c.Interface().(format.Record)
}

func copyInto(dst, src reflect.Value) {
	switch src.Kind() {
	case reflect.Struct:
		for i := range src.NumField() {
			if src.Type().Field(i).IsExported() {
				copyInto(dst.Field(i), src.Field(i))
			}
		}
	case reflect.Slice:
		if src.Len() > 0 {
			dst.Set(reflect.MakeSlice(src.Type(), src.Len(), src.Len()))
		}
		if src.Type().Elem().Kind() == reflect.Uint8 {
			reflect.Copy(dst, src)
			return
		}
		for i := range src.Len() {
			copyInto(dst.Index(i), src.Index(i))
		}
	case reflect.Pointer:
		if !src.IsNil() {
			dst.Set(reflect.New(src.Type().Elem()))
			copyInto(dst.Elem(), src.Elem())
		}
	default:
		dst.Set(src)
	}
}

func clones(recs []format.Record) []format.Record {
	out := make([]format.Record, len(recs))
	for i := range recs {
		out[i] = clone(recs[i])
	}
	return out
}

// same fails the test unless both lists have equal records.
func same(tb testing.TB, got, want []format.Record) {
	tb.Helper()
	for i := range min(len(got), len(want)) {
		if reflect.DeepEqual(got[i], want[i]) {
			continue
		}
		if g, w := clone(got[i]), clone(want[i]); !reflect.DeepEqual(g, w) {
			tb.Fatalf("record %d is\n%#v, want\n%#v", i, g, w)
		}
	}
	if len(got) != len(want) {
		tb.Fatalf("%d records, want %d", len(got), len(want))
	}
}

// isPrefix reports whether got is what want begins with.
func isPrefix(got, want []format.Record) bool {
	return len(got) <= len(want) && reflect.DeepEqual(clones(got), clones(want[:len(got)]))
}

func text(s string) format.Value { return format.Value{Kind: format.Text, Data: []byte(s)} }

func row(values ...string) format.Tuple {
	t := make(format.Tuple, 0, len(values))
	for _, s := range values {
		t = append(t, text(s))
	}
	return t
}
