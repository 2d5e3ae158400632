package receive

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/pgdecode/internal/pgoutput"
	"github.com/pgsluice/pgsluice/format"
)

const (
	// tick is how often an idle session looks after itself: it is what a dead reader of the pipe, a
	// signal and a moved WAL position wait for at most. The server hears of us as often, which is
	// enough for every wal_sender_timeout above a second.
	tick = 200 * time.Millisecond
	// progressEvery bounds the progress records of a source whose WAL moves without us; heartbeat
	// is how often there is one in any case: it tells whoever reads the stream that it is alive,
	// and us if nobody does.
	progressEvery = 200 * time.Millisecond
	heartbeat     = time.Second
	// behindBy is how old a commit must be, by the server's own clock, for throughput to count more
	// than latency.
	behindBy = 100 * time.Millisecond
)

// A session is one replication session.
type session struct {
	*Receiver
	conn    *pgwire.Conn
	gulp    *pgdial.Gulp
	w       *format.Writer
	types   map[uint32]string
	decoder pgoutput.Decoder

	answers answers
	ending  ending
	heard   heard
	must    format.StreamCommit // the transaction that has to come again first; zero: none
	xid     uint32              // of the newest transaction that was not sent in blocks
	without without
	blocks  blocks
	synced  time.Time // when the Keeper was last asked to make durable what it has
	// since when the beginning of a transaction has been held back; zero if none is
	unsent time.Time
}

// A without is what the stream goes without at present.
type without uint8

const (
	nothing        without = iota
	theTransaction         // that is open: an earlier session has written it
	theBlock               // that is open: it is of the transaction that comes again
)

func (s *session) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var wakeAt time.Time
	for {
		if s.conn.Waiting() {
			if done, err := s.idle(); done || err != nil {
				return err
			}
			// The deadline is only moved when it has passed: it makes a tick, and moving it costs
			// system calls.
			if now := time.Now(); now.After(wakeAt) {
				wakeAt = now.Add(tick)
				_ = s.conn.SetReadDeadline(wakeAt)
			}
			if s.w.InTransaction() {
				s.gulp.Breathe()
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		msg, err := s.conn.Receive()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			wakeAt = time.Time{}
			continue
		case errors.Is(err, pgwire.ErrEnded):
			return fault.New(fault.TryAgain, "source: %w", err)
		case err != nil:
			return s.refused(err)
		}
		var done bool
		if s.conn.Rest() > 0 {
			done, err = s.large(ctx, msg)
		} else {
			done, err = s.handle(msg)
		}
		if done || err != nil {
			return err
		}
	}
}

// idle is called when the server has sent nothing more for the moment: what was decoded must not
// wait in our buffer.
func (s *session) idle() (done bool, err error) {
	if err := s.progress(false); err != nil {
		return false, err
	}
	if done, err := s.boundary(); done || err != nil {
		return done, err
	}
	switch {
	case s.w.Buffered() == 0:
		s.unsent = time.Time{}
	case s.w.InTransaction() && s.unsent.IsZero():
		// The rest is on its way, message by message, and whoever reads the stream would be woken
		// for each in vain.
		s.unsent = time.Now()
	case !s.w.InTransaction() || time.Since(s.unsent) >= tick:
		s.unsent = time.Time{}
		if err := s.w.Flush(); err != nil {
			return false, writeError(err)
		}
	}
	return false, s.keep()
}

// handle takes one message of the server.
func (s *session) handle(msg []byte) (done bool, err error) {
	switch {
	case len(msg) == 18 && msg[0] == 'k':
		s.heard.at = format.LSN(binary.BigEndian.Uint64(msg[1:]))
		s.heard.clock = serverTime(msg[9:])
		if wantsReply := msg[17] == 1; wantsReply {
			// A server that shuts down asks again and again until what it has sent is confirmed.
			if err := s.progress(true); err != nil {
				return false, err
			}
			s.answers.send(false)
			if err := s.answers.letGo(time.Now()); err != nil {
				return false, err
			}
		}
		return s.boundary()
	case len(msg) > 25 && msg[0] == 'w':
		s.blocks.sent(msg[25])
		rec, err := s.decoder.Decode(msg[25:])
		if f := (*fault.Error)(nil); errors.As(err, &f) {
			return false, err // of the source, and not of the message
		}
		if err != nil {
			return false, fault.New(fault.Failed, "could not decode a change near LSN %v: %w",
				format.LSN(binary.BigEndian.Uint64(msg[1:])), err)
		}
		return s.record(rec, msg)
	}
	return false, fmt.Errorf("unexpected replication message %q of %d bytes", msg[0], len(msg))
}

// serverTime reads the server's clock from a replication message: microseconds since 2000.
func serverTime(b []byte) format.Time {
	return format.Time(int64(binary.BigEndian.Uint64(b)) + 946684800*1000000)
}

// record writes one record, unless its transaction was written in an earlier session.
func (s *session) record(rec format.Record, msg []byte) (done bool, err error) {
	switch r := rec.(type) {
	case nil:
		return false, nil
	case *format.Begin:
		s.gulp.SetBehind(serverTime(msg[17:]).Time().Sub(r.Time.Time()) > behindBy)
		s.xid = r.XID
		if err := s.meetBegin(r); err != nil {
			return false, err
		}
		if r.CommitLSN < s.position {
			s.without = theTransaction
			return false, nil
		}
	case *format.Commit:
		return s.commit(r)
	case *format.StreamCommit:
		return s.streamCommit(r)
	case *format.StreamAbort:
		if r.SubXID == r.XID {
			s.blocks.ended(r.XID)
		}
		if s.hides(r.XID) {
			return false, nil
		}
		if r.SubXID == r.XID {
			s.blocks.open--
		}
	case *format.StreamStart:
		s.gulp.SetBehind(true)
		s.blocks.start(r.XID)
		if s.hides(r.XID) {
			s.without = theBlock
			return false, nil
		}
		if r.First {
			s.blocks.open++
		}
	case *format.Relation:
		for i := range r.Columns {
			r.Columns[i].Type = s.types[r.Columns[i].OID]
		}
		return false, write(s.w, rec)
	}
	switch s.without {
	case theBlock:
		if _, stop := rec.(*format.StreamStop); stop {
			s.without = nothing
		}
		return false, nil
	case theTransaction:
		return false, nil
	}
	return false, write(s.w, rec)
}

// commit takes the end of a transaction that was sent when it was complete.
func (s *session) commit(r *format.Commit) (done bool, err error) {
	t := format.StreamCommit{XID: s.xid, CommitLSN: r.CommitLSN, EndLSN: r.EndLSN, Time: r.Time}
	if _, err := s.meet(t); err != nil {
		return false, err
	}
	if s.without == theTransaction {
		s.without = nothing
		return false, nil
	}
	s.Last = t
	return s.committed(r, r.EndLSN)
}

// streamCommit takes the end of a transaction that was sent in blocks.
func (s *session) streamCommit(r *format.StreamCommit) (done bool, err error) {
	if s.blocks.ended(r.XID) && s.identity.Version >= 150000 && !s.hides(r.XID) {
		return s.withoutChange(r)
	}
	if again, err := s.meet(*r); again || err != nil {
		return false, err
	}
	s.blocks.open--
	s.Last = *r
	return s.committed(r, r.EndLSN)
}

// committed writes the end of a transaction, up to end.
func (s *session) committed(rec format.Record, end format.LSN) (done bool, err error) {
	if err := write(s.w, rec); err != nil {
		return false, err
	}
	s.moveTo(end)
	if err := s.keep(); err != nil {
		return false, err
	}
	return s.boundary()
}

func (s *session) moveTo(lsn format.LSN) {
	s.position = lsn
	s.reached.written.Store(uint64(lsn))
}
