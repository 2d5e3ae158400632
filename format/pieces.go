package format

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Long records, those whose body is larger than a frame. A Writer copies nothing of their large
// values: it cuts the body where a frame is full, and writes each frame from where its bytes are.

// A longRecord can be encoded without its large values.
type longRecord interface {
	Record
	// appendCut appends the body to b, but for the values that c takes. If c is nil, it takes none.
	appendCut(b []byte, c *cuts) ([]byte, error)
}

// cuts are the values that are missing in an encoded body. A nil one takes none.
type cuts struct {
	list []cut
	size int // of all of them

	from io.Reader // has the record's data, of which there are n bytes
	n    int
}

// A cut is a value that belongs before the byte at of the encoded body.
type cut struct {
	at   int
	n    int
	data []byte
	from io.Reader // of the data, if that is nil
}

// minCut is from which length on a value is not copied.
const minCut = 4 << 10

// errInPieces says that a body is too long to be encoded in one go.
var errInPieces = errors.New("body of several pieces")

// append appends data to b, or takes it.
func (c *cuts) append(b, data []byte) ([]byte, error) {
	switch {
	case len(data) < minCut:
		return append(b, data...), nil
	case c == nil:
		if len(b)+len(data) > maxFrame+writeBuffer+headMax {
			// b may begin with what is in the buffer
			return b, errInPieces
		}
		return append(b, data...), nil
	}
	c.list = append(c.list, cut{at: len(b), n: len(data), data: data})
	c.size += len(data)
	return b, nil
}

// bin appends the data of a record that has one value of it.
func (c *cuts) bin(b, data []byte) ([]byte, error) {
	if c == nil || c.from == nil {
		return c.append(appendBinLen(b, len(data)), data)
	}
	b = appendBinLen(b, c.n)
	c.list = append(c.list, cut{at: len(b), n: c.n, from: c.from})
	c.size += c.n
	return b, nil
}

// WriteFrom writes a *CopyData, *Message or *LargeObject whose Data or Content, which must be
// empty, is the next size bytes of r. It never holds more of it than a frame. If r fails, that is
// the error: then the record is torn, and only a Header may follow.
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

// A readError is one of the reader that a record's data comes from.
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

// writeLong writes a record that is longer than a frame, or may be.
func (w *Writer) writeLong(rec longRecord, c *cuts) error {
	body, err := rec.appendCut(nil, c)
	if err != nil {
		return fmt.Errorf("encode %v record: %w", rec.Kind(), err)
	}
	return w.writePieces(rec.Kind(), body, c)
}

// writePieces writes a body, and what was cut from it, in frames.
func (w *Writer) writePieces(k Kind, body []byte, c *cuts) error {
	left := len(body) + c.size
	if left > maxRecord {
		return fmt.Errorf("%v record of %d bytes: %w", k, left, ErrTooLarge)
	}
	if err := w.flush(); err != nil {
		return err
	}
	w.torn = true
	var parts [][]byte // of a frame
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

// A remainder is what has not been written yet of a body and of the values that were cut from it.
type remainder struct {
	body []byte
	at   int // in the body
	cuts []cut
}

// next takes what comes next, at most room bytes of it. What comes from a reader is in w's buffer
// for it, which has one frame's bytes at a time.
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
