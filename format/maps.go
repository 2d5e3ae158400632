package format

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/vmihailenco/msgpack/v5"
)

// Bodies of the rare records: maps, written and read by the msgpack library.

func appendMap(b []byte, v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := msgpack.NewEncoder(&buf)
	enc.UseCompactInts(true)
	if err := enc.Encode(v); err != nil {
		return b, err
	}
	return append(b, buf.Bytes()...), nil
}

// decodeMap sets v, which must be a pointer to a zero value. The body is walked first: the library would follow hostile nesting
// until the stack is full, and allocate whatever length is announced. What has been walked is well-formed, so both are bounded by it.
func decodeMap(body []byte, v any) error {
	c := cursor{b: body}
	if len(body) == 0 || body[0]&0xf0 != 0x80 && body[0] != 0xde && body[0] != 0xdf {
		return errType
	}
	c.skip()
	if err := c.rest(0); err != nil {
		return err
	}
	return msgpack.Unmarshal(body, v)
}

var errField = errors.New("missing or invalid field")

func fieldError(name string) error { return fmt.Errorf("%w %q", errField, name) }

func (r *Header) appendBody(b []byte) ([]byte, error) { return appendMap(b, r) }

func (r *Header) decodeBody(body []byte) error {
	*r = Header{}
	if err := decodeMap(body, r); err != nil {
		return err
	}
	return r.validate()
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
	if err := decodeMap(body, r); err != nil {
		return err
	}
	if r.Reason != Complete && r.Reason != Stopped {
		return fieldError("reason")
	}
	return nil
}

func (r *Relation) appendBody(b []byte) ([]byte, error) { return appendMap(b, r) }

func (r *Relation) decodeBody(body []byte) error {
	*r = Relation{}
	if err := decodeMap(body, r); err != nil {
		return err
	}
	return r.validate()
}

func (r *Relation) validate() error {
	if r.ID == 0 {
		return fieldError("id")
	}
	if r.Name == "" {
		return fieldError("name")
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
	if err := decodeMap(body, r); err != nil {
		return err
	}
	return r.validate()
}

func (r *DDL) validate() error {
	if r.Section != PreData && r.Section != PostData && r.Section != Change {
		return fieldError("section")
	}
	return nil
}

func (r *CopyBegin) appendBody(b []byte) ([]byte, error) { return appendMap(b, r) }

func (r *CopyBegin) decodeBody(body []byte) error {
	*r = CopyBegin{}
	if err := decodeMap(body, r); err != nil {
		return err
	}
	return r.validate()
}

func (r *CopyBegin) validate() error {
	switch {
	case r.Format != CopyText && r.Format != CopyBinary:
		return fieldError("format")
	case r.Index == 0 || r.Index > r.Of:
		return fieldError("index")
	}
	return nil
}

func (r *Sequence) appendBody(b []byte) ([]byte, error) { return appendMap(b, r) }

func (r *Sequence) decodeBody(body []byte) error {
	*r = Sequence{}
	if err := decodeMap(body, r); err != nil {
		return err
	}
	if r.Name == "" {
		return fieldError("name")
	}
	return nil
}

// EncodeMsgpack and DecodeMsgpack make an LSN in a map a number. Without them the library would take its text form.
func (l LSN) EncodeMsgpack(enc *msgpack.Encoder) error { return enc.EncodeUint(uint64(l)) }

// DecodeMsgpack decodes what EncodeMsgpack wrote.
func (l *LSN) DecodeMsgpack(dec *msgpack.Decoder) error {
	v, err := dec.DecodeUint64()
	*l = LSN(v)
	return err
}
