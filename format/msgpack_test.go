package format

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
)

// The tests in this file are inside the package because its msgpack helpers are not exported. The
// msgpack library, which shares no code with them, says what is right.

// around returns every number at which an encoding changes its width, and its neighbours.
func around() (all []uint64) {
	for _, n := range []uint64{0, 16, 32, 64, 128, 256, 1 << 15, 1 << 16, 1 << 31, 1 << 32, 1 << 53, 1 << 63} {
		all = append(all, n-1, n, n+1)
	}
	return append(all, 0xdeadbeef, 0xdeadbeefcafe)
}

func encode(t *testing.T, f func(*msgpack.Encoder) error) []byte {
	t.Helper()
	var b bytes.Buffer
	e := msgpack.NewEncoder(&b)
	e.UseCompactInts(true)
	if err := f(e); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestUint(t *testing.T) {
	for _, v := range around() {
		b := appendUint(nil, v)
		if want := encode(t, func(e *msgpack.Encoder) error { return e.EncodeUint(v) }); !bytes.Equal(b, want) {
			t.Errorf("%d is %x, want %x", v, b, want)
		}
		if got, err := msgpack.NewDecoder(bytes.NewReader(b)).DecodeUint64(); err != nil || got != v {
			t.Errorf("the library reads %d, %v; want %d", got, err, v)
		}
		for _, b := range uintEncodings(v) {
			c := cursor{b: b}
			if got := c.uint(); got != v || c.rest(0) != nil {
				t.Errorf("%x is %d, %v; want %d", b, got, c.err, v)
			}
			c = cursor{b: b}
			if got := c.uint32(); c.rest(0) == nil != (v <= math.MaxUint32) || c.err == nil && uint64(got) != v {
				t.Errorf("%x is %d, %v as uint32; want %d", b, got, c.err, v)
			}
		}
	}
}

// uintEncodings returns every encoding that msgpack has for v, signed ones included.
func uintEncodings(v uint64) (all [][]byte) {
	if v < 1<<7 {
		all = append(all, []byte{byte(v)}, []byte{0xd0, byte(v)})
	}
	if v < 1<<8 {
		all = append(all, []byte{0xcc, byte(v)})
	}
	if v < 1<<15 {
		all = append(all, []byte{0xd1, byte(v >> 8), byte(v)})
	}
	if v < 1<<16 {
		all = append(all, []byte{0xcd, byte(v >> 8), byte(v)})
	}
	if v < 1<<31 {
		all = append(all, binary.BigEndian.AppendUint32([]byte{0xd2}, uint32(v)))
	}
	if v < 1<<32 {
		all = append(all, binary.BigEndian.AppendUint32([]byte{0xce}, uint32(v)))
	}
	if v < 1<<63 {
		all = append(all, binary.BigEndian.AppendUint64([]byte{0xd3}, v))
	}
	return append(all, binary.BigEndian.AppendUint64([]byte{0xcf}, v))
}

func TestInt(t *testing.T) {
	var all []int64
	for _, n := range around() {
		all = append(all, int64(n), -int64(n))
	}
	for _, v := range append(all, math.MinInt64, math.MinInt64+1, math.MinInt32-1, math.MinInt16-1, math.MinInt8-1, -33) {
		b := appendInt(nil, v)
		if want := encode(t, func(e *msgpack.Encoder) error { return e.EncodeInt(v) }); !bytes.Equal(b, want) {
			t.Errorf("%d is %x, want %x", v, b, want)
		}
		if got, err := msgpack.NewDecoder(bytes.NewReader(b)).DecodeInt64(); err != nil || got != v {
			t.Errorf("the library reads %d, %v; want %d", got, err, v)
		}
		encodings := [][]byte{b, binary.BigEndian.AppendUint64([]byte{0xd3}, uint64(v))}
		if v >= 0 {
			encodings = append(encodings, uintEncodings(uint64(v))...)
		}
		if int64(int32(v)) == v {
			encodings = append(encodings, binary.BigEndian.AppendUint32([]byte{0xd2}, uint32(v)))
		}
		if int64(int16(v)) == v {
			encodings = append(encodings, binary.BigEndian.AppendUint16([]byte{0xd1}, uint16(v)))
		}
		if int64(int8(v)) == v {
			encodings = append(encodings, []byte{0xd0, byte(v)})
		}
		for _, b := range encodings {
			c := cursor{b: b}
			if got := c.int(); got != v || c.rest(0) != nil {
				t.Errorf("%x is %d, %v; want %d", b, got, c.err, v)
			}
			c = cursor{b: b}
			if got := c.uint(); (c.err == nil) != (v >= 0) || c.err == nil && got != uint64(v) {
				t.Errorf("%x is %d, %v as uint; want %d", b, got, c.err, v)
			}
		}
	}
	for _, v := range []uint64{1 << 63, math.MaxUint64} {
		c := cursor{b: appendUint(nil, v)}
		if got := c.int(); got != 0 || c.err != errRange {
			t.Errorf("%d is %d, %v as int", v, got, c.err)
		}
	}
}

func TestBool(t *testing.T) {
	for _, v := range []bool{false, true} {
		b := appendBool(nil, v)
		if want := encode(t, func(e *msgpack.Encoder) error { return e.EncodeBool(v) }); !bytes.Equal(b, want) {
			t.Errorf("%t is %x, want %x", v, b, want)
		}
		c := cursor{b: b}
		if got := c.bool(); got != v || c.rest(0) != nil {
			t.Errorf("%x is %t, %v", b, got, c.err)
		}
	}
}

var lengths = []int{0, 1, 2, 4, 8, 15, 16, 17, 31, 32, 33, 255, 256, 257, 65535, 65536, 65537, 1 << 20}

func TestStrBinExt(t *testing.T) {
	for _, n := range lengths {
		data := bytes.Repeat([]byte{'x'}, n)
		for _, test := range []struct {
			name string
			head []byte
			want []byte
			kind ValueKind
			wide []byte // the head of the widest encoding
		}{
			{"str", appendStrLen(nil, n), encode(t, func(e *msgpack.Encoder) error { return e.EncodeString(string(data)) }), Text,
				binary.BigEndian.AppendUint32([]byte{0xdb}, uint32(n))},
			{"bin", appendBinLen(nil, n), encode(t, func(e *msgpack.Encoder) error { return e.EncodeBytes(data) }), Binary,
				binary.BigEndian.AppendUint32([]byte{0xc6}, uint32(n))},
			{"ext", appendExtLen(nil, extRawText, n), nil, RawText,
				append(binary.BigEndian.AppendUint32([]byte{0xc9}, uint32(n)), extRawText)},
		} {
			b := append(test.head, data...)
			if test.want != nil && !bytes.Equal(b, test.want) {
				t.Errorf("%s of %d is %.10x, want %.10x", test.name, n, b, test.want)
			}
			if test.kind == RawText {
				d := msgpack.NewDecoder(bytes.NewReader(b))
				typ, size, err := d.DecodeExtHeader()
				if err != nil || typ != extRawText || size != n {
					t.Errorf("the library reads ext %d of %d, %v; want %d of %d", typ, size, err, extRawText, n)
				}
				// What the library writes may be a fixext, which we never write.
				theirs := encode(t, func(e *msgpack.Encoder) error { return e.EncodeExtHeader(extRawText, n) })
				c := cursor{b: append(theirs, data...)}
				if v := c.value(); v.Kind != RawText || !bytes.Equal(v.Data, data) || c.rest(0) != nil {
					t.Errorf("the library's ext of %d is %v, %v", n, v.Kind, c.err)
				}
			}
			for _, b := range [][]byte{b, append(test.wide, data...)} {
				c := cursor{b: b}
				if v := c.value(); v.Kind != test.kind || !bytes.Equal(v.Data, data) || c.rest(0) != nil {
					t.Errorf("%s of %d is %v of %d, %v", test.name, n, v.Kind, len(v.Data), c.err)
				}
				c = cursor{b: b}
				if s := c.str(); (c.rest(0) == nil) != (test.kind == Text) || c.err == nil && !bytes.Equal(s, data) {
					t.Errorf("%s of %d as str: %v", test.name, n, c.err)
				}
				c = cursor{b: b}
				if s := c.bin(); (c.rest(0) == nil) != (test.kind == Binary) || c.err == nil && !bytes.Equal(s, data) {
					t.Errorf("%s of %d as bin: %v", test.name, n, c.err)
				}
				if len(b) > 0 {
					c = cursor{b: b[:len(b)-1]}
					if c.value(); c.err != errShort {
						t.Errorf("%s of %d, cut: %v", test.name, n, c.err)
					}
				}
			}
		}
	}
}

func TestArrayLen(t *testing.T) {
	for _, n := range lengths {
		head := appendArrayLen(nil, n)
		if want := encode(t, func(e *msgpack.Encoder) error { return e.EncodeArrayLen(n) }); !bytes.Equal(head, want) {
			t.Errorf("array of %d is %x, want %x", n, head, want)
		}
		wide := binary.BigEndian.AppendUint32([]byte{0xdd}, uint32(n))
		for _, head := range [][]byte{head, wide} {
			c := cursor{b: append(head, make([]byte, n)...)}
			got := c.arrayLen()
			if n <= maxElems && (got != n || c.err != nil) || n > maxElems && c.err != errLong {
				t.Errorf("%x is an array of %d, %v", head, got, c.err)
			}
			if n > 0 {
				c = cursor{b: append(head, make([]byte, n-1)...)}
				if got := c.arrayLen(); got != 0 || c.err != errShort {
					t.Errorf("array of %d with %d bytes: %d, %v", n, n-1, got, c.err)
				}
			}
		}
	}
}

func TestMapLen(t *testing.T) {
	for _, n := range lengths {
		head := encode(t, func(e *msgpack.Encoder) error { return e.EncodeMapLen(n) })
		for _, head := range [][]byte{head, binary.BigEndian.AppendUint32([]byte{0xdf}, uint32(n))} {
			c := cursor{b: append(head, make([]byte, 2*n)...)}
			if got := c.mapLen(); got != uint64(n) || c.err != nil {
				t.Errorf("%x is a map of %d, %v", head, got, c.err)
			}
			if n > 0 {
				c = cursor{b: append(head, make([]byte, 2*n-1)...)}
				if c.mapLen(); c.err != errShort {
					t.Errorf("map of %d with %d bytes: %v", n, 2*n-1, c.err)
				}
			}
		}
	}
}

// Every first byte, followed by enough zeros, by every function that takes a value.
func TestFamilies(t *testing.T) {
	takers := []struct {
		name string
		take func(c *cursor)
		ok   func(m byte) bool
	}{
		{"uint", func(c *cursor) { c.uint() }, func(m byte) bool { return m < 0x80 || m >= 0xcc && m <= 0xd3 }},
		{"int", func(c *cursor) { c.int() }, func(m byte) bool { return m < 0x80 || m >= 0xe0 || m >= 0xcc && m <= 0xd3 }},
		{"bool", func(c *cursor) { c.bool() }, func(m byte) bool { return m == 0xc2 || m == 0xc3 }},
		{"str", func(c *cursor) { c.str() }, func(m byte) bool { return m&0xe0 == 0xa0 || m >= 0xd9 && m <= 0xdb }},
		{"bin", func(c *cursor) { c.bin() }, func(m byte) bool { return m >= 0xc4 && m <= 0xc6 }},
		{"array", func(c *cursor) { c.arrayLen() }, func(m byte) bool { return m&0xf0 == 0x90 || m == 0xdc || m == 0xdd }},
		{"map", func(c *cursor) { c.mapLen() }, func(m byte) bool { return m&0xf0 == 0x80 || m == 0xde || m == 0xdf }},
		{"value", func(c *cursor) { c.value() }, func(m byte) bool {
			return m == 0xc0 || m&0xe0 == 0xa0 || m >= 0xd9 && m <= 0xdb || m >= 0xc4 && m <= 0xc6
		}}, // an ext too, but not of type 0
		{"skip", func(c *cursor) { c.skip() }, func(m byte) bool { return m != 0xc1 }},
	}
	for _, taker := range takers {
		for m := range 256 {
			c := cursor{b: append([]byte{byte(m)}, make([]byte, 64)...)}
			taker.take(&c)
			if (c.err == nil) != taker.ok(byte(m)) {
				t.Errorf("%s of %02x: %v", taker.name, m, c.err)
			}
			if c.err != nil && c.err != errType && c.err != errRange {
				t.Errorf("%s of %02x: %v", taker.name, m, c.err)
			}
		}
		c := cursor{}
		if taker.take(&c); c.err != errShort {
			t.Errorf("%s of nothing: %v", taker.name, c.err)
		}
	}
}

// Skip must take as much as the library takes, of values of every family, and notice every cut.
func TestSkip(t *testing.T) {
	values := []any{nil, true, false, 0, 127, 128, 255, 256, 65535, 65536, uint64(math.MaxUint64), -1, -32,
		-33, -128, -129, -32769, int64(math.MinInt64),
		float32(1.5), 1.5, "", strings.Repeat("s", 31), strings.Repeat("s", 32), strings.Repeat("s", 256), strings.Repeat("s", 65536),
		[]byte{}, make([]byte, 255), make([]byte, 256), make([]byte, 65536),
		[]any{}, make([]any, 15), make([]any, 16), make([]any, 65536), []any{1, []any{"a", nil}, map[string]any{"k": []any{}}},
		map[string]any{}, map[string]int{"a": 1, "b": 2}, bigMap(16), bigMap(65536)}
	var all [][]byte
	for _, v := range values {
		all = append(all, encode(t, func(e *msgpack.Encoder) error { return e.Encode(v) }))
	}
	for _, n := range []int{1, 2, 4, 8, 16, 0, 3, 255, 256, 65536} {
		head := encode(t, func(e *msgpack.Encoder) error { return e.EncodeExtHeader(77, n) })
		all = append(all, append(head, make([]byte, n)...))
	}
	for _, b := range all {
		c := cursor{b: append(bytes.Clone(b), 0xc3)}
		if c.skip(); c.err != nil || len(c.b) != 1 {
			t.Errorf("%.10x of %d bytes: %d left, %v", b, len(b), len(c.b), c.err)
		}
		for n := 0; n < len(b); n += 1 + len(b)/300 {
			c := cursor{b: b[:n]}
			if c.skip(); c.err != errShort {
				t.Errorf("%.10x, %d of %d bytes: %v", b, n, len(b), c.err)
			}
		}
	}
}

func bigMap(n int) map[string]int {
	m := make(map[string]int, n)
	for i := range n {
		m[fmt.Sprint(i)] = i
	}
	return m
}

// Unknown values may be nested 8 deep, whatever mixture of arrays and maps.
func TestSkipDepth(t *testing.T) {
	for n := range 12 {
		for _, test := range []struct{ open, inner string }{{"\x91", "\x90"}, {"\x81\x01", "\x80"},
			{"\xdd\x00\x00\x00\x01", "\xdc\x00\x00"}, {"\x82\x01\x02\x03", "\x90"}, {"\x92\x90", "\x80"}} {
			c := cursor{b: []byte(strings.Repeat(test.open, n) + test.inner)}
			c.skip()
			if n+1 <= 8 && c.rest(0) != nil || n+1 > 8 && c.err != errDepth {
				t.Errorf("%d × %x in each other: %v", n+1, test.open, c.err)
			}
		}
	}
}

// Lengths of up to 4 Gi must be compared with what is there before anything is done for them.
func TestHostileLengths(t *testing.T) {
	for _, head := range []string{"\xdb\xff\xff\xff\xff", "\xc6\xff\xff\xff\xff", "\xc9\xff\xff\xff\xff\x02",
		"\xdd\xff\xff\xff\xff", "\xdf\xff\xff\xff\xff",
		"\xdf\x80\x00\x00\x00", "\xda\xff\xff", "\xdc\xff\xff", "\xde\xff\xff"} {
		for _, rest := range []string{"", "x", strings.Repeat("\x01", 100)} {
			for name, take := range map[string]func(c *cursor){
				"skip":  func(c *cursor) { c.skip() },
				"value": func(c *cursor) { c.value() },
				"array": func(c *cursor) { c.arrayLen() },
				"map":   func(c *cursor) { c.mapLen() },
				"tuple": func(c *cursor) { c.tuple(nil, true) },
			} {
				c := cursor{b: []byte(head + rest)}
				allocs := testing.AllocsPerRun(1, func() { take(&c) })
				if c.err == nil || allocs > 1 {
					t.Errorf("%s of %x: %v, %v allocations", name, head, c.err, allocs)
				}
			}
		}
	}
}

// A cursor stays broken, and gives zeros.
func TestCursorIsSticky(t *testing.T) {
	c := cursor{b: []byte{0xc1, 1, 2, 3}}
	c.uint()
	first := c.err
	if first == nil || c.uint() != 0 || c.int() != 0 || c.bool() || c.str() != nil || c.bin() != nil ||
		c.arrayLen() != 0 || c.nilOr() || c.value().Data != nil {
		t.Error("a broken cursor gives something")
	}
	c.skip()
	if c.err != first || c.rest(3) != first {
		t.Errorf("the error became %v", c.err)
	}
}

func TestRest(t *testing.T) {
	tests := []struct {
		body string
		n    int
		want error
	}{
		{"", 0, nil}, {"", -1, nil}, {"\xc0", 1, nil}, {"\xc0\x93\x01\x02\x03\xa1x", 3, nil},
		{"\xc0", 0, errRest}, {"\xc0\xc0", 1, errRest}, {"\xc0", 2, errShort}, {"\xc1", 1, errType},
	}
	for _, test := range tests {
		c := cursor{b: []byte(test.body)}
		if err := c.rest(test.n); err != test.want {
			t.Errorf("%x with %d more: %v, want %v", test.body, test.n, err, test.want)
		}
	}
}

// Slices that a cursor returns must not let an append run into what follows them.
func TestCursorClipsSlices(t *testing.T) {
	body := []byte("\xa3one\xa3two")
	c := cursor{b: body}
	_ = append(c.str(), "XXXX"...)
	if got := string(c.str()); got != "two" {
		t.Errorf("the second string became %q", got)
	}
}
