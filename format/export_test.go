package format

import "github.com/vmihailenco/msgpack/v5"

// AppendBody lets the tests have bodies of records that Writer refuses.
func AppendBody(r Record) ([]byte, error) { return r.appendBody(nil) }

// SetLimit makes the limit of a record small enough for a test.
func (r *Reader) SetLimit(n int) { r.limit = n }

// DecodeMsgpack lets tests compare with what the msgpack library reads.
func (l *LSN) DecodeMsgpack(dec *msgpack.Decoder) error {
	v, err := dec.DecodeUint64()
	*l = LSN(v)
	return err
}
