package receive

import (
	"context"
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/format"
)

// reached is how far the stream is, for the goroutine that tells the server.
type reached struct {
	written  atomic.Uint64 // everything up to here has been written
	kept     atomic.Uint64 // everything up to here is durable with the Keeper
	unproved atomic.Bool   // a transaction has to come again first
}

// durable returns what may be acknowledged; 0: nothing yet. A source that may have gone back in
// time must not be told of its other history's positions: its slot would skip what it has there
// now.
func (r *Receiver) durable() format.LSN {
	switch {
	case r.reached.unproved.Load():
		return 0
	case r.Keeper != nil:
		return format.LSN(r.reached.kept.Load())
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
		case reply = <-s.answers.ask:
		case <-ticker.C:
		}
		durable := s.durable()
		written := format.LSN(s.reached.written.Load())
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

// answers are what the server asks for: a status, which it wants to have at once.
type answers struct {
	ask         chan bool // a status is to be sent at once; true: it asks for an answer
	first, last time.Time // when the server has asked, without a pause between
}

// send has a status sent at once, which may itself ask for an answer.
func (a *answers) send(reply bool) {
	select {
	case a.ask <- reply:
	default:
	}
}

// letGoAfter is how long a server that shuts down may wait for us.
const letGoAfter = 10 * time.Second

// letGo returns an error if the server has asked for an answer over and over for too long. We
// answer more often than it needs, so that it asks only when it shuts down, until what it has sent
// is confirmed; if the target is in no state to do so, it would wait for ever. Nothing is lost: the
// next session goes on where this one ended.
func (a *answers) letGo(now time.Time) error {
	if now.Sub(a.last) > time.Second {
		a.first = now
	}
	a.last = now
	if now.Sub(a.first) < letGoAfter {
		return nil
	}
	return fault.New(fault.TryAgain, "the source shuts down, and the target has not confirmed all that was sent")
}
