// Package target writes to the target: it runs what package plan has shaped, in transactions that also move the stream's position, and
// loads tables. It does not read standard input.
package target

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// A session is a connection that writes. It is used by one goroutine at a time.
type session struct {
	server   pgdial.Server
	conn     *pgwire.Conn
	prepared map[string]string // statement → its name on this connection
	replica  bool              // triggers and foreign keys are off
}

// sessionSettings make a session write what it is told, fast, and nothing else.
//
// Positions are only reported once the server has flushed them, so commits need not wait. Statements find rows by index: the plans are
// made once, maybe while a table is still empty, and a sequential scan or hash join that was right then would be ruinous later. JIT
// compilation pays for none of them.
const sessionSettings = `SET synchronous_commit = off; SET search_path = ''; SET client_min_messages = error; SET default_transaction_read_only = off;
	SET default_transaction_isolation = 'read committed'; SET xmloption = content; SET work_mem = '32MB'; SET check_function_bodies = off;
	SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off`

func newSession(ctx context.Context, server pgdial.Server, more string) (*session, error) {
	pg, _, err := server.ConnectRaw(ctx, false)
	if err != nil {
		return nil, err
	}
	v := pgdial.Version(pg)
	conn, err := pgwire.Hijack(pg)
	if err != nil {
		return nil, err
	}
	s := &session{server: server, conn: conn, prepared: make(map[string]string)}
	set := sessionSettings
	if v >= 110000 {
		set += "; SET jit = off"
	}
	if v >= 120000 {
		set += "; SET plan_cache_mode = force_generic_plan"
	}
	if v >= 140000 {
		// A process that was killed leaves a server process behind; it should notice while it is busy.
		set += "; SET client_connection_check_interval = '2s'"
	}
	if more != "" {
		set += "; " + more
	}
	if err := s.exec(ctx, set); err != nil {
		s.close()
		return nil, err
	}
	// By SET and not at start-up: some services allow the one and not the other.
	if err := conn.Exec(ctx, "SET session_replication_role = replica"); err == nil {
		s.replica = true
	} else if !isDenied(err) {
		s.close()
		return nil, server.Explain(err)
	}
	return s, nil
}

func isDenied(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "42501"
}

func (s *session) exec(ctx context.Context, sql string) error {
	return s.server.Explain(s.conn.Exec(ctx, sql))
}

func (s *session) close() {
	if s != nil {
		_ = s.conn.Close()
	}
}

// lock takes the stream's lock for this session. A predecessor that was killed gets a while to notice.
func (s *session) lock(ctx context.Context, control *pgx.Conn, stream *progress.Stream, shared bool) error {
	deadline := time.Now().Add(progress.LockTimeout)
	for {
		b := s.conn.Batch(ctx)
		b.Do(progress.LockStatement(stream.ID, shared))
		r, err := b.Run()
		if err == nil {
			err = r.Err
		}
		if err != nil {
			return s.server.Explain(err)
		}
		if len(r.Row) == 1 && r.Row[0] == "t" {
			return nil
		}
		if time.Now().After(deadline) {
			holder, err := progress.Holder(ctx, control, stream.ID)
			if err != nil {
				return s.server.Explain(err)
			}
			return progress.Locked(stream.Key, shared, holder)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// name returns the name under which a statement is prepared on this connection, having the batch prepare it if it is not yet.
func (s *session) name(b *pgwire.Batch, sql string) string {
	name, ok := s.prepared[sql]
	if !ok {
		name = fmt.Sprintf("s%d", len(s.prepared))
		s.prepared[sql] = name
		b.Parse(name, sql)
	}
	return name
}

// forget drops all prepared statements: after an error it is not known which ones the server has.
func (s *session) forget(ctx context.Context) error {
	clear(s.prepared)
	return s.exec(ctx, "DEALLOCATE ALL")
}

// errNoReplica explains what to do where triggers cannot be switched off.
func errNoReplica(err error) error {
	return fault.New(fault.Permission, "the target's role may not set session_replication_role: %w", err).
		WithHint("As superuser: GRANT SET ON PARAMETER session_replication_role TO … (PostgreSQL 15 and newer).")
}
