package pgwire

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"strconv"

	"github.com/jackc/pgx/v5/pgproto3"
)

// flushAt is the size at which a batch sends its buffer. The server then executes the beginning of
// the batch while the client builds the rest.
const flushAt = 256 << 10

// fits is the number of bytes that the sockets' buffers hold even if the server reads nothing. To
// write more, the client must read answers at the same time: if they fill the other direction, the
// server blocks on its write and stops reading.
const fits = 16 << 10

// notCopied is the length from which on a batch sends a value without copying it.
const notCopied = 64 << 10

// keepAtMost is the largest buffer that is kept for the next batch.
const keepAtMost = 16 << 20

// A Batch is a sequence of statements that the client sends without waiting for answers: the
// extended protocol in pipeline mode. After the first error, the server skips everything up to the
// end of the batch.
//
// Each statement is Bind and Execute, or Do. BEGIN and COMMIT are statements as well. Between Bind
// and Execute, Null, Bytes and Array supply the parameters in order. A batch does not copy large
// values: they must not change before Run returns.
type Batch struct {
	c     *Conn
	buf   []byte
	cuts  []cut
	taken int // total size of the values in cuts
	open  int // offset of the open message's length
	param int // offset of the open parameter's length
	elems int // elements in the open array
	dims  int // offset of the open array's header
	err   error
	read  chan error // result of reading the answers; nil until reading starts
	ctx   context.Context
	stop  func()
}

// A cut is a value to send before the byte at offset at of the buffer.
type cut struct {
	at    int
	value []byte
	write func(io.Writer) // if not nil, writes the size bytes of the value
	size  int
}

// Batch begins a batch, which Run must end. Only one batch may be open. When ctx ends, the
// connection ends.
func (c *Conn) Batch(ctx context.Context) *Batch {
	c.result = Result{Counts: c.result.Counts[:0], Row: c.result.Row[:0], Tag: c.result.Tag[:0], Columns: c.result.Columns[:0]}
	b := &c.batch
	*b = Batch{c: c, buf: b.buf[:0], cuts: b.cuts[:0], stop: c.watch(ctx), ctx: ctx}
	return b
}

func (b *Batch) message(t byte) {
	b.buf = append(b.buf, t)
	b.open = b.mark()
}

// mark makes room for a length, and returns its offset. Until length sets it, it holds -taken, so
// that only later cuts count.
func (b *Batch) mark() int {
	at := len(b.buf)
	b.buf = binary.BigEndian.AppendUint32(b.buf, uint32(-b.taken))
	return at
}

// length sets a length to the number of bytes appended or cut since from.
func (b *Batch) length(at, from int) {
	n := uint32(len(b.buf)-from+b.taken) + binary.BigEndian.Uint32(b.buf[at:])
	binary.BigEndian.PutUint32(b.buf[at:], n)
}

func (b *Batch) close() {
	b.length(b.open, b.open)
	if len(b.buf)+b.taken >= flushAt {
		b.flush()
	}
}

func (b *Batch) flush() {
	if b.err == nil {
		if b.read == nil && len(b.buf)+b.taken > fits {
			c, read := b.c, make(chan error, 1)
			b.read = read
			go func() { read <- c.answers() }()
		}
		b.err = b.send()
	}
	b.buf, b.taken = b.buf[:0], 0
	clear(b.cuts) // release the values
	b.cuts = b.cuts[:0]
}

// send writes the buffer and the cut values, in order.
func (b *Batch) send() error {
	from := 0
	for i := range b.cuts {
		cut := &b.cuts[i]
		if _, err := b.c.nc.Write(b.buf[from:cut.at]); err != nil {
			return err
		}
		from = cut.at
		if err := b.sendCut(cut); err != nil {
			return err
		}
	}
	_, err := b.c.nc.Write(b.buf[from:])
	return err
}

// value appends a length and a value.
func (b *Batch) value(v []byte) {
	b.buf = binary.BigEndian.AppendUint32(b.buf, uint32(len(v)))
	if len(v) < notCopied {
		b.buf = append(b.buf, v...)
		return
	}
	b.cuts = append(b.cuts, cut{at: len(b.buf), value: v})
	b.taken += len(v)
}

func (b *Batch) cstring(s string) { b.buf = append(append(b.buf, s...), 0) }

// Parse prepares a statement under a name. The server infers the types of its parameters.
func (b *Batch) Parse(name, sql string) {
	b.message('P')
	b.cstring(name)
	b.cstring(sql)
	b.buf = append(b.buf, 0, 0)
	b.close()
}

// Describe asks for the columns of the rows that a prepared statement returns. The statement is not
// executed, so that nothing checks whether the role may.
func (b *Batch) Describe(name string) {
	b.message('D')
	b.buf = append(b.buf, 'S')
	b.cstring(name)
	b.close()
}

// Bind begins the execution of a prepared statement with n parameters. binary selects the format of
// each parameter; parameters beyond its length are text.
func (b *Batch) Bind(name string, n int, isBinary func(int) bool) {
	b.message('B')
	b.buf = append(b.buf, 0) // the unnamed portal
	b.cstring(name)
	b.buf = binary.BigEndian.AppendUint16(b.buf, uint16(n))
	for i := range n {
		f := byte(0)
		if isBinary != nil && isBinary(i) {
			f = 1
		}
		b.buf = append(b.buf, 0, f)
	}
	b.buf = binary.BigEndian.AppendUint16(b.buf, uint16(n))
}

// Null supplies a NULL parameter.
func (b *Batch) Null() { b.buf = append(b.buf, 0xff, 0xff, 0xff, 0xff) }

// Bytes supplies a parameter in the format that Bind announced.
func (b *Batch) Bytes(v []byte) { b.value(v) }

// String is Bytes for a string.
func (b *Batch) String(v string) {
	b.buf = binary.BigEndian.AppendUint32(b.buf, uint32(len(v)))
	b.buf = append(b.buf, v...)
}

// Array begins a parameter that is a one-dimensional array in binary format. Elem, NullElem and
// IntElem follow, then CloseArray.
func (b *Batch) Array(elemOID uint32) {
	b.param = b.mark()
	b.dims = len(b.buf)
	b.buf = append(b.buf, 0, 0, 0, 1, 0, 0, 0, 0)
	b.buf = binary.BigEndian.AppendUint32(b.buf, elemOID)
	b.buf = append(b.buf, 0, 0, 0, 0, 0, 0, 0, 1) // number of elements, lower bound
	b.elems = 0
}

// Elem appends an element to the open array.
func (b *Batch) Elem(v []byte) {
	b.value(v)
	b.elems++
}

// NullElem appends a NULL to the open array.
func (b *Batch) NullElem() {
	b.buf = append(b.buf, 0xff, 0xff, 0xff, 0xff)
	b.buf[b.dims+7] = 1 // the array has NULLs
	b.elems++
}

// IntElem appends an integer of size bytes to the open array.
func (b *Batch) IntElem(v int64, size int) {
	b.buf = append(b.buf, 0, 0, 0, byte(size))
	switch size {
	case 2:
		b.buf = binary.BigEndian.AppendUint16(b.buf, uint16(v))
	case 4:
		b.buf = binary.BigEndian.AppendUint32(b.buf, uint32(v))
	default:
		b.buf = binary.BigEndian.AppendUint64(b.buf, uint64(v))
	}
	b.elems++
}

// CloseArray closes the open array.
func (b *Batch) CloseArray() {
	binary.BigEndian.PutUint32(b.buf[b.dims+12:], uint32(b.elems))
	b.length(b.param, b.dims)
}

// Execute executes the statement that Bind began.
func (b *Batch) Execute() {
	b.buf = append(b.buf, 0, 0) // result columns in text format
	b.close()
	b.message('E')
	b.buf = append(b.buf, 0, 0, 0, 0, 0)
	b.close()
}

// Do executes a statement without parameters. It does not prepare the statement under a name.
func (b *Batch) Do(sql string) {
	b.Parse("", sql)
	b.Bind("", 0, nil)
	b.Execute()
}

// OpenCopyData begins a data message for the COPY FROM STDIN that the batch executed last. The
// caller appends the data to the returned slice and passes the slice to CloseCopyData. CopyDone
// must follow the last message.
func (b *Batch) OpenCopyData() []byte {
	b.message('d')
	return b.buf
}

// CloseCopyData ends the message that OpenCopyData began.
func (b *Batch) CloseCopyData(buf []byte) {
	b.buf = buf
	b.close()
}

// CopyDone ends the data of a COPY.
func (b *Batch) CopyDone() {
	b.message('c')
	b.close()
}

// A Result is the outcome of a batch.
type Result struct {
	Counts []int64  // rows affected by each executed statement
	Row    []string // the values of the last row that any statement returned; NULL is ""
	Tag    []byte   // command tag of the last statement in Counts
	Err    error    // error of the statement after the last one in Counts
	// Columns are those of the statement that was described last.
	Columns []Column
}

// A Column is a column of the rows that a statement returns.
type Column struct {
	Name   string
	Number int16  // in its table
	Type   uint32 // of a domain, the OID of the type below it
}

// Run sends the rest of the batch and waits for all answers. It returns an error of the connection.
// The Result has the error of a statement. The Result is valid until the next Batch.
func (b *Batch) Run() (*Result, error) {
	defer b.stop()
	b.message('S')
	b.close()
	b.flush()
	if cap(b.buf) > keepAtMost {
		b.buf = nil // do not keep a huge row in memory
	}
	err := b.err
	if err != nil {
		_ = b.c.nc.Close()
	}
	if b.read != nil {
		if e := <-b.read; err == nil {
			err = e
		}
	} else if err == nil {
		err = b.c.answers()
	}
	if err != nil {
		return nil, b.c.lost(b.ctx, err)
	}
	return &b.c.result, nil
}

func (c *Conn) answers() error {
	r := &c.result
	for {
		t, body, err := c.message()
		if err != nil {
			return err
		}
		switch t {
		case 'C':
			r.Counts = append(r.Counts, tagCount(body))
			r.Tag = append(r.Tag[:0], bytes.TrimRight(body, "\x00")...)
		case 'I':
			r.Counts = append(r.Counts, 0)
		case 'D':
			r.Row = appendRow(r.Row[:0], body)
		case 'T':
			r.Columns = appendColumns(r.Columns[:0], body)
		case 'E':
			if err := c.serverError(body); r.Err == nil {
				r.Err = err
			}
		case 'Z':
			return nil
		}
	}
}

// tagCount returns the number at the end of a command tag: "UPDATE 3", "INSERT 0 5". For "COMMIT"
// it returns 0.
func tagCount(tag []byte) int64 {
	tag = bytes.TrimRight(tag, "\x00")
	n, err := strconv.ParseInt(string(tag[bytes.LastIndexByte(tag, ' ')+1:]), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func appendRow(row []string, body []byte) []string {
	if len(body) < 2 {
		return row
	}
	n := int(binary.BigEndian.Uint16(body))
	body = body[2:]
	for range n {
		if len(body) < 4 {
			return row
		}
		k := int(int32(binary.BigEndian.Uint32(body)))
		body = body[4:]
		if k < 0 {
			row = append(row, "")
			continue
		}
		if k > len(body) {
			return row
		}
		row = append(row, string(body[:k]))
		body = body[k:]
	}
	return row
}

func appendColumns(list []Column, body []byte) []Column {
	var m pgproto3.RowDescription
	if m.Decode(body) != nil {
		return list
	}
	for _, f := range m.Fields {
		list = append(list, Column{string(f.Name), int16(f.TableAttributeNumber), f.DataTypeOID})
	}
	return list
}
