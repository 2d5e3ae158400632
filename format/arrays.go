package format

// The bodies of the frequent records are arrays. This file writes and reads them by hand.

// appendTuple appends a tuple. It refuses unchanged values where no old row could supply them.
func appendTuple(b []byte, t Tuple, unchanged bool, c *cuts) ([]byte, error) {
	b = appendArrayLen(b, len(t)) // no relation is wider than maxElems
	for i := range t {
		v := &t[i]
		switch {
		case v.Kind == Text && len(v.Data) < minCut: // almost every value
			b = append(appendStrLen(b, len(v.Data)), v.Data...)
		case v.Kind == Null:
			b = append(b, 0xc0)
		case v.Kind == Unchanged && unchanged:
			b = append(b, 0xd4, extUnchanged, 0)
		default:
			var err error
			if b, err = appendValue(b, v, c); err != nil {
				return b, err
			}
		}
	}
	return b, nil
}

// appendValue appends a value that has data. c may take that data.
func appendValue(b []byte, v *Value, c *cuts) ([]byte, error) {
	switch v.Kind {
	case Text:
		b = appendStrLen(b, len(v.Data))
	case Binary:
		b = appendBinLen(b, len(v.Data))
	case RawText:
		b = appendExtLen(b, extRawText, len(v.Data))
	default:
		return b, errValue
	}
	return c.append(b, v.Data)
}

func (c *cursor) tuple(t Tuple, unchanged bool) Tuple {
	t = t[:0]
	for n := c.arrayLen(); n > 0 && c.err == nil; n-- {
		v := c.value()
		if v.Kind == Unchanged && !unchanged {
			c.fail(errValue)
		}
		t = append(t, v)
	}
	return t
}

// fields reads the head of a body that needs at least n elements, and returns how many more it has.
func (c *cursor) fields(n int) (more int) {
	got := c.arrayLen()
	if got < n && c.err == nil {
		c.fail(errShort)
	}
	return got - n
}

// xid reads the optional (sub)transaction id at the end of a change.
func (c *cursor) xid(more int) (uint32, int) {
	if more > 0 {
		return c.uint32(), more - 1
	}
	return 0, more
}

// appendChange appends the head of a change's array of n fields, one more if there is an xid.
func appendChange(b []byte, n int, xid uint32) []byte {
	if xid != 0 {
		n++
	}
	return append(b, 0x90|byte(n))
}

func appendXID(b []byte, xid uint32) []byte {
	if xid != 0 {
		b = appendUint(b, uint64(xid))
	}
	return b
}

func (r *Insert) appendBody(b []byte) ([]byte, error) { return r.appendCut(b, nil) }

func (r *Insert) appendCut(b []byte, c *cuts) ([]byte, error) {
	b = appendUint(appendChange(b, 2, r.XID), uint64(r.Relation))
	b, err := appendTuple(b, r.New, false, c)
	return appendXID(b, r.XID), err
}

func (r *Insert) decodeBody(body []byte) error {
	c := cursor{b: body}
	more := c.fields(2)
	r.Relation = c.uint32()
	r.New = c.tuple(r.New, false)
	r.XID, more = c.xid(more)
	return c.rest(more)
}

func (r *Update) appendBody(b []byte) ([]byte, error) { return r.appendCut(b, nil) }

func (r *Update) appendCut(b []byte, c *cuts) (_ []byte, err error) {
	b = appendUint(appendChange(b, 3, r.XID), uint64(r.Relation))
	if r.Old == nil {
		b = append(b, 0xc0)
	} else if b, err = appendTuple(b, r.Old, false, c); err != nil {
		return b, err
	}
	b, err = appendTuple(b, r.New, true, c)
	return appendXID(b, r.XID), err
}

func (r *Update) decodeBody(body []byte) error {
	c := cursor{b: body}
	more := c.fields(3)
	r.Relation = c.uint32()
	if c.nilOr() {
		r.Old = nil
	} else if r.Old = c.tuple(r.Old, false); r.Old == nil { // a table without columns
		r.Old = Tuple{}
	}
	r.New = c.tuple(r.New, true)
	r.XID, more = c.xid(more)
	return c.rest(more)
}

func (r *Delete) appendBody(b []byte) ([]byte, error) { return r.appendCut(b, nil) }

func (r *Delete) appendCut(b []byte, c *cuts) ([]byte, error) {
	b = appendUint(appendChange(b, 2, r.XID), uint64(r.Relation))
	b, err := appendTuple(b, r.Old, false, c)
	return appendXID(b, r.XID), err
}

func (r *Delete) decodeBody(body []byte) error {
	c := cursor{b: body}
	more := c.fields(2)
	r.Relation = c.uint32()
	r.Old = c.tuple(r.Old, false)
	r.XID, more = c.xid(more)
	return c.rest(more)
}

func (r *Truncate) appendBody(b []byte) ([]byte, error) {
	if len(r.Relations) > maxElems {
		return b, errLong
	}
	b = appendArrayLen(appendChange(b, 2, r.XID), len(r.Relations))
	for _, id := range r.Relations {
		b = appendUint(b, uint64(id))
	}
	var flags uint64
	if r.Cascade {
		flags |= 1
	}
	if r.RestartIdentity {
		flags |= 2
	}
	return appendXID(appendUint(b, flags), r.XID), nil
}

func (r *Truncate) decodeBody(body []byte) error {
	c := cursor{b: body}
	more := c.fields(2)
	r.Relations = r.Relations[:0]
	for n := c.arrayLen(); n > 0 && c.err == nil; n-- {
		r.Relations = append(r.Relations, c.uint32())
	}
	flags := c.uint()
	if flags > 3 {
		c.fail(errRange)
	}
	r.Cascade, r.RestartIdentity = flags&1 != 0, flags&2 != 0
	r.XID, more = c.xid(more)
	return c.rest(more)
}

func (r *Message) appendBody(b []byte) ([]byte, error) { return r.appendCut(b, nil) }

func (r *Message) appendCut(b []byte, c *cuts) (_ []byte, err error) {
	b = appendBool(appendChange(b, 4, r.XID), r.Transactional)
	b = appendUint(b, uint64(r.LSN))
	if b, err = c.append(appendStrLen(b, len(r.Prefix)), r.Prefix); err != nil {
		return b, err
	}
	b, err = c.bin(b, r.Content)
	return appendXID(b, r.XID), err
}

func (r *Message) decodeBody(body []byte) error {
	c := cursor{b: body}
	more := c.fields(4)
	r.Transactional = c.bool()
	r.LSN = LSN(c.uint())
	r.Prefix = c.str()
	r.Content = c.bin()
	r.XID, more = c.xid(more)
	return c.rest(more)
}

func (r *Begin) appendBody(b []byte) ([]byte, error) {
	b = appendUint(append(b, 0x93), uint64(r.XID))
	return appendInt(appendUint(b, uint64(r.CommitLSN)), int64(r.Time)), nil
}

func (r *Begin) decodeBody(body []byte) error {
	c := cursor{b: body}
	more := c.fields(3)
	r.XID, r.CommitLSN, r.Time = c.uint32(), LSN(c.uint()), Time(c.int())
	return c.rest(more)
}

func (r *Commit) appendBody(b []byte) ([]byte, error) {
	b = appendUint(append(b, 0x93), uint64(r.CommitLSN))
	return appendInt(appendUint(b, uint64(r.EndLSN)), int64(r.Time)), nil
}

func (r *Commit) decodeBody(body []byte) error {
	c := cursor{b: body}
	more := c.fields(3)
	r.CommitLSN, r.EndLSN, r.Time = LSN(c.uint()), LSN(c.uint()), Time(c.int())
	return c.rest(more)
}

func (r *StreamStart) appendBody(b []byte) ([]byte, error) {
	return appendBool(appendUint(append(b, 0x92), uint64(r.XID)), r.First), nil
}

func (r *StreamStart) decodeBody(body []byte) error {
	c := cursor{b: body}
	more := c.fields(2)
	r.XID, r.First = c.uint32(), c.bool()
	return c.rest(more)
}

func (*StreamStop) appendBody(b []byte) ([]byte, error) { return append(b, 0x90), nil }

func (*StreamStop) decodeBody(body []byte) error {
	c := cursor{b: body}
	return c.rest(c.fields(0))
}

func (r *StreamCommit) appendBody(b []byte) ([]byte, error) {
	b = appendUint(append(b, 0x94), uint64(r.XID))
	b = appendUint(appendUint(b, uint64(r.CommitLSN)), uint64(r.EndLSN))
	return appendInt(b, int64(r.Time)), nil
}

func (r *StreamCommit) decodeBody(body []byte) error {
	c := cursor{b: body}
	more := c.fields(4)
	r.XID, r.CommitLSN, r.EndLSN, r.Time = c.uint32(), LSN(c.uint()), LSN(c.uint()), Time(c.int())
	return c.rest(more)
}

func (r *StreamAbort) appendBody(b []byte) ([]byte, error) {
	b = appendUint(appendUint(append(b, 0x94), uint64(r.XID)), uint64(r.SubXID))
	return appendInt(appendUint(b, uint64(r.LSN)), int64(r.Time)), nil
}

func (r *StreamAbort) decodeBody(body []byte) error {
	c := cursor{b: body}
	more := c.fields(4)
	r.XID, r.SubXID, r.LSN, r.Time = c.uint32(), c.uint32(), LSN(c.uint()), Time(c.int())
	return c.rest(more)
}

// The three records of two-phase commit have bodies of the same shape.

func appendTwoPhase(b, gid []byte, xid uint32, lsn1, lsn2 LSN, t Time) []byte {
	b = append(appendStrLen(append(b, 0x95), len(gid)), gid...)
	b = appendUint(appendUint(appendUint(b, uint64(xid)), uint64(lsn1)), uint64(lsn2))
	return appendInt(b, int64(t))
}

func decodeTwoPhase(body []byte, gid *[]byte, xid *uint32, lsn1, lsn2 *LSN, t *Time) error {
	c := cursor{b: body}
	more := c.fields(5)
	*gid, *xid, *lsn1, *lsn2, *t = c.str(), c.uint32(), LSN(c.uint()), LSN(c.uint()), Time(c.int())
	return c.rest(more)
}

func (r *Prepare) appendBody(b []byte) ([]byte, error) {
	return appendTwoPhase(b, r.GID, r.XID, r.PrepareLSN, r.EndLSN, r.Time), nil
}

func (r *Prepare) decodeBody(body []byte) error {
	return decodeTwoPhase(body, &r.GID, &r.XID, &r.PrepareLSN, &r.EndLSN, &r.Time)
}

func (r *CommitPrepared) appendBody(b []byte) ([]byte, error) {
	return appendTwoPhase(b, r.GID, r.XID, r.CommitLSN, r.EndLSN, r.Time), nil
}

func (r *CommitPrepared) decodeBody(body []byte) error {
	return decodeTwoPhase(body, &r.GID, &r.XID, &r.CommitLSN, &r.EndLSN, &r.Time)
}

func (r *RollbackPrepared) appendBody(b []byte) ([]byte, error) {
	return appendTwoPhase(b, r.GID, r.XID, r.PrepareEndLSN, r.EndLSN, r.Time), nil
}

func (r *RollbackPrepared) decodeBody(body []byte) error {
	return decodeTwoPhase(body, &r.GID, &r.XID, &r.PrepareEndLSN, &r.EndLSN, &r.Time)
}

func (r *Progress) appendBody(b []byte) ([]byte, error) {
	return appendInt(appendUint(append(b, 0x92), uint64(r.LSN)), int64(r.Time)), nil
}

func (r *Progress) decodeBody(body []byte) error {
	c := cursor{b: body}
	more := c.fields(2)
	r.LSN, r.Time = LSN(c.uint()), Time(c.int())
	return c.rest(more)
}

// appendHead appends the body without its data. The Writer writes the data without copying it.
func (r *CopyData) appendHead(b []byte) []byte {
	b = appendUint(append(b, 0x93), uint64(r.Part))
	return appendBinLen(appendUint(b, r.Rows), len(r.Data))
}

func (r *CopyData) appendBody(b []byte) ([]byte, error) { return r.appendCut(b, nil) }

func (r *CopyData) appendCut(b []byte, c *cuts) ([]byte, error) {
	b = appendUint(append(b, 0x93), uint64(r.Part))
	return c.bin(appendUint(b, r.Rows), r.Data)
}

func (r *CopyData) decodeBody(body []byte) error {
	c := cursor{b: body}
	more := c.fields(3)
	r.Part, r.Rows, r.Data = c.uint32(), c.uint(), c.bin()
	return c.rest(more)
}

func (r *CopyEnd) appendBody(b []byte) ([]byte, error) {
	b = appendUint(append(b, 0x93), uint64(r.Part))
	return appendUint(appendUint(b, r.Rows), r.Bytes), nil
}

func (r *CopyEnd) decodeBody(body []byte) error {
	c := cursor{b: body}
	more := c.fields(3)
	r.Part, r.Rows, r.Bytes = c.uint32(), c.uint(), c.uint()
	return c.rest(more)
}

func (r *LargeObject) appendBody(b []byte) ([]byte, error) { return r.appendCut(b, nil) }

func (r *LargeObject) appendCut(b []byte, c *cuts) ([]byte, error) {
	b = appendUint(appendUint(append(b, 0x93), uint64(r.OID)), r.Offset)
	return c.bin(b, r.Data)
}

func (r *LargeObject) decodeBody(body []byte) error {
	c := cursor{b: body}
	more := c.fields(3)
	r.OID, r.Offset, r.Data = c.uint32(), c.uint(), c.bin()
	return c.rest(more)
}

func (u *Unknown) appendBody(b []byte) ([]byte, error) { return u.appendCut(b, nil) }

func (u *Unknown) appendCut(b []byte, c *cuts) ([]byte, error) { return c.append(b, u.Body) }

func (u *Unknown) decodeBody(body []byte) error {
	u.Body = body
	return nil
}
