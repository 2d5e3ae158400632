package format

// A long record comes in pieces. They are gathered in one piece of memory, which is used again for
// the next one, or given back if it is large.

// keepLong is how large a long record's memory may be to be kept for the next one.
const keepLong = 4 << 20

// LongRecords has the Reader keep records of more than a few megabytes in memory from alloc,
// instead of the garbage collector's, which holds several times as much as it needs to. alloc is
// asked for as many bytes as the longest possible record has (2^30, and a few more), of which only
// the front is touched, by as much as has arrived: it is meant for memory that costs nothing before
// it is used, like that of mmap, and returns nil if there is none. free gets it back when the
// record is not valid any more: at the next call of Next.
func (r *Reader) LongRecords(alloc func(n int) []byte, free func([]byte)) {
	r.alloc, r.free = alloc, free
}

// DropMessages has the Reader drop the content of messages that come in several pieces, piece by
// piece: then Content is nil. It is for readers that have no use for messages. What stands around
// the content is checked as ever. (An unknown record that begins like a message has a Body of nil,
// too.)
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

// openMessage takes the front of what may be a message whose content is to be dropped, and returns
// what follows. The kind is only known with the last piece; but no other body that we know begins
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
	r.long = append(append(r.long, head...), 0xc4, 0) // without content
	r.drop = int(n)
	return c.b
}

// forgetContent marks a record whose content was dropped. An unknown one that begins like a message
// has lost its body as well.
func forgetContent(rec Record) {
	switch r := rec.(type) {
	case *Message:
		r.Content = nil
	case *Unknown:
		r.Body = nil
	}
}
