package format

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/vmihailenco/msgpack/v5"
)

// The bodies of the rare records are maps. The msgpack library writes them, but this file reads
// them. The library truncates numbers that do not fit, accepts a bin as a str, an array as a map
// and nil as anything, follows hostile nesting until the stack overflows, and allocates any length
// that the input claims.

// A mapRecord is a record whose body is a map. The tags of its fields are the keys.
type mapRecord interface{ validate() error }

func appendMap(b []byte, r mapRecord) ([]byte, error) {
	if err := r.validate(); err != nil {
		return b, err
	}
	var buf bytes.Buffer
	enc := msgpack.NewEncoder(&buf)
	enc.UseCompactInts(true)
	enc.SetSortMapKeys(true)
	if err := enc.Encode(r); err != nil {
		return b, err
	}
	return append(b, buf.Bytes()...), nil
}

// decodeMap sets r, which must point to a zero value. It copies strings.
func decodeMap(body []byte, r mapRecord) error {
	c := cursor{b: body}
	c.object(reflect.ValueOf(r).Elem())
	if err := c.rest(0); err != nil {
		return err
	}
	return r.validate()
}

// object reads a map into the fields of the struct v.
func (c *cursor) object(v reflect.Value) {
	var seen uint64
	for n := c.mapLen(); n > 0 && c.err == nil; n-- {
		key := c.str()
		i := fieldOf(v.Type(), key)
		if i < 0 {
			c.skip()
			continue
		}
		if seen>>i&1 != 0 {
			c.fail(errTwice)
		}
		seen |= 1 << i
		c.field(v.Field(i))
		if c.err != nil {
			c.err = fmt.Errorf("%s: %w", key, c.err)
		}
	}
}

// fieldOf returns the index of the field with the key in its tag, or -1.
func fieldOf(t reflect.Type, key []byte) int {
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("msgpack"), ","); name == string(key) && name != "" {
			return i
		}
	}
	return -1
}

func (c *cursor) field(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(string(c.str()))
	case reflect.Bool:
		v.SetBool(c.bool())
	case reflect.Uint32, reflect.Uint64:
		u := c.uint()
		if v.OverflowUint(u) {
			c.fail(errRange)
		}
		v.SetUint(u)
	case reflect.Int32, reflect.Int64:
		i := c.int()
		if v.OverflowInt(i) {
			c.fail(errRange)
		}
		v.SetInt(i)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		c.object(v.Elem())
	case reflect.Struct:
		switch x := v.Addr().Interface().(type) {
		case *Object:
			c.address(x)
			return
		case *TimelineEnd:
			if n := c.arrayLen(); n != 2 && c.err == nil {
				c.fail(errTimelineEnd)
			}
			x.Timeline, x.End = c.uint(), LSN(c.uint())
			return
		case *Column:
			x.TypeMod = -1 // the meaning of a missing key
		}
		c.object(v)
	case reflect.Map:
		m := make(map[string]string)
		for n := c.mapLen(); n > 0 && c.err == nil; n-- {
			key := string(c.str())
			if _, ok := m[key]; ok {
				c.fail(errTwice)
			}
			m[key] = string(c.str())
		}
		v.Set(reflect.ValueOf(m))
	case reflect.Slice:
		for n := c.arrayLen(); n > 0 && c.err == nil; n-- {
			v.Grow(1)
			v.SetLen(v.Len() + 1)
			c.field(v.Index(v.Len() - 1))
		}
	default:
		panic("format: no encoding for " + v.Type().String())
	}
}

// address reads an Object. It skips elements that a later version adds.
func (c *cursor) address(o *Object) {
	n := c.arrayLen()
	if n < 3 {
		c.fail(errType)
	}
	o.Type = string(c.str())
	for _, list := range []*[]string{&o.Names, &o.Args} {
		for i := c.arrayLen(); i > 0 && c.err == nil; i-- {
			*list = append(*list, string(c.str()))
		}
	}
	for n -= 3; n > 0 && c.err == nil; n-- {
		c.skip()
	}
}

// EncodeMsgpack encodes an Object as an array.
func (o Object) EncodeMsgpack(enc *msgpack.Encoder) error {
	err := errors.Join(enc.EncodeArrayLen(3), enc.EncodeString(o.Type))
	for _, list := range [][]string{o.Names, o.Args} {
		err = errors.Join(err, enc.EncodeArrayLen(len(list)))
		for _, s := range list {
			err = errors.Join(err, enc.EncodeString(s))
		}
	}
	return err
}

var errTimelineEnd = errors.New("not a pair of a timeline and the LSN of its end")

var errField = errors.New("missing or invalid field")

func fieldError(name string) error { return fmt.Errorf("%w %q", errField, name) }

func (r *Header) appendBody(b []byte) ([]byte, error) { return appendMap(b, r) }

func (r *Header) decodeBody(body []byte) error {
	*r = Header{}
	return decodeMap(body, r)
}

func (r *Header) validate() error {
	switch {
	case r.StreamKind != Load && r.StreamKind != Changes && r.StreamKind != Repair:
		return fieldError("kind")
	case r.StreamKind == Changes && r.SystemID == "":
		return fieldError("system_id")
	case r.StreamKind == Changes && r.Database == "":
		return fieldError("database")
	case r.StreamKind == Changes && r.Slot == "":
		return fieldError("slot")
	case r.Encoding != "" && r.Encoding != "UTF8" && r.Encoding != "SQL_ASCII":
		return fieldError("encoding")
	case r.Load != nil && r.StreamKind != Load:
		return fieldError("load")
	case r.Load != nil && (r.Load.Part > r.Load.Parts || r.Load.Part == 0 && r.Load.Parts > 0):
		return fieldError("load.part")
	}
	return nil
}

func (r *End) appendBody(b []byte) ([]byte, error) { return appendMap(b, r) }

func (r *End) decodeBody(body []byte) error {
	*r = End{}
	return decodeMap(body, r)
}

func (r *End) validate() error {
	if r.Reason != Complete && r.Reason != Stopped {
		return fieldError("reason")
	}
	return nil
}

func (r *Relation) appendBody(b []byte) ([]byte, error) { return appendMap(b, r) }

func (r *Relation) decodeBody(body []byte) error {
	*r = Relation{}
	return decodeMap(body, r)
}

func (r *Relation) validate() error {
	if r.ID == 0 {
		return fieldError("id")
	}
	if r.Name == "" {
		return fieldError("name")
	}
	if len(r.Columns) > maxElems {
		return fieldError("columns")
	}
	for i := range r.Columns {
		if r.Columns[i].Name == "" {
			return fieldError("columns.name")
		}
	}
	return nil
}

func (r *DDL) appendBody(b []byte) ([]byte, error) { return appendMap(b, r) }

func (r *DDL) decodeBody(body []byte) error {
	*r = DDL{}
	return decodeMap(body, r)
}

func (r *DDL) validate() error {
	if r.Section != PreData && r.Section != PostData && r.Section != Change {
		return fieldError("section")
	}
	if len(r.After) > maxElems {
		return fieldError("after")
	}
	if len(r.Objects) > maxElems {
		return fieldError("objects")
	}
	return nil
}

func (r *CopyBegin) appendBody(b []byte) ([]byte, error) { return appendMap(b, r) }

func (r *CopyBegin) decodeBody(body []byte) error {
	*r = CopyBegin{}
	return decodeMap(body, r)
}

func (r *CopyBegin) validate() error {
	switch {
	case r.Format != CopyText && r.Format != CopyBinary:
		return fieldError("format")
	case len(r.Columns) > maxElems:
		return fieldError("columns")
	case r.Index == 0 || r.Index > r.Of:
		return fieldError("index")
	}
	return nil
}

func (r *Sequence) appendBody(b []byte) ([]byte, error) { return appendMap(b, r) }

func (r *Sequence) decodeBody(body []byte) error {
	*r = Sequence{}
	return decodeMap(body, r)
}

func (r *Sequence) validate() error {
	if r.Name == "" {
		return fieldError("name")
	}
	return nil
}

func (r *Fingerprint) appendBody(b []byte) ([]byte, error) { return appendMap(b, r) }

func (r *Fingerprint) decodeBody(body []byte) error {
	*r = Fingerprint{}
	return decodeMap(body, r)
}

func (r *Fingerprint) validate() error {
	switch {
	case r.Class == "":
		return fieldError("class")
	case r.Name == "":
		return fieldError("name")
	}
	return nil
}

// EncodeMsgpack encodes a TimelineEnd as an array of two numbers.
func (t TimelineEnd) EncodeMsgpack(enc *msgpack.Encoder) error {
	if err := enc.EncodeArrayLen(2); err != nil {
		return err
	}
	if err := enc.EncodeUint(t.Timeline); err != nil {
		return err
	}
	return enc.EncodeUint(uint64(t.End))
}

// EncodeMsgpack encodes an LSN in a map as a number. Without it, the msgpack library would write
// the text form.
func (l LSN) EncodeMsgpack(enc *msgpack.Encoder) error { return enc.EncodeUint(uint64(l)) }
