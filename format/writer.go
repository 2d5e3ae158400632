package format

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// writeBuffer is the size at which Writer writes its buffer. Together with the pipe's own buffer it
// allows few large writes, and it is small in proportion to a program's other memory.
const writeBuffer = 256 << 10

// A Writer writes a stream: a header, records, and an end.
//
// A header of the same source and slot may also follow a stream without an end. The incomplete part
// of that stream is then void, and must be written again.
//
// A Writer refuses records that are not allowed at their place. After an error, every call returns
// the same error. A Writer buffers: it writes to the underlying writer when the buffer is full, or
// on Flush. It is not safe for concurrent use.
type Writer struct {
	w     io.Writer
	buf   []byte
	order order
	err   error
	n     int64
	torn  bool   // within a record; only a header may follow
	piece []byte // a frame's bytes from WriteFrom's reader
}

// NewWriter returns a Writer on w. The caller closes w.
func NewWriter(w io.Writer) *Writer {
	return &Writer{w: w, buf: make([]byte, 0, writeBuffer)}
}

// Write writes a record. It keeps no reference to the record. It does not copy the large values of
// a record that is longer than a frame.
func (w *Writer) Write(rec Record) error {
	if w.err != nil {
		return w.err
	}
	if err := w.write(rec); err != nil {
		w.err = err
	}
	return w.err
}

func (w *Writer) write(rec Record) error {
	switch r := rec.(type) {
	case *CopyData:
		if len(r.Data) >= writeBuffer/4 && len(r.Data) <= maxFrame-32 {
			return w.writeCopyData(r)
		}
	case *Header:
		if err := w.prepareHeader(r); err != nil {
			return err
		}
	case *Unknown:
		if !r.K.Ignorable() || r.K.known() {
			return &OrderError{Kind: r.K, Reason: "only ignorable records that are not known can be forwarded unread"}
		}
	}
	if err := w.enter(rec); err != nil {
		return err
	}
	// Write the body after room for a short head, which is almost always enough.
	start := len(w.buf)
	b, err := rec.appendBody(append(w.buf, make([]byte, headMin)...))
	if err == errInPieces {
		return w.writeLong(rec.(longRecord), new(cuts))
	}
	if err != nil {
		return fmt.Errorf("encode %v record: %w", rec.Kind(), err)
	}
	w.buf = b[:start]
	body := b[start+headMin:]
	k := rec.Kind()
	switch n := len(body); {
	case k == KindHeader && n > maxHeader:
		return fmt.Errorf("header of %d bytes: %w", n, ErrTooLarge)
	case n > maxRecord:
		return fmt.Errorf("%v record of %d bytes: %w", k, n, ErrTooLarge)
	case n > maxFrame:
		if err := w.flush(); err != nil {
			return err
		}
		w.buf = make([]byte, 0, writeBuffer) // the body is in the old buffer
		return w.writePieces(k, body, new(cuts))
	case n > 255: // the head is longer: move the body
		b = append(b, 0, 0, 0)
		size := headMin + 1
		if n > 0xffff {
			size = headMax
		}
		copy(b[start+size:], b[start+headMin:start+headMin+n])
		b = b[:start+size+n]
		body = b[start+size:]
	}
	appendFrameHead(b[:start], k, frameCRC(k, body), len(body))
	w.buf = b
	w.order.end.Frames++
	if len(w.buf) >= writeBuffer {
		return w.flush()
	}
	return nil
}

// enter checks that rec may come next.
func (w *Writer) enter(rec Record) error {
	if w.torn && rec.Kind() != KindHeader {
		return &OrderError{Kind: rec.Kind(), Reason: "the record before it is torn"}
	}
	w.torn = false
	return w.order.step(rec)
}

// writeCopyData writes a large chunk without copying its data.
func (w *Writer) writeCopyData(r *CopyData) error {
	if err := w.enter(r); err != nil {
		return err
	}
	start := len(w.buf) // data this long always has the longest head
	b := r.appendHead(append(w.buf, make([]byte, headMax)...))
	h := b[start+headMax:]
	crc := crc32.Update(frameCRC(KindCopyData, h), castagnoli, r.Data)
	appendFrameHead(b[:start], KindCopyData, crc, len(h)+len(r.Data))
	w.buf = b
	w.order.end.Frames++
	if err := w.flush(); err != nil {
		return err
	}
	return w.put(r.Data)
}

func (w *Writer) prepareHeader(h *Header) error {
	h.Magic, h.Version, h.Minor = magic, Version, min(h.Minor, Minor)
	if h.Token != "" || len(h.History) > 0 || h.SourceLSN != 0 || h.Load != nil && h.Load.Probe != 0 {
		h.Minor = max(h.Minor, 1)
	}
	if h.Load != nil && len(h.Load.Without) > 0 {
		h.Minor = max(h.Minor, 2)
	}
	if err := h.validate(); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	return nil
}

// End writes the end record with this stream's totals, and flushes. lsn becomes the end's LSN if it
// is greater than the position of the records. Another header may follow.
func (w *Writer) End(reason string, lsn LSN) (End, error) {
	e := w.order.end
	e.Reason, e.LSN = reason, max(e.LSN, lsn)
	if err := w.Write(&e); err != nil {
		return End{}, err
	}
	return e, w.Flush()
}

// Flush writes the buffered bytes.
func (w *Writer) Flush() error {
	if w.err == nil {
		w.err = w.flush()
	}
	return w.err
}

func (w *Writer) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	err := w.put(w.buf)
	if cap(w.buf) > 2*writeBuffer+maxFrame {
		w.buf = make([]byte, 0, writeBuffer)
	}
	w.buf = w.buf[:0]
	return err
}

func (w *Writer) put(b []byte) error {
	n, err := w.w.Write(b)
	w.n += int64(n)
	if err == nil && n < len(b) {
		return io.ErrShortWrite
	}
	return err
}

// Totals returns the content of an end record written now.
func (w *Writer) Totals() End { return w.order.end }

// Buffered returns the number of bytes that Flush would write.
func (w *Writer) Buffered() int { return len(w.buf) }

// N returns the number of bytes written, without the buffered bytes.
func (w *Writer) N() int64 { return w.n }

// InTransaction reports whether a transaction or block is open, or a record is torn. The stream
// cannot end in that state.
func (w *Writer) InTransaction() bool {
	return w.order.state == inTx || w.order.state == inBlock || w.torn
}

// Close flushes. It returns an error if the Writer's stream has no end.
func (w *Writer) Close() error {
	if err := w.Flush(); err != nil {
		return err
	}
	if w.order.state != afterEnd {
		w.err = errors.New("stream closed without an end record")
	}
	return w.err
}
