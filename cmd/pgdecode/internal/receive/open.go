package receive

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/identity"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/format"
)

// quietServer replaces a wal_sender_timeout of 0, never, by a very long one. A server without it
// looks for our answer, in vain, after every message that it sends: measured with small
// transactions, that is a sixth of the processor time that decoding costs it. Before 12 the setting
// is not a session's to make.
const quietServer = "SELECT pg_catalog.set_config('wal_sender_timeout', '1d', false) " +
	"WHERE pg_catalog.current_setting('wal_sender_timeout') = '0' AND pg_catalog.current_setting('server_version_num')::int >= 120000"

// session holds one session, from its beginning to its end. It calls connected when the server has
// accepted it.
func (r *Receiver) session(ctx context.Context, w *format.Writer, connected func()) error {
	types, err := r.inspect(ctx)
	if err != nil {
		return err
	}
	conn, gulp, err := r.connect(ctx)
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

	s := &session{Receiver: r, conn: conn, gulp: gulp, w: w, types: types, must: must}
	s.decoder.CheckText = r.identity.Encoding == "SQL_ASCII"
	s.decoder.Skip = func(schema string) bool { return schema == "pgsluice" }
	s.decoder.Recorded = func(oid uint32) (bool, error) { return r.recorded(ctx, oid) }
	s.ending.stop = r.Stop
	r.reached.written.Store(uint64(r.position))
	r.reached.unproved.Store(must.EndLSN != 0)
	s.answers.ask = make(chan bool, 1)
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

// connect opens a replication connection to the source that was read before.
func (r *Receiver) connect(ctx context.Context) (*pgwire.Conn, *pgdial.Gulp, error) {
	pg, gulp, err := r.Server.ConnectRaw(ctx, true)
	if err != nil {
		return nil, nil, err
	}
	if err := r.identify(ctx, pg); err != nil {
		_ = pg.Close(ctx)
		return nil, nil, err
	}
	if _, err := pg.Exec(ctx, quietServer).ReadAll(); err != nil {
		_ = pg.Close(ctx)
		return nil, nil, r.Server.Explain(err)
	}
	conn, err := pgwire.Hijack(pg)
	return conn, gulp, err
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
		// A slot that was moved past what we have written: something is missing, and only a gap in
		// the header would tell.
		return nil, fault.New(fault.Unavailable,
			"slot %q was moved to LSN %v, past %v up to where changes were read", r.Slot, info.Confirmed,
			r.position).
			WithDetail("Somebody else used the slot, and the changes between are lost to this stream.").
			WithHint("The target needs a new full load. %s", slot.Anew(r.Slot))
	}
	r.start = info.Confirmed
	publications, err := slot.RequirePublications(ctx, c, r.Publications)
	if err != nil {
		return nil, r.Server.Explain(err)
	}
	// only now: the next session asks for them again if this one breaks
	r.Publications = publications
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

// identify checks that a new session reaches the same source.
func (r *Receiver) identify(ctx context.Context, pg *pgconn.PgConn) error {
	id := r.identity
	if err := id.IdentifySystem(ctx, pg); err != nil {
		return r.Server.Explain(err)
	}
	if r.header != nil && id.SystemID != r.identity.SystemID {
		return fault.New(fault.Unavailable,
			"the source has become another server: its system identifier was %s and is now %s",
			r.identity.SystemID, id.SystemID)
	}
	if err := r.sameHistory(&id); err != nil {
		return err
	}
	r.identity = id
	return nil
}

// recorded reports whether a table has what event triggers record, and nothing else. It is asked
// when the table is met: the triggers may have been made while we are at work.
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

// startReplication starts streaming. The process that read the slot before may have ended a moment
// ago.
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
				r.Log.Warn(fmt.Sprintf("slot %s is in use by another session, %s; waiting for it for %v",
					r.Slot, reader.Text, releaseTimeout))
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

// refused explains why the server has ended the session. Decoding begins at the same place in every
// session, so what the server cannot decode in one it cannot in any: measured with 15.20, where
// about one of 15 slots that are made while tables are truncated all the time lacks one of those
// truncates.
func (s *session) refused(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "XX000" || !strings.HasPrefix(pg.Message, "could not map file") {
		return s.Server.Explain(err)
	}
	return fault.New(fault.Unavailable, "the source cannot decode slot %q after LSN %v: %w", s.Slot, s.position, pg).
		WithDetail("This is a defect of PostgreSQL: a slot that is made while tables are truncated or rewritten may miss that.").
		WithHint("The target needs a new full load, begun while no table is truncated or rewritten. %s", slot.Anew(s.Slot))
}
