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
	"github.com/pgsluice/pgsluice/cmd/internal/pgoutput"
	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/pgdecode/internal/lines"
	"github.com/pgsluice/pgsluice/format"
)

const (
	// tick is the interval at which an idle session checks for a closed pipe, a signal and a new
	// WAL position. It sends a status to the server at the same interval, which satisfies every
	// wal_sender_timeout above a second.
	tick = 200 * time.Millisecond
	// progressEvery is the least time between progress records while the source's WAL advances
	// without changes of ours. heartbeat is the most: it tells the stream's reader that pgdecode is
	// alive, and pgdecode whether anybody reads.
	progressEvery = 200 * time.Millisecond
	heartbeat     = time.Second
	// behindBy is the age of a commit, by the server's own clock, from which throughput counts more
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
	lines   *lines.Decoder // instead of decoder, for test_decoding

	answers answers
	ending  ending
	heard   heard
	must    format.StreamCommit // the transaction that must arrive again first; zero: none
	xid     uint32              // of the newest transaction not sent in blocks
	without without
	blocks  blocks
	synced  time.Time // when the Keeper was last synced
	// unsent is since when the beginning of a transaction has been held back; zero: none is.
	unsent time.Time
}

// A without is the part of the input that is currently not written.
type without uint8

const (
	nothing        without = iota
	theTransaction         // the open one: an earlier session has written it
	theBlock               // the open one: it belongs to the transaction that arrives again
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
			// The deadline makes a tick. It is moved only after it has passed, because moving it
			// costs system calls.
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

// idle is called when no more input is waiting: decoded records must not stay in our buffer.
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
		// The rest arrives message by message. Flushing each would wake the stream's reader in
		// vain.
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
			// A server that is shutting down requests replies until everything it sent is
			// confirmed.
			if err := s.progress(true); err != nil {
				return false, err
			}
			s.answers.send(false)
			if err := s.answers.letGo(time.Now()); err != nil {
				return false, err
			}
		}
		return s.boundary()
	case len(msg) > 25 && msg[0] == 'w' && s.lines != nil:
		return s.line(msg)
	case len(msg) > 25 && msg[0] == 'w':
		s.blocks.sent(msg[25])
		rec, err := s.decoder.Decode(msg[25:])
		if f := (*fault.Error)(nil); errors.As(err, &f) {
			return false, err // an error of the source, not of the message
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

// record writes one record, unless an earlier session has written its transaction.
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
			if name, ok := s.types[r.Columns[i].OID]; ok {
				r.Columns[i].Type = name
			}
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

// commit handles the end of a transaction that was sent after it committed.
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

// streamCommit handles the end of a transaction that was sent in blocks.
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

// committed writes the record that ends a transaction, and moves the position to end.
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
