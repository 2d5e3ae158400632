package format

import "fmt"

// order is the state machine that Reader and Writer share. It knows which record may follow, and
// keeps the totals of the stream.
type order struct {
	state     orderState
	header    Header // of the current stream
	relations map[uint32]int
	// The relation of the last change and its number of columns. They save a lookup in the map.
	lastID   uint32
	lastCols int
	parts    map[uint32]*CopyEnd    // open parts and their totals so far
	cuts     map[uint32]*tableParts // how each table is split into parts, by relation
	streamed map[uint32]bool        // transactions in progress of which blocks have been sent
	xid      uint32                 // of the open transaction
	commit   LSN                    // of the open transaction
	end      End                    // totals so far; Frames counts the frames before the next one
}

// tableParts is the number of parts that a table is split into, and the parts that have begun.
type tableParts struct {
	of   uint64
	seen map[uint64]bool
}

type orderState uint8

const (
	atStart   orderState = iota // a header must follow
	inLoad                      // in a full load
	between                     // in a change stream, outside transactions
	inTx                        // between begin and commit
	inBlock                     // between stream-start and stream-stop
	afterEnd                    // a header may follow
	wasBroken                   // nothing may follow
)

func (o *order) refuse(k Kind, format string, args ...any) error {
	o.state = wasBroken
	return &OrderError{Kind: k, Reason: fmt.Sprintf(format, args...)}
}

// position returns the LSN up to which the stream is complete.
func (o *order) position() LSN { return o.end.LSN }

// step checks that rec may come next, and updates the state.
func (o *order) step(rec Record) error {
	k := rec.Kind()
	switch o.state {
	case wasBroken:
		return o.refuse(k, "after an error")
	case atStart, afterEnd:
		if k != KindHeader {
			return o.refuse(k, "a stream begins with a header")
		}
	}
	switch r := rec.(type) {
	case *Insert:
		return o.change(k, r.Relation, len(r.New), -1, r.XID)
	case *Update:
		old := -1
		if r.Old != nil {
			old = len(r.Old)
		}
		return o.change(k, r.Relation, len(r.New), old, r.XID)
	case *Delete:
		return o.change(k, r.Relation, len(r.Old), -1, r.XID)
	case *Begin:
		if o.state != between {
			return o.refuse(k, "not outside of a transaction")
		}
		if o.header.StreamKind == Repair && r.CommitLSN != 0 {
			return o.refuse(k, "has an LSN in a stream of kind repair")
		}
		o.state, o.xid, o.commit = inTx, r.XID, r.CommitLSN
	case *Commit:
		if o.state != inTx {
			return o.refuse(k, "not in a transaction")
		}
		if r.CommitLSN != o.commit {
			return o.refuse(k, "commit LSN %v, its begin had %v", r.CommitLSN, o.commit)
		}
		return o.committed(k, r.CommitLSN, r.EndLSN)
	case *CopyData:
		p := o.parts[r.Part]
		if p == nil {
			return o.refuse(k, "part %d is not open", r.Part)
		}
		p.Rows += r.Rows
		p.Bytes += uint64(len(r.Data))
	case *Header:
		if o.state == inTx || o.state == inBlock || o.state == between || o.state == inLoad {
			if !o.header.continuedBy(r) {
				return o.refuse(k, "a stream of another kind, source or slot cannot continue an unfinished one")
			}
		}
		o.open(r)
	case *End:
		if o.state != inLoad && o.state != between {
			return o.refuse(k, "a transaction is open")
		}
		if len(o.parts) > 0 {
			return o.refuse(k, "a part of a table is open")
		}
		if r.Frames != o.end.Frames {
			return o.refuse(k, "%d frames were announced, %d were there", r.Frames, o.end.Frames)
		}
		o.state = afterEnd
	case *Relation:
		if o.relations == nil {
			o.relations = make(map[uint32]int)
		}
		o.relations[r.ID] = len(r.Columns)
		o.lastID = 0
	case *DDL:
		if r.Section == Change {
			return o.inside(k, r.XID)
		}
		if o.state != inLoad {
			return o.refuse(k, "section %s does not belong here", r.Section)
		}
	case *CopyBegin:
		return o.copyBegin(k, r)
	case *CopyEnd:
		return o.copyEnd(k, r)
	case *Sequence, *LargeObject, *Fingerprint:
		if o.state != inLoad {
			return o.refuse(k, "not in a full load")
		}
	case *Truncate:
		if err := o.inside(k, r.XID); err != nil {
			return err
		}
		for _, id := range r.Relations {
			if _, ok := o.relations[id]; !ok {
				return o.refuse(k, "relation %d was not described", id)
			}
		}
		o.end.Changes++
	case *Message:
		if o.state == inLoad {
			return o.refuse(k, "not in a change stream")
		}
		if r.Transactional {
			return o.inside(k, r.XID)
		}
		if o.state != inBlock && r.XID != 0 {
			return o.refuse(k, "has a subtransaction outside of a block")
		}
	case *StreamStart:
		if o.state != between {
			return o.refuse(k, "not outside of a transaction")
		}
		if r.XID == 0 || r.First == o.streamed[r.XID] {
			return o.refuse(k, "transaction %d: first block is %t", r.XID, r.First)
		}
		if o.streamed == nil {
			o.streamed = make(map[uint32]bool)
		}
		o.streamed[r.XID] = true
		o.state = inBlock
	case *StreamStop:
		if o.state != inBlock {
			return o.refuse(k, "no block is open")
		}
		o.state = between
	case *StreamCommit:
		if err := o.finished(k, r.XID); err != nil {
			return err
		}
		return o.committed(k, r.CommitLSN, r.EndLSN)
	case *StreamAbort:
		if r.XID != r.SubXID {
			if o.state != between || !o.streamed[r.XID] {
				return o.refuse(k, "transaction %d is not in progress", r.XID)
			}
			return nil
		}
		return o.finished(k, r.XID)
	case *Prepare:
		return o.prepared(k, r)
	case *CommitPrepared:
		if o.state != between {
			return o.refuse(k, "not outside of a transaction")
		}
		return o.committed(k, r.CommitLSN, r.EndLSN)
	case *RollbackPrepared:
		if o.state != between {
			return o.refuse(k, "not outside of a transaction")
		}
		return o.lsns(k, r.PrepareEndLSN, r.EndLSN)
	case *Progress:
		if o.state != between {
			return o.refuse(k, "not outside of a transaction")
		}
		o.end.LSN = max(o.end.LSN, r.LSN)
	}
	return nil
}

// continuedBy reports whether a stream with the header c may follow this stream when this one is
// torn. A change stream does not replace the rest of a full load.
func (h *Header) continuedBy(c *Header) bool { return h.StreamKind == c.StreamKind && h.SameSource(c) }

func (o *order) open(h *Header) {
	*o = order{header: *h}
	switch h.StreamKind {
	case Load:
		o.state = inLoad
	default:
		o.state = between
	}
	o.end.LSN = h.StartLSN
}

// inside checks that a change is in a transaction, or in a block and has an xid.
func (o *order) inside(k Kind, xid uint32) error {
	switch {
	case o.state != inTx && o.state != inBlock:
		return o.refuse(k, "not in a transaction")
	case o.state == inTx && xid != 0:
		return o.refuse(k, "has a subtransaction outside of a block")
	case o.state == inBlock && xid == 0:
		return o.refuse(k, "has no subtransaction in a block")
	}
	return nil
}

func (o *order) change(k Kind, id uint32, cols, old int, xid uint32) error {
	if err := o.inside(k, xid); err != nil {
		return err
	}
	if id != o.lastID || id == 0 {
		n, ok := o.relations[id]
		if !ok {
			return o.refuse(k, "relation %d was not described", id)
		}
		o.lastID, o.lastCols = id, n
	}
	if cols != o.lastCols || old >= 0 && old != o.lastCols {
		return o.refuse(k, "tuple of relation %d does not have %d values", id, o.lastCols)
	}
	o.end.Changes++
	return nil
}

// lsns checks that a transaction's end LSN is after its begin. A repair has no LSNs.
func (o *order) lsns(k Kind, begin, end LSN) error {
	switch {
	case o.header.StreamKind == Repair && (begin != 0 || end != 0):
		return o.refuse(k, "has an LSN in a stream of kind repair")
	case o.header.StreamKind == Changes && end <= begin:
		return o.refuse(k, "end LSN %v is not after %v, where it begins", end, begin)
	}
	return nil
}

func (o *order) committed(k Kind, commit, end LSN) error {
	if err := o.lsns(k, commit, end); err != nil {
		return err
	}
	if end < o.end.LSN || end == o.end.LSN && o.header.StreamKind == Changes {
		return o.refuse(k, "end LSN %v is not after %v", end, o.end.LSN)
	}
	o.end.LSN = end
	o.end.Transactions++
	o.state = between
	return nil
}

func (o *order) prepared(k Kind, r *Prepare) error {
	switch {
	case o.state != inTx:
		if err := o.finished(k, r.XID); err != nil {
			return err
		}
	case r.XID != o.xid:
		return o.refuse(k, "of transaction %d, %d is open", r.XID, o.xid)
	case r.PrepareLSN != o.commit:
		return o.refuse(k, "prepare LSN %v, its begin had %v", r.PrepareLSN, o.commit)
	}
	o.state = between
	return o.lsns(k, r.PrepareLSN, r.EndLSN)
}

// finished checks that a transaction was sent in blocks, and forgets the transaction.
func (o *order) finished(k Kind, xid uint32) error {
	if o.state != between || !o.streamed[xid] {
		return o.refuse(k, "transaction %d is not in progress", xid)
	}
	delete(o.streamed, xid)
	return nil
}

func (o *order) copyBegin(k Kind, r *CopyBegin) error {
	if o.state != inLoad {
		return o.refuse(k, "not in a full load")
	}
	if _, ok := o.relations[r.Relation]; !ok {
		return o.refuse(k, "relation %d was not described", r.Relation)
	}
	if o.parts[r.Part] != nil {
		return o.refuse(k, "part %d is open already", r.Part)
	}
	if err := o.cut(k, r); err != nil {
		return err
	}
	if o.parts == nil {
		o.parts = make(map[uint32]*CopyEnd)
	}
	o.parts[r.Part] = &CopyEnd{Part: r.Part}
	return nil
}

// cut checks that a table's parts agree on their number, and that none comes twice.
func (o *order) cut(k Kind, r *CopyBegin) error {
	c := o.cuts[r.Relation]
	if c == nil {
		if o.cuts == nil {
			o.cuts = make(map[uint32]*tableParts)
		}
		c = &tableParts{of: r.Of, seen: make(map[uint64]bool)}
		o.cuts[r.Relation] = c
	}
	switch {
	case c.of != r.Of:
		return o.refuse(k, "relation %d is cut into %d parts, and into %d", r.Relation, c.of, r.Of)
	case c.seen[r.Index]:
		return o.refuse(k, "part %d of %d of relation %d comes twice", r.Index, r.Of, r.Relation)
	}
	c.seen[r.Index] = true
	return nil
}

func (o *order) copyEnd(k Kind, r *CopyEnd) error {
	p := o.parts[r.Part]
	if p == nil {
		return o.refuse(k, "part %d is not open", r.Part)
	}
	if *p != *r {
		return o.refuse(k, "part %d has %d rows and %d bytes, %d and %d were announced", r.Part, p.Rows, p.Bytes, r.Rows, r.Bytes)
	}
	delete(o.parts, r.Part)
	o.end.Rows += p.Rows
	o.end.Bytes += p.Bytes
	return nil
}
