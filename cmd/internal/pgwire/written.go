package pgwire

import (
	"encoding/binary"
	"errors"
	"io"
)

// Written supplies a parameter in text format that write produces. The batch calls write once to
// learn the length, and once more, at the latest in Run, to send the bytes. Both calls must write
// the same bytes. The batch does not keep the bytes.
func (b *Batch) Written(write func(io.Writer)) {
	var n counter
	write(&n)
	b.buf = binary.BigEndian.AppendUint32(b.buf, uint32(n))
	b.cuts = append(b.cuts, cut{at: len(b.buf), size: int(n), write: write})
	b.taken += int(n)
}

// A counter counts the bytes written to it.
type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// sendCut writes a value that was cut from the buffer.
func (b *Batch) sendCut(c *cut) error {
	if c.write == nil {
		_, err := b.c.nc.Write(c.value)
		return err
	}
	w := &sender{w: b.c.nc, left: c.size}
	c.write(w)
	if w.err == nil && w.left > 0 {
		return errors.New("a value has become shorter")
	}
	return w.err
}

// A sender keeps its first error, because writers may ignore the errors of Write.
type sender struct {
	w    io.Writer
	left int
	err  error
}

func (s *sender) Write(p []byte) (int, error) {
	if s.err == nil && len(p) > s.left {
		s.err = errors.New("a value has become longer")
	}
	if s.err == nil {
		s.left -= len(p)
		_, s.err = s.w.Write(p)
	}
	return len(p), s.err
}
