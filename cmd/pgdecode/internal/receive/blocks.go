package receive

import "github.com/pgsluice/pgsluice/format"

// blocks tracks the transactions in progress of which blocks have been written.
//
// From version 15, a server omits a transaction that changes no table of the stream, unless it
// sends it in blocks. It does not send the same blocks in every session: a session that starts
// after the transaction's changes gets none. So a transaction without changes is written as
// aborted, and is never expected again.
type blocks struct {
	open    int             // number of such transactions
	xid     uint32          // of the open block; 0: none is open
	filled  map[uint32]bool // xids that have a change
	pending bool            // the open block's transaction has no change yet
}

// start notes the beginning of a block.
func (b *blocks) start(xid uint32) { b.xid, b.pending = xid, !b.filled[xid] }

// sent notes the type of a message of the server, whether or not the message is written.
func (b *blocks) sent(kind byte) {
	if !b.pending {
		return
	}
	switch kind {
	case 'I', 'U', 'D', 'T', 'M':
		if b.filled == nil {
			b.filled = make(map[uint32]bool)
		}
		b.filled[b.xid], b.pending = true, false
	case 'E': // the block ends
		b.pending = false
	}
}

// ended notes the end of a transaction, and reports whether it had no change.
func (b *blocks) ended(xid uint32) (empty bool) {
	empty = !b.filled[xid]
	delete(b.filled, xid)
	return empty
}

// withoutChange writes the end of a transaction that has no change.
func (s *session) withoutChange(r *format.StreamCommit) (done bool, err error) {
	if err := s.meetPosition(r.EndLSN); err != nil {
		return false, err
	}
	s.blocks.open--
	if err := write(s.w, &format.StreamAbort{XID: r.XID, SubXID: r.XID}); err != nil || r.EndLSN <= s.position {
		return false, err
	}
	return s.committed(&format.Progress{LSN: r.EndLSN, Time: r.Time}, r.EndLSN)
}
