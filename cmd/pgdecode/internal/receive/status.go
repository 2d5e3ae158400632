package receive

import (
	"context"
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/format"
)

// reached is the progress of the stream, shared with the goroutine that reports it to the server.
type reached struct {
	written  atomic.Uint64 // everything up to here has been written
	kept     atomic.Uint64 // the Keeper has made everything up to here durable
	unproved atomic.Bool   // an already written transaction must arrive again first
}

// durable returns the LSN that may be acknowledged, or 0 if there is none yet. A source that may
// have gone back in time must not receive positions of its other history: its slot would skip the
// changes that it has there now.
func (r *Receiver) durable() format.LSN {
	switch {
	case r.reached.unproved.Load():
		return 0
	case r.Keeper != nil:
		return format.LSN(r.reached.kept.Load())
	}
	return format.LSN(r.bound.confirmed.Load())
}

// sendStatus reports the written and the durable position often enough to prevent
// wal_sender_timeout. It never waits for the stream's reader: a full pipe must not cost the
// connection. After a crash, the source may have lost the acknowledged position and send changes
// that the target has already. The slot must not get ahead of the stream then, or it would look as
// if another session had moved it.
func (s *session) sendStatus(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for stopping := false; !stopping; {
		reply := false
		select {
		case <-ctx.Done():
			stopping = true
		case reply = <-s.answers.ask:
		case <-ticker.C:
		}
		durable := s.durable()
		written := format.LSN(s.reached.written.Load())
		if s.conn.SendCopyData(status(written, min(durable, written), reply)) != nil {
			return // Receive gets the same error and reports it
		}
	}
}

// status returns a standby status update. All three positions are always set: a flush position of
// zero says that nothing is durable, which is true.
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

// answers tracks the server's requests for an immediate status update.
type answers struct {
	ask         chan bool // send a status at once; true: request a reply
	first, last time.Time // the server's requests, without a pause in between
}

// send has a status sent at once. With reply, the status requests a reply from the server.
func (a *answers) send(reply bool) {
	select {
	case a.ask <- reply:
	default:
	}
}

// letGoAfter is how long a server that is shutting down may wait for us.
const letGoAfter = 10 * time.Second

// letGo returns an error if the server has requested replies without a pause for too long. We send
// a status more often than the server needs, so it makes requests only during shutdown, until
// everything that it sent is confirmed. If the target cannot confirm, the server would wait
// forever. Nothing is lost: the next session continues where this one ended.
func (a *answers) letGo(now time.Time) error {
	if now.Sub(a.last) > time.Second {
		a.first = now
	}
	a.last = now
	if now.Sub(a.first) < letGoAfter {
		return nil
	}
	return fault.New(fault.TryAgain, "the source is shutting down, and the target has not confirmed all changes")
}
