// Package write writes to the target. It runs the groups of package plan in transactions that also
// move the stream's position, and it loads tables. It does not read standard input.
package write

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/citus"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// A session is a connection that writes. Only one goroutine at a time uses it.
type session struct {
	server   pgdial.Server
	conn     *pgwire.Conn
	version  int
	prepared map[string]string // statement → its name on this connection
	replica  bool              // triggers and foreign keys are off
	set      string            // the statements that restore its settings
	use      progress.Use
	citus    bool // the server belongs to a Citus cluster
}

// sessionSettings make a session write what it receives, and nothing else. Commits need not wait,
// because pgapply reports a position only after the server has flushed it.
const sessionSettings = "SET synchronous_commit = off; SET check_function_bodies = off"

// applySettings are for sessions that apply changes. Their statements find rows by index. The
// server plans a statement once, perhaps while the table is still empty. A sequential scan or hash
// join that is right then would be ruinous later. JIT compilation does not pay off for any of these
// statements.
const applySettings = `SET work_mem = '32MB'; SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off`

// newSession opens a session and takes the stream's lock for it.
func newSession(ctx context.Context, server pgdial.Server, log *slog.Logger, stream *progress.Stream,
	use progress.Use) (s *session, err error) {
	pg, _, err := server.ConnectRaw(ctx, false)
	if err != nil {
		return nil, err
	}
	s = &session{server: server, version: pgdial.Version(pg), prepared: make(map[string]string), use: use, citus: stream.Citus}
	common := server.Set(pg) // again, so that s.set can restore the session
	if s.conn, err = pgwire.Hijack(pg); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.close()
			s = nil
		}
	}()
	set := common + "; " + sessionSettings
	if s.version >= 140000 {
		// A killed process leaves a server process behind. The server process should notice that
		// even while it is busy.
		set += "; SET client_connection_check_interval = '2s'"
	}
	if use != progress.Loading {
		set += "; " + applySettings
		if s.version >= 110000 {
			set += "; SET jit = off"
		}
		if s.version >= 120000 {
			set += "; SET plan_cache_mode = force_generic_plan"
		}
	}
	if stream.Citus {
		set += "; " + citus.Settings
	}
	s.set = set
	if err = s.exec(ctx, set); err != nil {
		return s, err
	}
	if !stream.Citus || citus.Replica {
		// Use SET, not a startup parameter: some services allow only SET.
		if err = s.conn.Exec(ctx, "SET session_replication_role = replica"); err == nil {
			s.replica = true
		} else if !isDenied(err) {
			return s, server.Explain(err)
		}
	}
	err = s.lock(ctx, log, stream, use)
	return s, err
}

func isDenied(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "42501"
}

func (s *session) exec(ctx context.Context, sql string) error {
	return s.server.Explain(s.conn.Exec(ctx, sql))
}

// alone returns statements that the server can execute among others.
func (s *session) alone(sql string) string {
	if s.citus {
		return citus.Alone(sql)
	}
	return sql
}

func (s *session) close() {
	if s != nil && s.conn != nil {
		_ = s.conn.Close()
	}
}

// ask runs statements without parameters and returns the values of the last row of any.
func (s *session) ask(ctx context.Context, statements ...string) ([]string, error) {
	b := s.conn.Batch(ctx)
	for _, sql := range statements {
		b.Do(sql)
	}
	r, err := b.Run()
	if err == nil {
		err = r.Err
	}
	if err != nil {
		return nil, s.server.Explain(err)
	}
	return r.Row, nil
}

// lock takes the stream's lock for this session. It waits a while, because the server may not have
// noticed yet that a predecessor was killed.
func (s *session) lock(ctx context.Context, log *slog.Logger, stream *progress.Stream, use progress.Use) error {
	deadline := time.Now().Add(progress.LockTimeout)
	_, err := s.await(ctx, log, stream, progress.WorkLock(use), func(holder string) error {
		if time.Now().After(deadline) {
			return progress.Locked(stream.Key, use, holder)
		}
		return nil
	})
	return err
}

// await takes a lock of the stream as soon as no other session of pgsluice holds it. While one
// does, await calls giveUp.
func (s *session) await(ctx context.Context, log *slog.Logger, stream *progress.Stream, what progress.What,
	giveUp func(holder string) error) (progress.Lock, error) {
	for {
		lock, holder, err := progress.Try(ctx, s.askOne, stream.ID, what, func(text string) { log.Warn(text) })
		if err != nil || holder == "" {
			return lock, err
		}
		if err := giveUp(holder); err != nil {
			return lock, err
		}
		select {
		case <-ctx.Done():
			return lock, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Exec executes a statement for package objects, which needs the server's own errors.
func (s *session) Exec(ctx context.Context, sql string) error { return s.conn.Exec(ctx, sql) }

// Ask is Exec for a query of one row.
func (s *session) Ask(ctx context.Context, sql string) ([]string, error) { return s.ask(ctx, sql) }

func (s *session) askOne(ctx context.Context, sql string) ([]string, error) { return s.ask(ctx, sql) }

// forever is a giveUp function that waits for the holder without a limit.
func forever(string) error { return nil }

// maxPrepared bounds the number of prepared statements. Tables without a key need one for each set
// of columns that are NULL.
const maxPrepared = 2000

// name returns the name under which a statement is prepared on this connection. If the statement is
// not prepared yet, the batch prepares it.
func (s *session) name(b *pgwire.Batch, sql string) string {
	name, ok := s.prepared[sql]
	if !ok {
		if len(s.prepared) >= maxPrepared {
			b.Do("DEALLOCATE ALL")
			clear(s.prepared)
		}
		name = fmt.Sprintf("s%d", len(s.prepared))
		s.prepared[sql] = name
		b.Parse(name, sql)
	}
	return name
}

// forget drops all prepared statements. After an error, pgapply does not know which ones the server
// has.
func (s *session) forget(ctx context.Context) error {
	clear(s.prepared)
	return s.exec(ctx, "DEALLOCATE ALL")
}
