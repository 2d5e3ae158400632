// Package receive holds the replication session: it starts it, keeps it alive, tells the server what the target has made durable, and
// starts it again when it breaks. What the messages mean is pgoutput's business.
package receive

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/identity"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgdecode/internal/pgoutput"
	"github.com/pgsluice/pgsluice/format"
)

// A Receiver reads a slot's changes into a stream.
type Receiver struct {
	Server       pgdial.Server
	Slot         string
	Publications []string
	Until        format.LSN          // end at the first transaction boundary at or after it; 0: never
	Confirms     bool                // Confirm is called with what the target has; without it nothing is acknowledged
	Stop         <-chan struct{}     // come to an end at the next transaction boundary
	Keeper       Keeper              // if the stream is kept rather than passed on; then Confirm is not called
	Resume       format.LSN          // what an earlier run has written up to here is not to be written again; 0: go on where the slot is
	Last         format.StreamCommit // the newest transaction that was written, whichever way it was sent; zero: none was
	Timeline     uint64              // of the source, that it was written of; 0 if that is not known
	Named        bool                // the source has been named on standard error
	Log          *slog.Logger

	identity slot.Identity
	clock    time.Time // of the source, before it was asked where its WAL is; zero when a header has told
	bound    bound
	token    string         // of the migration, that the slot was made with
	start    format.LSN     // of the slot
	position format.LSN     // everything up to here has been written
	header   *format.Header // the newest one that was written, nil: none was
	keptUpTo atomic.Uint64  // everything up to here is durable with the Keeper
	unproved atomic.Bool    // a transaction has to come again first
	written  atomic.Uint64  // the position, for other goroutines
}

const (
	// tick is how often an idle session looks after itself: it is what a dead reader of the pipe, a signal and a moved WAL position
	// wait for at most. The server hears of us as often, which is enough for every wal_sender_timeout above a second.
	tick = 200 * time.Millisecond
	// progressEvery bounds the progress records of a source whose WAL moves without us; heartbeat is how often there is one in any case: it
	// tells whoever reads the stream that it is alive, and us if nobody does.
	progressEvery = 200 * time.Millisecond
	heartbeat     = time.Second
	// behindBy is how old a commit must be, by the server's own clock, for throughput to count more than latency.
	behindBy = 100 * time.Millisecond
)

// Run writes a stream to w until Until is reached (the end record then says complete), Stop is closed (it says stopped, and the error is
// cli.ErrStopped), or something fails for good. A session that breaks is started again, with a new header in the stream.
func (r *Receiver) Run(ctx context.Context, w *format.Writer) error {
	const firstDelay, lastDelay = 200 * time.Millisecond, 30 * time.Second
	delay := firstDelay
	r.position = r.Resume
	var down time.Time // since when there has been no session
	for {
		began := r.position
		err := r.session(ctx, w, func() {
			if !down.IsZero() {
				r.Log.Info(fmt.Sprintf("connected to the source again after %v, going on after LSN %v", time.Since(down).Round(time.Millisecond), r.position))
				down = time.Time{}
			}
		})
		if cli.IsBrokenPipe(err) {
			r.awaitLastLine(ctx)
		}
		if foreign := r.bound.foreign.Load(); foreign != nil {
			return foreign
		}
		if r.bound.ended.Load() {
			// The reader may have gone already, and does not care for the end record.
			_ = r.end(w, format.Complete)
			return nil
		}
		if err == nil || errors.Is(err, cli.ErrStopped) || ctx.Err() != nil || !r.retryable(err) {
			return err
		}
		if r.position > began {
			delay = firstDelay
		}
		if down.IsZero() {
			down = time.Now()
			r.Log.Warn(err.Error() + "; trying again")
		}
		if time.Since(down) > giveUpAfter {
			return err
		}
		select {
		case <-time.After(delay):
		case <-r.Stop:
			return r.end(w, format.Stopped)
		case <-ctx.Done():
			return ctx.Err()
		}
		delay = min(2*delay, lastDelay)
	}
}

// awaitLastLine gives the last line of a reader that has gone the time to be read: pgapply prints
// that a cutover has ended the stream, and then closes the pipe. We may see the second first.
func (r *Receiver) awaitLastLine(ctx context.Context) {
	if !r.Confirms {
		return
	}
	const patience = time.Second
	for began := time.Now(); time.Since(began) < patience; {
		if r.bound.ended.Load() || r.bound.foreign.Load() != nil || ctx.Err() != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// giveUpAfter is when a source that stays away becomes the supervisor's problem: longer than a managed service's failover takes.
const giveUpAfter = 5 * time.Minute

// retryable reports whether a new session may cure err. Before the first header the caller is told at once.
func (r *Receiver) retryable(err error) bool {
	if fault.StatusOf(err) != fault.TryAgain || cli.IsBrokenPipe(err) {
		return false
	}
	return r.header != nil
}

// quietServer replaces a wal_sender_timeout of 0, never, by a very long one. A server without it looks for our answer, in vain, after
// every message that it sends: measured with small transactions, that is a sixth of the processor time that decoding costs it.
// Before 12 the setting is not a session's to make.
const quietServer = "SELECT pg_catalog.set_config('wal_sender_timeout', '1d', false) " +
	"WHERE pg_catalog.current_setting('wal_sender_timeout') = '0' AND pg_catalog.current_setting('server_version_num')::int >= 120000"

func (r *Receiver) session(ctx context.Context, w *format.Writer, connected func()) error {
	types, err := r.inspect(ctx)
	if err != nil {
		return err
	}
	pg, gulp, err := r.Server.ConnectRaw(ctx, true)
	if err != nil {
		return err
	}
	if err := r.identify(ctx, pg); err != nil {
		_ = pg.Close(ctx)
		return err
	}
	if _, err := pg.Exec(ctx, quietServer).ReadAll(); err != nil {
		_ = pg.Close(ctx)
		return r.Server.Explain(err)
	}
	conn, err := pgwire.Hijack(pg)
	if err != nil {
		return err
	}
	defer conn.Close()
	from, must := r.resume()
	if err := r.startReplication(ctx, conn, from); err != nil {
		return err
	}
	connected()
	if err := r.begin(w, max(r.start, r.position)); err != nil {
		return err
	}

	s := &session{Receiver: r, conn: conn, gulp: gulp, w: w, types: types, ask: make(chan bool, 1), must: must}
	s.decoder.CheckText = r.identity.Encoding == "SQL_ASCII"
	s.decoder.Skip = func(schema string) bool { return schema == "pgsluice" }
	s.decoder.Recorded = func(oid uint32) (bool, error) { return r.recorded(ctx, oid) }
	r.written.Store(uint64(r.position))
	r.unproved.Store(must.EndLSN != 0)
	status, stopStatus := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.sendStatus(status)
	}()
	// The last status must be out before the connection is closed.
	defer func() { stopStatus(); <-done }()
	return s.run(ctx)
}

// inspect checks on an ordinary session that the slot can be used, and reads the names of types.
func (r *Receiver) inspect(ctx context.Context) (map[uint32]string, error) {
	c, err := r.Server.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close(ctx)
	if !r.Named {
		r.Log.Info(identity.Line("source", c))
		r.Named = true
	}
	if err := c.QueryRow(ctx, "SELECT pg_catalog.clock_timestamp()").Scan(&r.clock); err != nil {
		return nil, r.Server.Explain(err)
	}
	id, err := slot.Identify(ctx, c)
	if err != nil {
		return nil, r.Server.Explain(err)
	}
	info, err := slot.Get(ctx, c, r.Slot)
	if err != nil {
		return nil, r.Server.Explain(err)
	}
	switch err := id.Decodes(info); {
	case err != nil && r.header != nil: // a failover may be under way
		return nil, fault.New(fault.TryAgain, "%w", err)
	case err != nil:
		return nil, err
	case r.header == nil:
		r.identity = id
	}
	if err := info.Usable(r.Slot, id.Database); err != nil {
		return nil, err
	}
	if r.position != 0 && info.Confirmed > r.position {
		// A slot that was moved past what we have written: something is missing, and only a gap in the header would tell.
		return nil, fault.New(fault.Unavailable, "slot %q was moved to LSN %v, past %v up to where changes were read", r.Slot, info.Confirmed, r.position).
			WithDetail("Somebody else used the slot, and the changes between are lost to this stream.").
			WithHint("The target needs a new full load. %s", slot.Anew(r.Slot))
	}
	r.start = info.Confirmed
	publications, err := slot.RequirePublications(ctx, c, r.Publications)
	if err != nil {
		return nil, r.Server.Explain(err)
	}
	r.Publications = publications // only now: the next session asks for them again if this one breaks
	if err := slot.RequireRecorded(ctx, c, publications); err != nil {
		return nil, r.Server.Explain(err)
	}
	binding, err := slot.GetBinding(ctx, c, r.Slot, publications)
	if err != nil {
		return nil, r.Server.Explain(err)
	}
	r.token = binding.Token
	r.bound.know(binding)
	types, err := catalog.TypeNames(ctx, c)
	return types, r.Server.Explain(err)
}

// recorded reports whether a table has what event triggers record, and nothing else. It is asked when the table is met: the triggers may
// have been made while we are at work.
func (r *Receiver) recorded(ctx context.Context, oid uint32) (bool, error) {
	c, err := r.Server.Connect(ctx)
	if err != nil {
		return false, err
	}
	defer c.Close(ctx)
	recorder, err := slot.GetRecorder(ctx, c)
	if err != nil {
		return false, r.Server.Explain(err)
	}
	return recorder.Trusted() && recorder.OID == oid, recorder.Err()
}

func (r *Receiver) startReplication(ctx context.Context, conn *pgwire.Conn, from format.LSN) error {
	sql := slot.StartCommand(r.identity.Version, r.Slot, from, r.Publications)
	began := time.Now()
	var reader *slot.Reader
	for {
		err := conn.CopyBoth(ctx, sql)
		if err == nil {
			return nil
		}
		err = r.Server.Explain(err)
		switch waited := time.Since(began); {
		case !slotInUse(err):
			return err
		case waited > releaseTimeout:
			return r.inUse(ctx, reader, err)
		case reader == nil && waited > releaseTimeout/2:
			// What a process that has just ended had sent is read by now.
			if reader = r.reader(ctx); reader != nil && r.header == nil {
				r.Log.Warn(fmt.Sprintf("slot %s is in use by another session, %s; waiting for it for %v", r.Slot, reader.Text, releaseTimeout))
			}
		}
		select {
		case <-time.After(tick):
		case <-ctx.Done():
			return ctx.Err()
		case <-r.Stop:
			return cli.ErrStopped
		}
	}
}

// begin writes a header for what follows start.
func (r *Receiver) begin(w *format.Writer, start format.LSN) error {
	h := r.identity.Header(format.Changes)
	h.Producer = "pgdecode " + cli.Version()
	h.Created = format.TimeOf(time.Now())
	if !r.clock.IsZero() {
		h.Created, h.SourceLSN = format.TimeOf(r.clock), r.identity.At
		r.clock = time.Time{}
	}
	h.Slot, h.Publications, h.StartLSN = r.Slot, r.Publications, start
	h.Token, h.Minor = r.token, format.Minor // of which statements that change the schema make use
	if r.Keeper != nil {
		if err := r.Keeper.Begin(h); err != nil {
			return err
		}
	}
	if err := write(w, h); err != nil {
		return err
	}
	r.header, r.position, r.Timeline = h, start, r.identity.Timeline
	return nil
}

// end writes the end record.
func (r *Receiver) end(w *format.Writer, reason string) error {
	if r.header != nil {
		if w.InTransaction() {
			// The session broke in a transaction; a header takes that back. What was before the transaction is not in this stream any more.
			h := *r.header
			h.StartLSN, h.SourceLSN = r.position, 0
			if err := write(w, &h); err != nil {
				return err
			}
		}
		if _, err := w.End(reason, r.position); err != nil {
			return writeError(err)
		}
	}
	if reason == format.Stopped {
		return cli.ErrStopped
	}
	return nil
}

// A session is one replication session.
type session struct {
	*Receiver
	conn    *pgwire.Conn
	gulp    *pgdial.Gulp
	w       *format.Writer
	types   map[uint32]string
	decoder pgoutput.Decoder

	ask chan bool // a status is to be sent at once; true: it asks for an answer

	must                  format.StreamCommit // the transaction that has to come again first; zero: none
	xid                   uint32              // of the open transaction
	hiding                bool                // the open block is of the transaction that comes again
	skipping              bool                // the open transaction was written in an earlier session
	blocks                blocks
	synced                time.Time  // when the Keeper was last asked to make durable what it has
	serverAt              format.LSN // newest WAL position that the server has told; everything before it has been sent
	serverT               format.Time
	told                  time.Time // of the last progress record
	stoppedAt             time.Time // when it was seen that we are to stop
	askedFirst, askedLast time.Time // when the server has asked for an answer, without a pause between

	unsent time.Time // since when the beginning of a transaction has been held back; zero if none is
}

func (s *session) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var wakeAt time.Time
	for {
		if s.conn.Waiting() {
			if done, err := s.idle(); done || err != nil {
				return err
			}
			// The deadline is only moved when it has passed: it makes a tick, and moving it costs system calls.
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

// refused explains why the server has ended the session. Decoding begins at the same place in every session, so what the server cannot decode in one it
// cannot in any: measured with 15.20, where about one of 15 slots that are made while tables are truncated all the time lacks one of those truncates.
func (s *session) refused(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "XX000" || !strings.HasPrefix(pg.Message, "could not map file") {
		return s.Server.Explain(err)
	}
	return fault.New(fault.Unavailable, "the source cannot decode slot %q after LSN %v: %w", s.Slot, s.position, pg).
		WithDetail("This is a defect of PostgreSQL: a slot that is made while tables are truncated or rewritten may miss that.").
		WithHint("The target needs a new full load, begun while no table is truncated or rewritten. %s", slot.Anew(s.Slot))
}

// idle is called when the server has sent nothing more for the moment: what was decoded must not wait in our buffer.
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
		// The rest is on its way, message by message, and whoever reads the stream would be woken for each in vain.
		s.unsent = time.Now()
	case !s.w.InTransaction() || time.Since(s.unsent) >= tick:
		s.unsent = time.Time{}
		if err := s.w.Flush(); err != nil {
			return false, writeError(err)
		}
	}
	return false, s.keep()
}

// boundary ends the stream if that is wanted and no transaction is open. If there is nobody any more for whom to wait, or it has been waited for
// long enough, an open one is taken back.
func (s *session) boundary() (done bool, err error) {
	if foreign := s.bound.foreign.Load(); foreign != nil {
		return true, foreign
	}
	if s.bound.ended.Load() {
		return true, nil
	}
	stopped := s.stopped()
	if s.w.InTransaction() || s.skipping {
		if stopped && time.Since(s.stoppedAt) > boundaryTimeout {
			return true, s.end(s.w, format.Stopped)
		}
		return false, nil
	}
	if stopped {
		return true, s.finish(format.Stopped)
	}
	if s.Until != 0 && s.position >= s.Until {
		return true, s.finish(format.Complete)
	}
	return false, nil
}

// stopped reports whether it is wished that we stop.
func (s *session) stopped() bool {
	select {
	case <-s.Stop:
		if s.stoppedAt.IsZero() {
			s.stoppedAt = time.Now()
		}
		return true
	default:
		return false
	}
}

// finish writes the end record and gives the target a moment to make durable what it has, so that the slot learns of it.
func (s *session) finish(reason string) error {
	err := s.end(s.w, reason)
	if err != nil && !errors.Is(err, cli.ErrStopped) || !s.Confirms && s.Keeper == nil {
		return err
	}
	if s.Keeper != nil {
		if e := s.sync(); e != nil {
			return e
		}
	}
	for deadline := time.Now().Add(confirmTimeout); time.Now().Before(deadline) && s.durable() < s.position && s.bound.foreign.Load() == nil; {
		time.Sleep(tick / 10)
	}
	return err
}

// boundaryTimeout is how long after the wish to stop the end of an open transaction is waited for: it may be large, or its server silent. pgapply, told
// to stop at the same time, waits longer.
const boundaryTimeout = 3 * time.Second

// confirmTimeout bounds the wait for the last confirmation. Nothing is lost without it: the slot stays a little behind.
const confirmTimeout = 5 * time.Second

// progress writes a progress record if the server's position has moved past everything that was written, or if it is time for one; often
// enough, or at once.
func (s *session) progress(now bool) error {
	since := time.Since(s.told)
	if s.w.InTransaction() || s.skipping || s.serverAt <= s.position && since < heartbeat || !now && since < progressEvery {
		return nil
	}
	if since >= heartbeat { // the next one should know better
		select {
		case s.ask <- true:
		default:
		}
	}
	if err := s.meetPosition(s.serverAt); err != nil {
		return err
	}
	s.moveTo(max(s.position, s.serverAt))
	s.told = time.Now()
	return write(s.w, &format.Progress{LSN: s.position, Time: s.serverT})
}

func (s *session) handle(msg []byte) (done bool, err error) {
	switch {
	case len(msg) == 18 && msg[0] == 'k':
		s.serverAt = format.LSN(binary.BigEndian.Uint64(msg[1:]))
		s.serverT = serverTime(msg[9:])
		if wantsReply := msg[17] == 1; wantsReply {
			// A server that shuts down asks again and again until what it has sent is confirmed.
			if err := s.progress(true); err != nil {
				return false, err
			}
			select {
			case s.ask <- false:
			default:
			}
			if err := s.letGo(time.Now()); err != nil {
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
			return false, fault.New(fault.Failed, "could not decode a change near LSN %v: %w", format.LSN(binary.BigEndian.Uint64(msg[1:])), err)
		}
		return s.record(rec, msg)
	}
	return false, fmt.Errorf("unexpected replication message %q of %d bytes", msg[0], len(msg))
}

// letGoAfter is how long a server that shuts down may wait for us.
const letGoAfter = 10 * time.Second

// letGo returns an error if the server has asked for an answer over and over for too long. We answer more often than it needs, so that it asks only when it shuts
// down, until what it has sent is confirmed; if the target is in no state to do so, it would wait for ever. Nothing is lost: the next session goes on where this
// one ended.
func (s *session) letGo(now time.Time) error {
	if now.Sub(s.askedLast) > time.Second {
		s.askedFirst = now
	}
	s.askedLast = now
	if now.Sub(s.askedFirst) < letGoAfter {
		return nil
	}
	return fault.New(fault.TryAgain, "the source shuts down, and the target has not confirmed all that was sent")
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
		if s.skipping = r.CommitLSN < s.position; s.skipping {
			return false, nil
		}
	case *format.Commit:
		t := format.StreamCommit{XID: s.xid, CommitLSN: r.CommitLSN, EndLSN: r.EndLSN, Time: r.Time}
		if _, err := s.meet(t); err != nil {
			return false, err
		}
		if s.skipping {
			s.skipping = false
			return false, nil
		}
		s.Last = t
		return s.committed(rec, r.EndLSN)
	case *format.StreamCommit:
		if s.blocks.ended(r.XID) && s.identity.Version >= 150000 && !s.hides(r.XID) {
			return s.withoutChange(r)
		}
		if again, err := s.meet(*r); again || err != nil {
			return false, err
		}
		s.blocks.open--
		s.Last = *r
		return s.committed(rec, r.EndLSN)
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
		if s.hiding = s.hides(r.XID); s.hiding {
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
	if s.hiding {
		_, stop := rec.(*format.StreamStop)
		s.hiding = !stop
		return false, nil
	}
	if s.skipping {
		return false, nil
	}
	return false, write(s.w, rec)
}

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
	s.written.Store(uint64(lsn))
}

// serverTime reads the server's clock from a replication message: microseconds since 2000.
func serverTime(b []byte) format.Time {
	return format.Time(int64(binary.BigEndian.Uint64(b)) + 946684800*1000000)
}

// identify checks that a new session reaches the same source.
func (r *Receiver) identify(ctx context.Context, pg *pgconn.PgConn) error {
	id := r.identity
	if err := id.IdentifySystem(ctx, pg); err != nil {
		return r.Server.Explain(err)
	}
	if r.header != nil && id.SystemID != r.identity.SystemID {
		return fault.New(fault.Unavailable, "the source has become another server: its system identifier was %s and is now %s", r.identity.SystemID, id.SystemID)
	}
	if err := r.sameHistory(&id); err != nil {
		return err
	}
	r.identity = id
	return nil
}
