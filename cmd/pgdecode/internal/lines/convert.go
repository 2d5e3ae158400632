package lines

import (
	"bytes"
	"errors"

	"github.com/pgsluice/pgsluice/cmd/internal/testdecoding"
	"github.com/pgsluice/pgsluice/format"
)

var errByte = errors.New("a byte that the encoding of the source's database does not have")

// convert returns a line in UTF-8. A message stays as it is: its size counts its bytes, and its
// content has no encoding.
func (d *Decoder) convert(line []byte) ([]byte, error) {
	if d.High == nil || bytes.HasPrefix(line, []byte("message: ")) {
		return line, nil
	}
	return d.convertText(line)
}

func (d *Decoder) convertText(text []byte) ([]byte, error) {
	first := bytes.IndexFunc(text, func(r rune) bool { return r >= 0x80 })
	if d.High == nil || first < 0 {
		return text, nil
	}
	out := append(make([]byte, 0, len(text)+len(text)/2), text[:first]...)
	for _, b := range text[first:] {
		switch {
		case b < 0x80:
			out = append(out, b)
		case d.High[b-0x80] == "":
			return nil, errByte
		default:
			out = append(out, d.High[b-0x80]...)
		}
	}
	return out, nil
}

func (d *Decoder) message(l *testdecoding.Line, lsn format.LSN, xid uint32, write func(format.Record) error) error {
	prefix, err := d.convertText(l.Prefix)
	if err != nil {
		return err
	}
	return write(&format.Message{Transactional: l.Transactional, LSN: lsn, Prefix: prefix, Content: l.Content, XID: xid})
}
