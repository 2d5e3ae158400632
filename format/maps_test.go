package format_test

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/pgsluice/pgsluice/format"
)

// raw is a value in an encoding that pack would not choose.
func raw(b string) msgpack.RawMessage { return msgpack.RawMessage(b) }

func column(pairs ...any) msgpack.RawMessage { return object(pairs...) }

// nested returns an array nested n deep.
func nested(n int) msgpack.RawMessage { return raw(strings.Repeat("\x91", n-1) + "\x90") }

// What a map body may look like, and what it becomes.
func TestMapsAccepted(t *testing.T) {
	rel := func(more ...format.Column) *format.Relation { return &format.Relation{ID: 7, Name: "t", Columns: more} }
	tests := []struct {
		name string
		body []byte
		want format.Record
	}{
		{"only what is required", object("id", 7, "name", "t"), rel()},
		{"any order", object("columns", array{}, "name", "t", "id", 7), rel()},
		{"unknown keys", object("x", 1, "id", 7, "y", nil, "name", "t", "z", array{object("id", 8)}, "", true), rel()},
		{"unknown key 8 deep", object("id", 7, "x", nested(8), "name", "t"), rel()},
		{"unknown key 8 deep in a column", object("id", 7, "name", "t", "columns",
			array{column("name", "a", "x", nested(8))}), rel(format.Column{Name: "a", TypeMod: -1})},
		{"wide numbers", object("id", raw("\xcf\x00\x00\x00\x00\x00\x00\x00\x07"), "name", "t"), rel()},
		{"a signed encoding", object("id", raw("\xd3\x00\x00\x00\x00\x00\x00\x00\x07"), "name", "t"), rel()},
		{"a wide string", object("id", 7, "name", raw("\xdb\x00\x00\x00\x01t")), rel()},
		{"a wide key", object("id", 7, raw("\xda\x00\x04name"), "t"), rel()},
		{"a wide array", object("id", 7, "name", "t", "columns", raw("\xdd\x00\x00\x00\x00")), rel()},
		{"a wide map", append([]byte{0xdf, 0, 0, 0, 2}, object("id", 7, "name", "t")[1:]...), rel()},
		{"the greatest id", object("id", uint32(1<<32-1), "name", "t"), &format.Relation{ID: 1<<32 - 1, Name: "t"}},
		{"typmod is absent", object("id", 7, "name", "t", "columns", array{column("name", "a")}),
			rel(format.Column{Name: "a", TypeMod: -1})},
		{"typmod 0", object("id", 7, "name", "t", "columns", array{column("name", "a", "typmod", 0)}), rel(format.Column{Name: "a"})},
		{"the least typmod", object("id", 7, "name", "t", "columns",
			array{column("name", "a", "typmod", -1<<31)}), rel(format.Column{Name: "a", TypeMod: -1 << 31})},
		{"names that are not UTF-8", object("id", 7, "name", raw("\xa2\xff\xfe")), &format.Relation{ID: 7, Name: "\xff\xfe"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			recs, err := readBytes(join(header("changes"), frame(format.KindRelation, test.body), end(2)))
			must(t, err)
			same(t, recs[1:2], []format.Record{test.want})
		})
	}
}

func TestMapsRefused(t *testing.T) {
	many := array{}
	for range 1 << 16 {
		many = append(many, 1)
	}
	tests := []struct {
		name string
		kind format.Kind
		body []byte
		want string // in the error
	}{
		{"empty body", format.KindRelation, nil, "ends too early"},
		{"an array", format.KindRelation, pack(array{7, "t"}), "wrong type"},
		{"nil", format.KindRelation, pack(nil), "wrong type"},
		{"a second value", format.KindRelation, pack(object("id", 7, "name", "t"), 1), "bytes after"},
		{"a key less than announced", format.KindRelation, append([]byte{0x83}, object("id", 7, "name", "t")[1:]...), "ends too early"},
		{"a key without value", format.KindRelation,
			append([]byte{0x83}, append(object("id", 7, "name", "t")[1:], "\xa1x"...)...), "ends too early"},
		{"2³² keys", format.KindRelation, append([]byte{0xdf, 0xff, 0xff, 0xff, 0xff},
			object("id", 7, "name", "t")[1:]...), "ends too early"},
		{"a key that is a number", format.KindRelation, object("id", 7, "name", "t", 5, 5), "wrong type"},
		{"a key that is bin", format.KindRelation, object([]byte("id"), 7, "name", "t"), "wrong type"},
		{"a key twice", format.KindRelation, object("id", 7, "name", "t", "id", 7), "id: key stands twice"},
		{"unknown key 9 deep", format.KindRelation, object("id", 7, "name", "t", "x", nested(9)), "nested too deep"},
		{"id is too large", format.KindRelation, object("id", uint64(1<<32), "name", "t"), "id: number out of range"},
		{"id is negative", format.KindRelation, object("id", -1, "name", "t"), "id: number out of range"},
		{"id is negative and wide", format.KindRelation, object("id", raw("\xd1\xff\xff"), "name", "t"), "id: number out of range"},
		{"id is a float", format.KindRelation, object("id", 7.0, "name", "t"), "id: value of a wrong type"},
		{"id is a str", format.KindRelation, object("id", "7", "name", "t"), "id: value of a wrong type"},
		{"id is nil", format.KindRelation, object("id", nil, "name", "t"), "id: value of a wrong type"},
		{"name is bin", format.KindRelation, object("id", 7, "name", []byte("t")), "name: value of a wrong type"},
		{"name is nil", format.KindRelation, object("id", 7, "name", nil), "name: value of a wrong type"},
		{"name is ext", format.KindRelation, object("id", 7, "name", raw("\xc7\x01\x02t")), "name: value of a wrong type"},
		{"columns is nil", format.KindRelation, object("id", 7, "name", "t", "columns", nil), "columns: value of a wrong type"},
		{"columns is a map", format.KindRelation, object("id", 7, "name", "t", "columns", object()), "columns: value of a wrong type"},
		{"columns has an array", format.KindRelation,
			object("id", 7, "name", "t", "columns", array{array{"a", "int4", 23, -1, true, false, ""}}),
			"columns: value of a wrong type"},
		{"columns has a nil", format.KindRelation, object("id", 7, "name", "t", "columns", array{nil}), "columns: value of a wrong type"},
		{"typmod is too large", format.KindRelation,
			object("id", 7, "name", "t", "columns", array{column("name", "a", "typmod", uint32(1<<31))}),
			"columns: typmod: number out of range"},
		{"key is a number", format.KindRelation,
			object("id", 7, "name", "t", "columns", array{column("name", "a", "key", 1)}),
			"columns: key: value of a wrong type"},
		{"no id", format.KindRelation, object("name", "t"), `"id"`},
		{"id 0", format.KindRelation, object("id", 0, "name", "t"), `"id"`},
		{"no name", format.KindRelation, object("id", 7), `"name"`},
		{"a column without name", format.KindRelation,
			object("id", 7, "name", "t", "columns", array{column("typmod", -1)}), `"columns.name"`},
		{"65536 columns", format.KindRelation, object("id", 7, "name", "t", "columns", many), "array too long"},
		{"no section", format.KindDDL, object("sql", "x"), `"section"`},
		{"another section", format.KindDDL, object("section", "data"), `"section"`},
		{"after has a str", format.KindDDL, object("section", "change", "after", array{"1"}), "after: value of a wrong type"},
		{"no format", format.KindCopyBegin, object("part", 1, "relation", 1, "index", 1, "of", 1), `"format"`},
		{"another format", format.KindCopyBegin, object("format", "csv", "index", 1, "of", 1), `"format"`},
		{"index 0", format.KindCopyBegin, object("format", "text", "of", 1), `"index"`},
		{"index past of", format.KindCopyBegin, object("format", "text", "index", 3, "of", 2), `"index"`},
		{"part is too large", format.KindCopyBegin,
			object("format", "text", "index", 1, "of", 1, "part", uint64(1<<32)),
			"part: number out of range"},
		{"sequence without name", format.KindSequence, object("schema", "s", "last_value", 1), `"name"`},
		{"fingerprint without class", format.KindFingerprint, object("name", "i"), `"class"`},
		{"fingerprint without name", format.KindFingerprint, object("class", "index"), `"name"`},
		{"last_value past int64", format.KindSequence, object("name", "s", "last_value", uint64(1<<63)), "last_value: number out of range"},
		{"another reason", format.KindEnd, object("reason", "done", "frames", 1), `"reason"`},
		{"no reason", format.KindEnd, object("frames", 1), `"reason"`},
		{"lsn in its text form", format.KindEnd, object("reason", "complete", "frames", 1, "lsn", "0/1"), "lsn: value of a wrong type"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			recs, err := readBytes(join(header("load"), frame(test.kind, test.body), end(2)))
			if !errors.Is(err, format.ErrCorrupt) || !strings.Contains(err.Error(), test.want) || len(recs) != 1 {
				t.Errorf("got %d records, %v; want %q", len(recs), err, test.want)
			}
		})
	}
}

func TestHeaders(t *testing.T) {
	tests := []struct {
		name string
		body []byte
		want string // in the error
	}{
		{"without kind", object("magic", "pgsluice", "version", 1), `"kind"`},
		{"of another kind", object("magic", "pgsluice", "version", 1, "kind", "dump"), `"kind"`},
		{"of changes without system", object("magic", "pgsluice", "version", 1, "kind", "changes", "database",
			"d", "slot", "s"), `"system_id"`},
		{"of changes without database", object("magic", "pgsluice", "version", 1, "kind", "changes",
			"system_id", "1", "slot", "s"), `"database"`},
		{"of changes without slot", object("magic", "pgsluice", "version", 1, "kind", "changes", "system_id",
			"1", "database", "d"), `"slot"`},
		{"of changes with load", object("magic", "pgsluice", "version", 1, "kind", "changes", "system_id",
			"1", "database", "d", "slot", "s", "load", object()), `"load"`},
		{"of a part past the last", object("magic", "pgsluice", "version", 1, "kind", "load", "load",
			object("part", 3, "parts", 2)), `"load.part"`},
		{"of part 0 of 2", object("magic", "pgsluice", "version", 1, "kind", "load", "load", object("parts", 2)), `"load.part"`},
		{"of load that is nil", object("magic", "pgsluice", "version", 1, "kind", "load", "load", nil), "wrong type"},
		{"with magic twice", object("magic", "pgsluice", "version", 1, "kind", "load", "magic", "pgsluice"), "twice"},
		{"with timeline −1", object("magic", "pgsluice", "version", 1, "kind", "load", "timeline", raw("\xd0\xff")), "out of range"},
		{"with load", object("magic", "pgsluice", "version", 1, "kind", "load", "load", object("part", 2, "parts", 2, "new", 1)), ""},
		{"with wide version", object("magic", "pgsluice", "version", raw("\xcf\x00\x00\x00\x00\x00\x00\x00\x01"), "kind", "load"), ""},
		{"with more than 15 keys", object("magic", "pgsluice", "version", 1, "kind", "load", "a", 1, "b", 1,
			"c", 1, "d", 1, "e", 1, "f", 1, "g", 1, "h", 1,
			"i", 1, "j", 1, "k", 1, "l", 1, "m", 1, "n", 1), ""},
		{"of repair", object("magic", "pgsluice", "version", 1, "kind", "repair"), ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := readBytes(join(frame(format.KindHeader, test.body), end(1)))
			switch {
			case test.want == "":
				must(t, err)
			case !errors.Is(err, format.ErrCorrupt) || !strings.Contains(err.Error(), test.want):
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// The msgpack library must understand our maps, and what it reads from them must be what we read.
func TestMapsAgreeWithLibrary(t *testing.T) {
	for _, recs := range [][]format.Record{loadStream(), changeStream()} {
		b := write(t, recs...)
		for len(b) > 0 {
			var f struct {
				_msgpack struct{} `msgpack:",as_array"`
				Kind     format.Kind
				CRC      uint32
				Body     []byte
			}
			rest := bytes.NewReader(b)
			must(t, msgpack.NewDecoder(rest).Decode(&f))
			size := len(frame(f.Kind, f.Body))
			if !bytes.Equal(b[:size], frame(f.Kind, f.Body)) {
				t.Fatalf("a frame of kind %d is %x", f.Kind, b[:size])
			}
			b = b[size:]
			if f.Body[0]&0xf0 != 0x80 {
				continue
			}
			want := recs[len(recs)-1-framesIn(b)]
			got := reflect.New(reflect.TypeOf(want).Elem()).Interface().(format.Record)
			must(t, msgpack.Unmarshal(f.Body, got))
			same(t, []format.Record{got}, []format.Record{want})
		}
	}
}

func framesIn(b []byte) int { return wholeFrames(b, len(b)) }
