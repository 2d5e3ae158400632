package format

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A long record has a body larger than a frame. A Writer does not copy its large values: it splits
// the body where a frame is full, and writes each frame from the original memory.

// A longRecord can be encoded without its large values.
type longRecord interface {
	Record
	// appendCut appends the body to b without the values that c takes. A nil c takes none.
	appendCut(b []byte, c *cuts) ([]byte, error)
}

// cuts are the values left out of an encoded body. A nil *cuts leaves out none.
type cuts struct {
	list []cut
	size int // total size of the values

	from io.Reader // supplies the record's data, n bytes
	n    int
}

// A cut is a value that belongs before the byte at offset at of the encoded body.
type cut struct {
	at   int
	n    int
	data []byte
	from io.Reader // supplies the data if data is nil
}

// minCut is the length from which on a Writer does not copy a value.
const minCut = 4 << 10

// errInPieces means that a body is too long to be encoded at once.
var errInPieces = errors.New("body of several pieces")

// append appends data to b, or adds it to the cuts.
func (c *cuts) append(b, data []byte) ([]byte, error) {
	switch {
	case len(data) < minCut:
		return append(b, data...), nil
	case c == nil:
		if len(b)+len(data) > maxFrame+writeBuffer+headMax {
			// b may begin with the Writer's buffered bytes.
			return b, errInPieces
		}
		return append(b, data...), nil
	}
	c.list = append(c.list, cut{at: len(b), n: len(data), data: data})
	c.size += len(data)
	return b, nil
}

// bin appends the data of a record that has a single value.
func (c *cuts) bin(b, data []byte) ([]byte, error) {
	if c == nil || c.from == nil {
		return c.append(appendBinLen(b, len(data)), data)
	}
	b = appendBinLen(b, c.n)
	c.list = append(c.list, cut{at: len(b), n: c.n, from: c.from})
	c.size += c.n
	return b, nil
}

// WriteFrom writes a *CopyData, *Message or *LargeObject. Its Data or Content must be empty:
// WriteFrom takes the next size bytes of r instead, and never holds more than a frame of them. If r
// fails, WriteFrom returns that error. The record is then torn, and only a Header may follow.
func (w *Writer) WriteFrom(rec Record, size int, r io.Reader) error {
	if w.err != nil {
		return w.err
	}
	err := w.writeFrom(rec, &cuts{from: r, n: size})
	var torn *readError
	if errors.As(err, &torn) {
		return torn.err
	}
	w.err = err
	return err
}

// A readError is an error of the reader that supplies a record's data.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }

func (w *Writer) writeFrom(rec Record, c *cuts) error {
	empty := false
	switch r := rec.(type) {
	case *CopyData:
		empty = len(r.Data) == 0
	case *LargeObject:
		empty = len(r.Data) == 0
	case *Message:
		empty = len(r.Content) == 0
	}
	if !empty || c.n < 0 || c.n > maxRecord {
		return fmt.Errorf("%v record with %d bytes from a reader", rec.Kind(), c.n)
	}
	if err := w.enter(rec); err != nil {
		return err
	}
	if d, ok := rec.(*CopyData); ok {
		w.order.parts[d.Part].Bytes += uint64(c.n)
	}
	return w.writeLong(rec.(longRecord), c)
}

// writeLong writes a record that is, or may be, longer than a frame.
func (w *Writer) writeLong(rec longRecord, c *cuts) error {
	body, err := rec.appendCut(nil, c)
	if err != nil {
		return fmt.Errorf("encode %v record: %w", rec.Kind(), err)
	}
	return w.writePieces(rec.Kind(), body, c)
}

// writePieces writes a body and the values cut from it, in frames.
func (w *Writer) writePieces(k Kind, body []byte, c *cuts) error {
	left := len(body) + c.size
	if left > maxRecord {
		return fmt.Errorf("%v record of %d bytes: %w", k, left, ErrTooLarge)
	}
	if err := w.flush(); err != nil {
		return err
	}
	w.torn = true
	var parts [][]byte // of one frame
	rest := remainder{body: body, cuts: c.list}
	for left > 0 {
		n := min(left, maxFrame)
		left -= n
		kind := KindContinued
		if left == 0 {
			kind = k
		}
		parts = parts[:0]
		crc := kindCRC[kind]
		for room := n; room > 0; {
			p, err := rest.next(w, room)
			if err != nil {
				return err
			}
			room -= len(p)
			crc = crc32.Update(crc, castagnoli, p)
			parts = append(parts, p)
		}
		w.buf = appendFrameHead(w.buf[:0], kind, crc, n)
		for _, p := range parts {
			if len(w.buf)+len(p) <= writeBuffer {
				w.buf = append(w.buf, p...)
				continue
			}
			if err := w.flush(); err != nil {
				return err
			}
			if err := w.put(p); err != nil {
				return err
			}
		}
		if err := w.flush(); err != nil {
			return err
		}
		w.order.end.Frames++
	}
	w.torn = false
	return nil
}

// A remainder is the unwritten rest of a body and of the values cut from it.
type remainder struct {
	body []byte
	at   int // offset in the body
	cuts []cut
}

// next returns the next bytes, at most room of them. It reads the bytes of an io.Reader into
// w.piece, which holds one frame.
func (r *remainder) next(w *Writer, room int) ([]byte, error) {
	if len(r.cuts) == 0 || r.cuts[0].at != r.at {
		end := len(r.body)
		if len(r.cuts) > 0 {
			end = r.cuts[0].at
		}
		p := r.body[r.at:min(end, r.at+room)]
		r.at += len(p)
		return p, nil
	}
	cut := &r.cuts[0]
	p := cut.data
	if m := min(room, cut.n); cut.from == nil {
		p = p[:m]
		cut.data = cut.data[m:]
	} else {
		if w.piece == nil {
			w.piece = make([]byte, maxFrame)
		}
		p = w.piece[:m]
		if _, err := io.ReadFull(cut.from, p); err != nil {
			return nil, &readError{err}
		}
	}
	if cut.n -= len(p); cut.n == 0 {
		r.cuts = r.cuts[1:]
	}
	return p, nil
}
