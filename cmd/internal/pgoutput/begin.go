package pgoutput

import "github.com/pgsluice/pgsluice/format"

// The beginning of a large message is enough to decide how to handle it.

// BeginMessage decodes the beginning of a logical message. It returns the record without its
// content, the content's offset, and its size in bytes. For other messages it returns nil.
func (d *Decoder) BeginMessage(begin []byte) (m *format.Message, at, size int) {
	if len(begin) == 0 || begin[0] != 'M' {
		return nil, 0, 0
	}
	c := &cursor{b: begin[1:]}
	m = d.messageHead(d.xid(c), c)
	size = int(c.uint32())
	if c.err != nil {
		return nil, 0, 0
	}
	return m, len(begin) - len(c.b), size
}

// Unwanted reports whether a message is dropped: a change of a relation that is left out, or, if
// its transaction is skipped, any change or logical message.
func (d *Decoder) Unwanted(begin []byte, skipping bool) bool {
	if len(begin) == 0 {
		return false
	}
	switch begin[0] {
	case 'I', 'U', 'D':
		c := &cursor{b: begin[1:]}
		d.xid(c)
		r, err := d.any(c)
		return err == nil && (skipping || r.skip && r.ddl == nil)
	case 'M':
		return skipping
	}
	return false
}
