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

// quietServer replaces a wal_sender_timeout of 0 (never) by a very long one. A server with 0 checks
// for a reply after every message: measured with small transactions, that is a sixth of its
// processor time for decoding. Before version 12, a session cannot change the setting.
const quietServer = "SELECT pg_catalog.set_config('wal_sender_timeout', '1d', false) WHERE pg_catalog.current_setting('wal_sender_timeout') = '0'"

// session runs one session from start to end. It calls connected when the server has accepted it.
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
	lines, closeLines, err := r.openLines(ctx)
	if err != nil {
		return err
	}
	defer closeLines()
	from, must := r.resume()
	if err := r.startReplication(ctx, conn, from); err != nil {
		return err
	}
	connected()
	if err := r.begin(w, max(r.start, r.position)); err != nil {
		return err
	}

	s := &session{Receiver: r, conn: conn, gulp: gulp, w: w, types: types, must: must, lines: lines}
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
	// The last status must be sent before the connection is closed.
	defer func() { stopStatus(); <-done }()
	return s.run(ctx)
}

// connect opens a replication connection, and checks that it leads to the same source as before.
func (r *Receiver) connect(ctx context.Context) (*pgwire.Conn, *pgdial.Gulp, error) {
	pg, gulp, err := r.Server.ConnectRaw(ctx, true)
	if err != nil {
		return nil, nil, err
	}
	if err := r.identify(ctx, pg); err != nil {
		_ = pg.Close(ctx)
		return nil, nil, err
	}
	if pgdial.Version(pg) >= 120000 {
		if _, err := pg.Exec(ctx, quietServer).ReadAll(); err != nil {
			_ = pg.Close(ctx)
			return nil, nil, r.Server.Explain(err)
		}
	}
	conn, err := pgwire.Hijack(pg)
	return conn, gulp, err
}

// inspect checks in an ordinary session that the slot can be used, and reads the names of types.
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
		// The slot was moved past the last change written. Changes are missing, and only the gap
		// between two headers would show it.
		return nil, fault.New(fault.Unavailable,
			"slot %q was moved to LSN %v, but changes were read only up to LSN %v", r.Slot, info.Confirmed,
			r.position).
			WithDetail("Another session used the slot. The changes in between are lost to this stream.").
			WithHint("The target needs a new full load. %s", slot.Anew(r.Slot))
	}
	r.start, r.plugin = info.Confirmed, info.Plugin
	publications, err := slot.RequirePublications(ctx, c, r.Publications)
	if err != nil {
		return nil, r.Server.Explain(err)
	}
	// Set only now: if the session breaks before this point, the next one checks them again.
	r.Publications = publications
	if err := slot.RequireRecorded(ctx, c, publications); err != nil {
		return nil, r.Server.Explain(err)
	}
	if err := slot.RequireCarries(ctx, c, info.Plugin, publications); err != nil {
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
			"the source is not the same server as before: its system identifier was %s and is now %s",
			r.identity.SystemID, id.SystemID)
	}
	if err := r.sameHistory(&id); err != nil {
		return err
	}
	r.identity = id
	return nil
}

// recorded reports whether a table is the one that the event triggers record into. It is called
// when the table first appears: the triggers may be installed while pgdecode runs.
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

// startReplication starts streaming. It waits for the slot's previous reader, which may have exited
// a moment ago.
func (r *Receiver) startReplication(ctx context.Context, conn *pgwire.Conn, from format.LSN) error {
	sql := slot.StartCommand(r.identity.Version, r.Slot, from, r.Publications)
	if r.plugin == slot.TestDecoding {
		sql = slot.StartLines(r.Slot, from)
	}
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
			// By now the server has read the last messages of a process that has just exited.
			if reader = r.reader(ctx); reader != nil && r.header == nil {
				r.Log.Warn(fmt.Sprintf("slot %s is in use by another session, %s; waiting %v for it",
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

// refused explains why the server ended the session. Decoding starts at the same place in every
// session, so a change that one session cannot decode, none can. Measured with 15.20: of slots
// created while tables are truncated all the time, one in 15 misses a truncate.
func (s *session) refused(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "XX000" || !strings.HasPrefix(pg.Message, "could not map file") {
		return s.Server.Explain(err)
	}
	return fault.New(fault.Unavailable, "the source cannot decode slot %q after LSN %v: %w", s.Slot, s.position, pg).
		WithDetail("This is a defect of PostgreSQL: a slot that is created while tables are truncated or rewritten may miss those changes.").
		WithHint("The target needs a new full load. Start it while no table is truncated or rewritten. %s", slot.Anew(s.Slot))
}
