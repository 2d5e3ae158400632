package format

import (
	"encoding/binary"
	"errors"
	"math"
)

// The functions below write and read the frequent records. They append to and cut from a byte
// slice, so a record costs no allocation, and a value no interface call. The msgpack library writes
// the rare records, which are maps; these functions read those as well (maps.go).

func appendUint(b []byte, v uint64) []byte {
	switch {
	case v < 0x80:
		return append(b, byte(v))
	case v <= math.MaxUint8:
		return append(b, 0xcc, byte(v))
	case v <= math.MaxUint16:
		return append(b, 0xcd, byte(v>>8), byte(v))
	case v <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, 0xce), uint32(v))
	}
	return binary.BigEndian.AppendUint64(append(b, 0xcf), v)
}

func appendInt(b []byte, v int64) []byte {
	switch {
	case v >= 0:
		return appendUint(b, uint64(v))
	case v >= -32:
		return append(b, byte(v))
	case v >= math.MinInt8:
		return append(b, 0xd0, byte(v))
	case v >= math.MinInt16:
		return append(b, 0xd1, byte(v>>8), byte(v))
	case v >= math.MinInt32:
		return binary.BigEndian.AppendUint32(append(b, 0xd2), uint32(v))
	}
	return binary.BigEndian.AppendUint64(append(b, 0xd3), uint64(v))
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 0xc3)
	}
	return append(b, 0xc2)
}

func appendArrayLen(b []byte, n int) []byte {
	switch {
	case n < 16:
		return append(b, 0x90|byte(n))
	case n <= math.MaxUint16:
		return append(b, 0xdc, byte(n>>8), byte(n))
	}
	return binary.BigEndian.AppendUint32(append(b, 0xdd), uint32(n))
}

func appendStrLen(b []byte, n int) []byte {
	switch {
	case n < 32:
		return append(b, 0xa0|byte(n))
	case n <= math.MaxUint8:
		return append(b, 0xd9, byte(n))
	case n <= math.MaxUint16:
		return append(b, 0xda, byte(n>>8), byte(n))
	}
	return binary.BigEndian.AppendUint32(append(b, 0xdb), uint32(n))
}

func appendBinLen(b []byte, n int) []byte {
	switch {
	case n <= math.MaxUint8:
		return append(b, 0xc4, byte(n))
	case n <= math.MaxUint16:
		return append(b, 0xc5, byte(n>>8), byte(n))
	}
	return binary.BigEndian.AppendUint32(append(b, 0xc6), uint32(n))
}

func appendExtLen(b []byte, typ byte, n int) []byte {
	switch {
	case n <= math.MaxUint8:
		return append(b, 0xc7, byte(n), typ)
	case n <= math.MaxUint16:
		return append(b, 0xc8, byte(n>>8), byte(n), typ)
	}
	return append(binary.BigEndian.AppendUint32(append(b, 0xc9), uint32(n)), typ)
}

var (
	errShort = errors.New("body ends too early")
	errType  = errors.New("value of a wrong type")
	errRange = errors.New("number out of range")
	errDepth = errors.New("nested too deep")
	errRest  = errors.New("bytes after the body's value")
	errLong  = errors.New("array too long")
	errTwice = errors.New("key stands twice")
	errValue = errors.New("value of a kind that does not belong here")
)

// A cursor cuts msgpack values from the front of a body. It is sticky: after the first error it
// returns only zero values, so a decoder can check the error once at the end. The slices that it
// returns point into the body.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	c.b = nil
}

// marker reads the first byte of a value.
func (c *cursor) marker() byte {
	if len(c.b) == 0 {
		c.fail(errShort)
		return 0xc1 // msgpack never uses this byte, so every caller rejects it
	}
	m := c.b[0]
	c.b = c.b[1:]
	return m
}

// be reads a big-endian number of n bytes.
func (c *cursor) be(n int) (v uint64) {
	if len(c.b) < n {
		c.fail(errShort)
		return 0
	}
	for _, x := range c.b[:n] {
		v = v<<8 | uint64(x)
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) bytes(n uint64) []byte {
	if uint64(len(c.b)) < n {
		c.fail(errShort)
		return nil
	}
	s := c.b[:n:n]
	c.b = c.b[n:]
	return s
}

func (c *cursor) uint() uint64 {
	switch m := c.marker(); m {
	case 0xcc, 0xcd, 0xce, 0xcf:
		return c.be(1 << (m - 0xcc))
	case 0xd0, 0xd1, 0xd2, 0xd3:
		// msgpack allows a signed encoding of a number that is not negative.
		v := c.signed(1 << (m - 0xd0))
		if v < 0 {
			c.fail(errRange)
			return 0
		}
		return uint64(v)
	default:
		if m < 0x80 {
			return uint64(m)
		}
		if m >= 0xe0 {
			c.fail(errRange)
		}
		c.fail(errType)
		return 0
	}
}

func (c *cursor) uint32() uint32 {
	v := c.uint()
	if v > math.MaxUint32 {
		c.fail(errRange)
		return 0
	}
	return uint32(v)
}

func (c *cursor) signed(n int) int64 {
	shift := 64 - 8*n
	return int64(c.be(n)<<shift) >> shift
}

func (c *cursor) int() int64 {
	switch m := c.marker(); m {
	case 0xcc, 0xcd, 0xce, 0xcf:
		v := c.be(1 << (m - 0xcc))
		if v > math.MaxInt64 {
			c.fail(errRange)
			return 0
		}
		return int64(v)
	case 0xd0, 0xd1, 0xd2, 0xd3:
		return c.signed(1 << (m - 0xd0))
	default:
		if m < 0x80 || m >= 0xe0 {
			return int64(int8(m))
		}
		c.fail(errType)
		return 0
	}
}

func (c *cursor) bool() bool {
	switch c.marker() {
	case 0xc2:
		return false
	case 0xc3:
		return true
	}
	c.fail(errType)
	return false
}

// maxElems bounds the arrays that this package knows; no table has as many columns. It also bounds
// the memory that many small elements need beyond their encoding.
const maxElems = math.MaxUint16

// arrayLen reads the head of an array. It rejects a length greater than the number of bytes left,
// because every element takes at least one byte.
func (c *cursor) arrayLen() int {
	m := c.marker()
	var n uint64
	switch {
	case m&0xf0 == 0x90:
		n = uint64(m & 15)
	case m == 0xdc:
		n = c.be(2)
	case m == 0xdd:
		n = c.be(4)
	default:
		c.fail(errType)
		return 0
	}
	switch {
	case n > uint64(len(c.b)):
		c.fail(errShort)
		return 0
	case n > maxElems:
		c.fail(errLong)
		return 0
	}
	return int(n)
}

// mapLen reads the head of a map.
func (c *cursor) mapLen() uint64 {
	m := c.marker()
	var n uint64
	switch {
	case m&0xf0 == 0x80:
		n = uint64(m & 15)
	case m == 0xde:
		n = c.be(2)
	case m == 0xdf:
		n = c.be(4)
	default:
		c.fail(errType)
	}
	if 2*n > uint64(len(c.b)) {
		c.fail(errShort)
	}
	return n
}

// nilOr reads a nil and returns true, or reads nothing and returns false.
func (c *cursor) nilOr() bool {
	if len(c.b) > 0 && c.b[0] == 0xc0 {
		c.b = c.b[1:]
		return true
	}
	return false
}

func (c *cursor) str() []byte {
	v := c.value()
	if v.Kind != Text {
		c.fail(errType)
	}
	return v.Data
}

func (c *cursor) bin() []byte {
	v := c.value()
	if v.Kind != Binary {
		c.fail(errType)
	}
	return v.Data
}

// value reads an element of a tuple.
func (c *cursor) value() Value {
	m := c.marker()
	switch {
	case m&0xe0 == 0xa0:
		return Value{Text, c.bytes(uint64(m & 31))}
	case m == 0xc0:
		return Value{}
	case m >= 0xd9 && m <= 0xdb:
		return Value{Text, c.bytes(c.be(1 << (m - 0xd9)))}
	case m >= 0xc4 && m <= 0xc6:
		return Value{Binary, c.bytes(c.be(1 << (m - 0xc4)))}
	case m >= 0xc7 && m <= 0xc9:
		n := c.be(1 << (m - 0xc7))
		return c.ext(n)
	case m >= 0xd4 && m <= 0xd8:
		return c.ext(1 << (m - 0xd4))
	}
	c.fail(errType)
	return Value{}
}

const (
	extUnchanged = 1
	extRawText   = 2
)

func (c *cursor) ext(n uint64) Value {
	typ := c.be(1)
	data := c.bytes(n)
	if c.err != nil {
		return Value{}
	}
	switch typ {
	case extUnchanged:
		return Value{Kind: Unchanged}
	case extRawText:
		return Value{RawText, data}
	}
	c.fail(errType)
	return Value{}
}

// skip skips one value of any type. It bounds the stack of open containers, so hostile nesting
// costs nothing.
func (c *cursor) skip() {
	const maxDepth = 8
	var left [maxDepth + 1]uint64 // elements left to read, by depth
	left[0] = 1
	depth := 0
	for depth >= 0 {
		if left[depth] == 0 {
			depth--
			continue
		}
		left[depth]--
		m := c.marker()
		var elems, size uint64
		container := false
		switch {
		case m < 0x80 || m >= 0xe0 || m == 0xc0 || m == 0xc2 || m == 0xc3:
		case m < 0x90:
			elems, container = 2*uint64(m&15), true
		case m < 0xa0:
			elems, container = uint64(m&15), true
		case m < 0xc0:
			size = uint64(m & 31)
		case m >= 0xc4 && m <= 0xc6:
			size = c.be(1 << (m - 0xc4))
		case m >= 0xc7 && m <= 0xc9:
			size = c.be(1<<(m-0xc7)) + 1
		case m == 0xca || m == 0xce || m == 0xd2:
			size = 4
		case m == 0xcb || m == 0xcf || m == 0xd3:
			size = 8
		case m == 0xcc || m == 0xd0:
			size = 1
		case m == 0xcd || m == 0xd1:
			size = 2
		case m >= 0xd4 && m <= 0xd8:
			size = 1<<(m-0xd4) + 1
		case m >= 0xd9 && m <= 0xdb:
			size = c.be(1 << (m - 0xd9))
		case m == 0xdc || m == 0xdd:
			elems, container = c.be(2<<(m-0xdc)), true
		case m == 0xde || m == 0xdf:
			elems, container = 2*c.be(2<<(m-0xde)), true
		default:
			c.fail(errType)
		}
		c.bytes(size)
		if c.err != nil {
			return
		}
		if container {
			if elems > uint64(len(c.b)) {
				c.fail(errShort)
				return
			}
			if depth == maxDepth {
				c.fail(errDepth)
				return
			}
			depth++
			left[depth] = elems
		}
	}
}

// rest skips n more elements of an array, which newer writers may add, and expects the body to end
// there.
func (c *cursor) rest(n int) error {
	for ; n > 0 && c.err == nil; n-- {
		c.skip()
	}
	if c.err == nil && len(c.b) > 0 {
		c.err = errRest
	}
	return c.err
}
