package pgwire

import (
	"io"

	"github.com/pgsluice/pgsluice/cmd/internal/huge"
)

// A message larger than largeMessage does not pass through the buffer as a whole. The receiver gets
// its beginning. The receiver then reads the rest in pieces, or calls Whole to assemble the message
// in separate memory. The next read of a message skips an unread rest.

const (
	// largeMessage is the size above which a CopyData message is large.
	largeMessage = 1 << 20
	// keepLarge is the largest memory of a whole message that is kept for the next one.
	keepLarge = 8 << 20
)

// messageOrBegin is like message, but returns only the beginning of a large CopyData message.
func (c *Conn) messageOrBegin() (byte, []byte, error) {
	if c.rest > 0 || c.begun != nil || len(c.whole) > keepLarge {
		if err := c.skipRest(); err != nil {
			return 0, nil, err
		}
	}
	n, err := c.head()
	if err != nil {
		return 0, nil, err
	}
	if n <= largeMessage || c.buf[c.pos] != 'd' {
		return c.take(n)
	}
	if err := c.fill(bufferSize); err != nil {
		return 0, nil, err
	}
	c.begun = c.buf[c.pos+5 : min(c.end, c.pos+n)]
	c.pos += 5 + len(c.begun)
	c.rest = n - 5 - len(c.begun)
	return 'd', c.begun, nil
}

// Rest returns the number of unread bytes of the message that Receive returned last.
func (c *Conn) Rest() int { return c.rest }

// Read reads from the rest of the message that Receive returned last. It returns io.EOF at the end
// of the message, not of the connection. After a deadline has passed, the next call continues in
// the message.
func (c *Conn) Read(p []byte) (int, error) {
	if c.rest == 0 {
		return 0, io.EOF
	}
	if len(p) > c.rest {
		p = p[:c.rest]
	}
	if c.pos < c.end {
		n := copy(p, c.buf[c.pos:c.end])
		c.pos += n
		c.rest -= n
		return n, nil
	}
	n, err := c.nc.Read(p)
	c.rest -= n
	if n > 0 {
		return n, nil // the connection returns the error again
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return 0, err
}

// Whole reads the rest of a message of which Receive returned only the beginning (Rest is not 0).
// It returns the whole message, valid until the next call to Receive. After a deadline has passed,
// the next call continues.
func (c *Conn) Whole() ([]byte, error) {
	if c.begun != nil {
		n := len(c.begun) + c.rest
		if len(c.whole) < n {
			huge.Free(c.whole)
			c.whole = huge.Alloc(n)
		}
		c.got = copy(c.whole, c.begun)
		c.begun = nil
	}
	for c.rest > 0 {
		n, err := c.Read(c.whole[c.got : c.got+c.rest])
		c.got += n
		if err != nil {
			return nil, err
		}
	}
	return c.whole[:c.got], nil
}

// skipRest skips the unread rest of a large message, and frees its memory.
func (c *Conn) skipRest() error {
	c.begun = nil
	if len(c.whole) > keepLarge {
		huge.Free(c.whole)
		c.whole = nil
	}
	for c.rest > 0 {
		if c.pos == c.end {
			c.pos, c.end = 0, 0
			n, err := c.nc.Read(c.buf)
			c.end = n
			if n == 0 && err != nil {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return err
			}
		}
		n := min(c.rest, c.end-c.pos)
		c.pos += n
		c.rest -= n
	}
	return nil
}
