package format

// A long record arrives in pieces. The Reader gathers them in one buffer, which it reuses for the
// next long record unless the buffer is large.

// keepLong is the size up to which the Reader keeps a long record's buffer for the next one.
const keepLong = 4 << 20

// LongRecords makes the Reader keep records of more than a few megabytes in memory from alloc. The
// garbage collector would hold several times as much as a record needs.
//
// alloc is called with the size of the longest possible record (slightly more than 2^30 bytes). The
// Reader touches only as much of the front as has arrived, so alloc should return memory that costs
// nothing until it is used, like that of mmap. alloc returns nil if it has no memory. The Reader
// calls free once the record is no longer valid: at the next call to Next.
func (r *Reader) LongRecords(alloc func(n int) []byte, free func([]byte)) {
	r.alloc, r.free = alloc, free
}

// DropMessages makes the Reader drop the content of messages that arrive in several pieces, one
// piece at a time. Content is then nil. It is for readers that do not use messages. The Reader
// still checks everything around the content. (An unknown record that begins like a message also
// loses its Body.)
func (r *Reader) DropMessages() { r.dropMessages = true }

// gather adds a piece to a long record.
func (r *Reader) gather(piece []byte) error {
	if len(r.long)+r.dropped+len(piece) > r.limit {
		return ErrTooLarge
	}
	if r.long == nil {
		if r.long = r.kept[:0]; r.long == nil {
			r.long = make([]byte, 0, len(piece))
		}
		piece = r.openMessage(piece)
	}
	n := min(r.drop, len(piece))
	r.drop -= n
	r.dropped += n
	piece = piece[n:]
	if n := len(r.long) + len(piece); n > keepLong && r.lent == nil && r.alloc != nil {
		if r.lent = r.alloc(r.limit); r.lent != nil {
			r.long = r.lent[:copy(r.lent, r.long)]
		}
	}
	r.long = append(r.long, piece...)
	return nil
}

// release forgets the long record.
func (r *Reader) release() {
	switch {
	case r.lent != nil:
		r.free(r.lent)
		r.lent = nil
	case r.long != nil && cap(r.long) <= keepLong:
		r.kept = r.long
	}
	r.long, r.drop, r.dropped = nil, 0, 0
}

// openMessage reads the front of a record that may be a message whose content is dropped, and
// returns the rest of the piece. Only the last piece tells the kind, but no other known body begins
// with a bool.
func (r *Reader) openMessage(piece []byte) []byte {
	if !r.dropMessages {
		return piece
	}
	c := cursor{b: piece}
	c.fields(4)
	c.bool()
	c.uint()
	c.str()
	head := piece[:len(piece)-len(c.b)]
	m := c.marker()
	if m < 0xc4 || m > 0xc6 {
		return piece
	}
	n := c.be(1 << (m - 0xc4))
	if c.err != nil {
		return piece
	}
	r.long = append(append(r.long, head...), 0xc4, 0) // empty content
	r.drop = int(n)
	return c.b
}

// forgetContent marks a record whose content was dropped. An unknown record that begins like a
// message has lost its body.
func forgetContent(rec Record) {
	switch r := rec.(type) {
	case *Message:
		r.Content = nil
	case *Unknown:
		r.Body = nil
	}
}
