package format

import (
	"bytes"
	"errors"
	"io"
)

const magic = "pgsluice"

// headerSign is what every header's body has in it behind the head of the map.
var headerSign = []byte("\xa5magic\xa8" + magic)

const (
	// smallBuffer is where a Reader's buffer begins: what a pipe holds, so that a larger one would
	// not be filled by a read.
	smallBuffer = 64 << 10
	// readBuffer is what it becomes when a frame needs it: resync has to have a frame and a header
	// in it.
	readBuffer = maxFrame + 256<<10
)

// A Reader reads one stream, or several that follow one another.
//
// Next returns records that have been checked: their checksum, their values, their order, and at
// the end record that no frame is missing. After an error every call returns the same error. Memory
// is bounded by a small multiple of the largest record that is there plus a fixed buffer, whatever
// the input claims; LongRecords makes that once the record. A Reader is not safe for concurrent
// use.
type Reader struct {
	r     io.Reader
	buf   []byte
	pos   int   // of the next frame in buf
	end   int   // of what has been read
	off   int64 // offset of pos in the input
	inErr error // of the input, io.EOF at its end
	order order
	torn  bool
	err   error
	limit int  // of a record's body
	tears bool // within frames are accepted

	// For long records; see gather.go.
	long         []byte // its pieces so far
	kept         []byte // memory of an earlier one
	lent         []byte // long is in there
	alloc        func(int) []byte
	free         func([]byte)
	dropMessages bool
	drop         int // how much of its content is to be dropped, and has been
	dropped      int

	// The records that Next returns pointers to.
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
	// The memory of their slices. The records' own fields are the caller's, who may have put
	// something else into them.
	oldTuple, newTuple Tuple
	relations          []uint32
}

// NewReader returns a Reader on r. It reads ahead by up to a megabyte.
func NewReader(r io.Reader) *Reader { return &Reader{r: r, limit: maxRecord} }

// AcceptTorn makes the Reader accept a header of the same stream within the bytes of a frame that
// was torn, as when files are joined of which the first was cut off by a crash. Without it, a
// header may follow an unfinished stream only where a frame ends. It is not the default because
// values may be made to look like a header: whoever can write a value in binary format into a
// database could then, should the stream be torn right there, have the rest of that value read as
// records.
func (r *Reader) AcceptTorn() { r.tears = true }

// Next returns the next record. At the end of the input, after an end record, it returns io.EOF.
//
// The record and everything it points to is valid until the next call. A *Header that does not
// follow an *End means that the stream before it was torn: what was incomplete (an open
// transaction, open parts) must be dropped; Torn reports it.
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
		if h.kind == KindHeader { // it may stand between the pieces of a record that was torn
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

// frameAt makes the frame that stands start bytes behind pos available in the buffer and checks it.
// It returns errShort if the input ends before the frame does.
func (r *Reader) frameAt(start int) (frameHead, []byte, error) {
	for short := false; ; {
		h, body, err := parseFrame(r.buf[min(r.pos+start, r.end):r.end])
		if err != errShort || short {
			return h, body, err
		}
		// Never wait for more than the frame itself: nothing may follow it for hours.
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

// looksRight reports whether the input begins like a stream that was damaged, rather than like
// something else.
func (r *Reader) looksRight() bool {
	h, err := parseHead(r.buf[r.pos:r.end])
	if err != nil || h.kind != KindHeader {
		return false
	}
	_, ok := afterMagic(r.buf[min(r.end, r.pos+h.size):r.end])
	return ok
}

// parseFrame checks the frame at the front of b. It returns errShort, with the head if that is
// complete, if b may be the beginning of one.
func parseFrame(b []byte) (h frameHead, body []byte, err error) {
	if h, err = parseHead(b); err != nil {
		return h, nil, err
	}
	if len(b) < h.size+h.body {
		return h, nil, errShort
	}
	body = b[h.size : h.size+h.body]
	if h.kind == KindHeader {
		// What is promised for all versions comes before the checksum, which a later version may
		// change.
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

// afterMagic returns what follows the first key and its value in a header's body, or false if it
// does not begin with them.
func afterMagic(body []byte) ([]byte, bool) {
	switch {
	case len(body) > 0 && body[0]&0xf0 == 0x80: // a map of up to 15 keys
		return bytes.CutPrefix(body[1:], headerSign)
	case len(body) > 2 && body[0] == 0xde: // of more
		return bytes.CutPrefix(body[3:], headerSign)
	}
	return nil, false
}

// resync is called when there is no good frame at pos. If what stands there is a frame that was
// torn, followed within the bytes that it claims by a good header that continues the stream, resync
// moves to that header.
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
			continue // also because only a header's length is small enough to be waited for
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

// isTorn reports whether b is what a writer leaves of a frame that it does not finish: the
// beginning of one, whose body is not a whole value. Without this a length that was damaged would
// look like a tear when another stream follows.
func (r *Reader) isTorn(b []byte) bool {
	h, err := parseHead(b)
	if err == nil && r.drop > len(b)-h.size {
		err = errShort
	} else if err == nil {
		c := cursor{b: append(r.long, b[h.size+r.drop:]...)} // behind what r.long has nobody looks
		c.skip()
		err = c.err
	}
	if r.outside() { // only a header can be torn there
		return err == errShort && (len(b) == 1 || b[1] == byte(KindHeader))
	}
	return err == errShort || err == errDepth
}

// continues reports whether a header with this body may follow a stream that was torn.
func (r *Reader) continues(body []byte) bool {
	var h Header
	if h.decodeBody(body) != nil {
		return false
	}
	// Of a stream whose header is torn nothing is known, and nothing was read.
	return r.outside() || r.order.header.continuedBy(&h)
}

// outside reports whether no stream is open.
func (r *Reader) outside() bool { return r.order.state == atStart || r.order.state == afterEnd }

// fill reads until n bytes from pos on are in the buffer, or the input ends. An error of the input
// is reported when what came before it has been used up.
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
	switch k { // what has grown is kept
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

// Header returns the header of the current stream, nil before the first record. It must not be
// changed.
func (r *Reader) Header() *Header {
	if r.order.state == atStart {
		return nil
	}
	return &r.order.header
}

// Torn reports whether the record that Next returned last is a header that continues a torn stream.
func (r *Reader) Torn() bool { return r.torn }

// Position returns the end LSN of the last complete transaction, or the LSN of a later progress
// record.
func (r *Reader) Position() LSN { return r.order.position() }

// Totals returns what has been read of the current stream so far.
func (r *Reader) Totals() End { return r.order.end }

// Buffered returns how many bytes have been read from the input and not yet been returned.
func (r *Reader) Buffered() int { return r.end - r.pos }

// N returns how many bytes of the input have been returned as records.
func (r *Reader) N() int64 { return r.off }
