package receive

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/pgsluice/pgsluice/format"
)

// durable returns what may be acknowledged; 0: nothing yet. A source that may have gone back in
// time must not be told of its other history's positions: its slot would skip what it has there
// now.
func (r *Receiver) durable() format.LSN {
	switch {
	case r.unproved.Load():
		return 0
	case r.Keeper != nil:
		return format.LSN(r.keptUpTo.Load())
	}
	return format.LSN(r.bound.confirmed.Load())
}

// sendStatus tells the server what has been written and what is durable, often enough for it not to
// give us up. It never waits for the stream's reader: a full pipe must not cost the connection. A
// source that crashed may have forgotten what it was told, and send again what the target has long
// had: the slot must not get ahead of the stream then, or it would look as if somebody else had
// moved it.
func (s *session) sendStatus(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for stopping := false; !stopping; {
		reply := false
		select {
		case <-ctx.Done():
			stopping = true
		case reply = <-s.ask:
		case <-ticker.C:
		}
		durable := s.durable()
		written := format.LSN(s.written.Load())
		if s.conn.SendCopyData(status(written, min(durable, written), reply)) != nil {
			return // Receive meets the same error, and reports it
		}
	}
}

// status makes a standby status update. All three positions are always set: of a flush position of
// zero the server only learns that nothing is durable, which is true.
func status(written, durable format.LSN, reply bool) []byte {
	b := make([]byte, 0, 34)
	b = append(b, 'r')
	b = binary.BigEndian.AppendUint64(b, uint64(written))
	b = binary.BigEndian.AppendUint64(b, uint64(durable))
	b = binary.BigEndian.AppendUint64(b, uint64(durable))
	b = binary.BigEndian.AppendUint64(b, uint64(time.Now().UnixMicro()-946684800*1000000))
	if reply {
		return append(b, 1)
	}
	return append(b, 0)
}
