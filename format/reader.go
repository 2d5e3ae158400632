package format

import (
	"bytes"
	"errors"
	"io"
)

const magic = "pgsluice"

// headerSign follows the head of the map in every header's body.
var headerSign = []byte("\xa5magic\xa8" + magic)

const (
	// smallBuffer is the initial size of a Reader's buffer. It is the capacity of a pipe: one read
	// could not fill a larger buffer.
	smallBuffer = 64 << 10
	// readBuffer is the size that the buffer grows to when a frame needs it. resync needs room for
	// a frame and a header.
	readBuffer = maxFrame + 256<<10
)

// A Reader reads one stream, or several consecutive ones.
//
// Next returns checked records: it checks their checksums, values and order, and at the end record
// that no frame is missing. After an error, every call returns the same error. Memory is bounded by
// a small multiple of the largest actual record plus a fixed buffer, whatever the input claims.
// With LongRecords, that multiple is one. A Reader is not safe for concurrent use.
type Reader struct {
	r     io.Reader
	buf   []byte
	pos   int   // start of the next frame in buf
	end   int   // end of the bytes read into buf
	off   int64 // offset of pos in the input
	inErr error // error of the input; io.EOF at its end
	order order
	torn  bool
	err   error
	limit int  // of a record's body
	tears bool // accept torn frames

	// For long records; see gather.go.
	long         []byte // pieces so far
	kept         []byte // buffer of an earlier long record
	lent         []byte // memory from alloc that holds long
	alloc        func(int) []byte
	free         func([]byte)
	dropMessages bool
	drop         int // bytes of content still to drop, and dropped so far
	dropped      int

	// Next returns pointers to these records.
	insert      Insert
	update      Update
	delete      Delete
	begin       Begin
	commit      Commit
	copyData    CopyData
	copyEnd     CopyEnd
	truncate    Truncate
	message     Message
	streamStart StreamStart
	streamStop  StreamStop
	progress    Progress
	// The memory of the records' slices. The caller owns the fields of the records, and may have
	// changed them.
	oldTuple, newTuple Tuple
	relations          []uint32
}

// NewReader returns a Reader on r. It reads ahead by up to a megabyte.
func NewReader(r io.Reader) *Reader { return &Reader{r: r, limit: maxRecord} }

// AcceptTorn makes the Reader accept a header of the same stream within a torn frame. Such a frame
// occurs when files are concatenated and a crash cut off the first. Without AcceptTorn, a header
// may follow an unfinished stream only at the end of a frame.
//
// It is not the default because a value can look like a header. If the stream is torn right there,
// anyone who can write a value in binary format into the database could make the Reader read the
// rest of that value as records.
func (r *Reader) AcceptTorn() { r.tears = true }

// Next returns the next record. At the end of the input, after an end record, it returns io.EOF.
//
// The record and everything it points to are valid until the next call. A *Header that does not
// follow an *End means that the previous stream was torn. The caller must then drop anything
// incomplete (an open transaction, open parts). Torn reports this case.
func (r *Reader) Next() (Record, error) {
	if r.err != nil {
		return nil, r.err
	}
	rec, err := r.next()
	if err != nil {
		r.release()
		r.err = r.wrap(err)
		return nil, r.err
	}
	return rec, nil
}

func (r *Reader) wrap(err error) error {
	if err == io.EOF {
		return err
	}
	return &Error{Frame: r.order.end.Frames, Offset: r.off, LSN: r.order.position(), Err: err}
}

func (r *Reader) next() (Record, error) {
	if r.long != nil {
		r.release() // the record that it held is no longer valid
	}
	for {
		h, body, err := r.frame()
		torn := err != nil
		if torn {
			if h, body, err = r.resync(err); err != nil {
				return nil, err
			}
		}
		if h.kind == KindHeader { // may come between the pieces of a torn record
			torn = torn || !r.outside()
			r.release()
		}
		if h.kind == KindContinued || r.long != nil {
			if err := r.gather(body); err != nil {
				return nil, err
			}
			body = r.long
		}
		if h.kind == KindContinued {
			if r.order.state == afterEnd {
				return nil, corrupt(&OrderError{Kind: h.kind, Reason: "a stream begins with a header"})
			}
			r.advance(h)
			continue
		}
		if r.drop > 0 {
			return nil, corrupt(&OrderError{Kind: h.kind, Reason: errShort.Error()})
		}
		rec, err := r.decode(h.kind, body)
		if err != nil {
			return nil, err
		}
		if err := r.order.step(rec); err != nil {
			return nil, corrupt(err)
		}
		r.torn = torn
		r.advance(h)
		return rec, nil
	}
}

func (r *Reader) advance(h frameHead) {
	r.pos += h.size + h.body
	r.off += int64(h.size + h.body)
	r.order.end.Frames++
}

// frameAt reads the frame that begins start bytes after pos into the buffer and checks it. It
// returns errShort if the input ends before the frame does.
func (r *Reader) frameAt(start int) (frameHead, []byte, error) {
	for short := false; ; {
		h, body, err := parseFrame(r.buf[min(r.pos+start, r.end):r.end])
		if err != errShort || short {
			return h, body, err
		}
		// Never wait for more than the frame itself: the next one may come hours later.
		want := start + max(headMin, h.size+h.body)
		if err := r.fill(want); err != nil {
			return h, nil, err
		}
		short = r.end-r.pos < want
	}
}

// frame is frameAt(0) with errors for users.
func (r *Reader) frame() (frameHead, []byte, error) {
	h, body, err := r.frameAt(0)
	switch {
	case err == errShort && r.end > r.pos:
		err = ErrTruncated
	case err == errShort && r.order.state == afterEnd:
		err = io.EOF
	case err == errShort && r.off == 0:
		err = ErrEmpty
	case err == errShort:
		err = ErrTruncated
	case r.order.state != atStart:
	case err == nil && h.kind != KindHeader, errors.Is(err, ErrCorrupt) && !r.looksRight():
		err = ErrNotStream
	}
	return h, body, err
}

// looksRight reports whether the input begins like a damaged stream, and not like something else.
func (r *Reader) looksRight() bool {
	h, err := parseHead(r.buf[r.pos:r.end])
	if err != nil || h.kind != KindHeader {
		return false
	}
	_, ok := afterMagic(r.buf[min(r.end, r.pos+h.size):r.end])
	return ok
}

// parseFrame checks the frame at the front of b. It returns errShort if b may be the beginning of a
// frame, with the head if the head is complete.
func parseFrame(b []byte) (h frameHead, body []byte, err error) {
	if h, err = parseHead(b); err != nil {
		return h, nil, err
	}
	if len(b) < h.size+h.body {
		return h, nil, errShort
	}
	body = b[h.size : h.size+h.body]
	if h.kind == KindHeader {
		// Check what holds for all versions before the checksum, which a later version may change.
		if err := checkVersion(body); err != nil {
			return h, nil, err
		}
	}
	if frameCRC(h.kind, body) != h.crc {
		return h, nil, errChecksum
	}
	return h, body, nil
}

func checkVersion(body []byte) error {
	rest, ok := afterMagic(body)
	if !ok {
		return ErrCorrupt
	}
	c := cursor{b: rest}
	if string(c.str()) != "version" {
		return ErrCorrupt
	}
	switch v := c.uint(); {
	case c.err != nil:
		return ErrCorrupt
	case v != Version:
		return &VersionError{v}
	}
	return nil
}

// afterMagic returns the bytes after the first key and value of a header's body. It returns false
// if the body does not begin with them.
func afterMagic(body []byte) ([]byte, bool) {
	switch {
	case len(body) > 0 && body[0]&0xf0 == 0x80: // a map of up to 15 keys
		return bytes.CutPrefix(body[1:], headerSign)
	case len(body) > 2 && body[0] == 0xde: // of more keys
		return bytes.CutPrefix(body[3:], headerSign)
	}
	return nil, false
}

// resync handles a position without a valid frame. It looks for a torn frame: a valid header that
// continues the stream must begin within the bytes that the frame claims. resync then moves to that
// header.
func (r *Reader) resync(cause error) (frameHead, []byte, error) {
	if !r.tears || !errors.Is(cause, ErrCorrupt) && !errors.Is(cause, ErrTruncated) && cause != ErrNotStream {
		return frameHead{}, nil, cause
	}
	claimed := headMax
	if h, err := parseHead(r.buf[r.pos:r.end]); err == nil {
		claimed = h.size + h.body
	}
	for start := 1; ; start++ {
		i := bytes.IndexByte(r.buf[min(r.pos+start, r.end):min(r.pos+claimed, r.end)], frameArray)
		if i < 0 {
			return frameHead{}, nil, cause
		}
		start += i
		if b := r.buf[r.pos+start : r.end]; len(b) > 1 && b[1] != byte(KindHeader) {
			continue // Only a header is short enough to wait for.
		}
		h, body, err := r.frameAt(start)
		if err != nil || h.kind != KindHeader {
			continue
		}
		if !r.isTorn(r.buf[r.pos : r.pos+start]) {
			return frameHead{}, nil, cause
		}
		if r.continues(body) {
			r.pos += start
			r.off += int64(start)
			return h, body, nil
		}
	}
}

// isTorn reports whether b is an unfinished frame: a beginning whose body is not a whole value.
// Without this check, a damaged length would look like a tear if another stream follows.
func (r *Reader) isTorn(b []byte) bool {
	h, err := parseHead(b)
	if err == nil && r.drop > len(b)-h.size {
		err = errShort
	} else if err == nil {
		c := cursor{b: append(r.long, b[h.size+r.drop:]...)} // nobody reads r.long beyond its length
		c.skip()
		err = c.err
	}
	if r.outside() { // only a header can be torn here
		return err == errShort && (len(b) == 1 || b[1] == byte(KindHeader))
	}
	return err == errShort || err == errDepth
}

// continues reports whether a header with this body may follow the torn stream.
func (r *Reader) continues(body []byte) bool {
	var h Header
	if h.decodeBody(body) != nil {
		return false
	}
	// If the header of a stream is torn, nothing is known of the stream, and no record was read.
	return r.outside() || r.order.header.continuedBy(&h)
}

// outside reports whether no stream is open.
func (r *Reader) outside() bool { return r.order.state == atStart || r.order.state == afterEnd }

// fill reads until the buffer has n bytes from pos on, or the input ends. The Reader reports an
// error of the input after it has used the bytes before the error.
func (r *Reader) fill(n int) error {
	if len(r.buf)-r.pos < n {
		old := r.buf[r.pos:r.end]
		switch {
		case r.buf == nil:
			r.buf = make([]byte, smallBuffer)
		case len(r.buf) < n:
			r.buf = make([]byte, readBuffer)
		}
		r.end = copy(r.buf, old)
		r.pos = 0
	}
	for empty := 0; r.end-r.pos < n; {
		if r.inErr == io.EOF {
			return nil
		}
		if r.inErr != nil {
			return r.inErr
		}
		if r.pos == r.end {
			r.pos, r.end = 0, 0
		}
		var k int
		k, r.inErr = r.r.Read(r.buf[r.end:])
		r.end += k
		if empty++; k > 0 {
			empty = 0
		}
		if empty > 100 {
			return io.ErrNoProgress
		}
	}
	return nil
}

var (
	errHead     = corrupt(errors.New("no frame where one must begin"))
	errChecksum = corrupt(errors.New("wrong checksum"))
)

func corrupt(err error) error { return &corruptError{err} }

// corruptError is an ErrCorrupt with a reason.
type corruptError struct{ reason error }

func (e *corruptError) Error() string   { return ErrCorrupt.Error() + ": " + e.reason.Error() }
func (e *corruptError) Unwrap() []error { return []error{ErrCorrupt, e.reason} }

func (r *Reader) decode(k Kind, body []byte) (Record, error) {
	var rec Record
	switch k {
	case KindInsert:
		r.insert.New = r.newTuple
		rec = &r.insert
	case KindUpdate:
		r.update.Old, r.update.New = r.oldTuple, r.newTuple
		rec = &r.update
	case KindDelete:
		r.delete.Old = r.oldTuple
		rec = &r.delete
	case KindBegin:
		rec = &r.begin
	case KindCommit:
		rec = &r.commit
	case KindCopyData:
		rec = &r.copyData
	case KindCopyEnd:
		rec = &r.copyEnd
	case KindTruncate:
		r.truncate.Relations = r.relations
		rec = &r.truncate
	case KindMessage:
		rec = &r.message
	case KindStreamStart:
		rec = &r.streamStart
	case KindStreamStop:
		rec = &r.streamStop
	case KindProgress:
		rec = &r.progress
	case KindHeader:
		rec = new(Header)
	case KindEnd:
		rec = new(End)
	case KindRelation:
		rec = new(Relation)
	case KindDDL:
		rec = new(DDL)
	case KindCopyBegin:
		rec = new(CopyBegin)
	case KindSequence:
		rec = new(Sequence)
	case KindFingerprint:
		rec = new(Fingerprint)
	case KindLargeObject:
		rec = new(LargeObject)
	case KindStreamCommit:
		rec = new(StreamCommit)
	case KindStreamAbort:
		rec = new(StreamAbort)
	case KindPrepare:
		rec = new(Prepare)
	case KindCommitPrepared:
		rec = new(CommitPrepared)
	case KindRollbackPrepared:
		rec = new(RollbackPrepared)
	default:
		if !k.Ignorable() {
			return nil, &UnknownKindError{Kind: k, Minor: r.order.header.Minor}
		}
		rec = &Unknown{K: k}
	}
	if err := rec.decodeBody(body); err != nil {
		return nil, corrupt(&OrderError{Kind: k, Reason: err.Error()})
	}
	if r.dropped > 0 {
		forgetContent(rec)
	}
	switch k { // keep the memory that has grown
	case KindInsert:
		r.newTuple = r.insert.New
	case KindUpdate:
		r.newTuple = r.update.New
		if r.update.Old != nil {
			r.oldTuple = r.update.Old
		}
	case KindDelete:
		r.oldTuple = r.delete.Old
	case KindTruncate:
		r.relations = r.truncate.Relations
	}
	return rec, nil
}

// Header returns the header of the current stream, or nil before the first record. The caller must
// not change it.
func (r *Reader) Header() *Header {
	if r.order.state == atStart {
		return nil
	}
	return &r.order.header
}

// Torn reports whether the last record that Next returned is a header that continues a torn stream.
func (r *Reader) Torn() bool { return r.torn }

// Position returns the end LSN of the last complete transaction, or the LSN of a later progress
// record.
func (r *Reader) Position() LSN { return r.order.position() }

// Totals returns the totals of the current stream so far.
func (r *Reader) Totals() End { return r.order.end }

// Buffered returns the number of bytes that the Reader has read from the input but not yet
// returned.
func (r *Reader) Buffered() int { return r.end - r.pos }

// N returns the number of bytes of the input that the Reader has returned as records.
func (r *Reader) N() int64 { return r.off }
