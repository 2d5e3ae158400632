package receive

import "github.com/pgsluice/pgsluice/format"

// Blocks is what is known of the transactions in progress of which blocks have been written.
//
// From version 15 on, a server sends nothing of a transaction that changes no table of the stream,
// unless it sends it in blocks; and it does not do so in every session: one that begins behind such
// a transaction's changes has none. So a transaction without changes is written as taken back, and
// never looked for again.
type blocks struct {
	open    int             // how many there are
	xid     uint32          // whose block is open; 0: none is
	filled  map[uint32]bool // those that have a change
	pending bool            // the open block's transaction has had none yet
}

// start takes the beginning of a block.
func (b *blocks) start(xid uint32) { b.xid, b.pending = xid, !b.filled[xid] }

// sent takes the type of a message of the server, whatever becomes of the message.
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

// ended takes the end of a transaction, and reports whether it has had no change.
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
