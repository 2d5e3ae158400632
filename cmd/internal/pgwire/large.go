package pgwire

import (
	"io"

	"github.com/pgsluice/pgsluice/cmd/internal/huge"
)

// Messages that are larger than largeMessage do not go through the buffer as a whole: whoever
// receives one gets its beginning, and then passes the rest on in pieces, or has it put together in
// memory that is lent for it. Unread rest is skipped by whatever reads next.

const (
	// largeMessage is from which size on a CopyData message is large.
	largeMessage = 1 << 20
	// keepLarge is how large the memory of a whole message may be to be kept for the next one.
	keepLarge = 8 << 20
)

// messageOrBegin is message, but of a large message of CopyData it returns the beginning.
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

// Rest returns how many bytes of the message that Receive has begun are still to be read.
func (c *Conn) Rest() int { return c.rest }

// Read reads on in a message that Receive has begun. It returns io.EOF at the message's end, not
// the connection's. A deadline that passes leaves the message where it is.
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
		return n, nil // an error that came with it comes again
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return 0, err
}

// Whole reads a message that Receive has only begun (Rest is not 0) to its end, and returns all of
// it, valid until the next call of Receive. If a deadline passes meanwhile, the next call goes on.
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

// skipRest skips what has not been read of a large message, and gives its memory back.
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
