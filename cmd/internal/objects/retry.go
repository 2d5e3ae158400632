package objects

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/citus"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
)

// conn is a Session that uses the driver. pgapply has its own implementation.
type conn struct {
	*pgx.Conn
	warned *pgconn.PgError
}

func (c *conn) Exec(ctx context.Context, sql string) error {
	c.warned = nil
	_, err := c.PgConn().Exec(ctx, sql).ReadAll()
	if err == nil && c.warned != nil {
		err = c.warned
	}
	return err
}

func (c *conn) Ask(ctx context.Context, sql string) ([]string, error) {
	results, err := c.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	var row []string
	for _, r := range results {
		for _, values := range r.Rows {
			row = row[:0]
			for _, v := range values {
				row = append(row, string(v))
			}
		}
	}
	return row, nil
}

// Quick reports whether an object can be created without reading rows, so that the size of tables
// does not matter.
func Quick(o *progress.Object) bool {
	switch o.Type {
	case "INDEX", "CONSTRAINT":
		return o.Index == "" && o.Attach != "" // the index exists
	case "CHECK CONSTRAINT", "FK CONSTRAINT", "MATERIALIZED VIEW", "MATERIALIZED VIEW DATA":
		return false
	}
	return true
}

// NotData reports whether something other than existing rows caused the failure.
func NotData(o *progress.Object) bool {
	return !strings.HasPrefix(o.Code, "22") && !strings.HasPrefix(o.Code, "23")
}

// Any accepts all objects.
func Any(*progress.Object) bool { return true }

// Retry tries again to create the failed objects of a stream, in order. Objects that failed because
// of another are retried once that one exists. It skips objects that want rejects, and those that
// wait for the cutover: foreign keys, triggers and rules. It returns the number of objects created.
// progress.Failed returns those that remain.
//
// A lock timeout says nothing about the object. So patiently repeats such a statement for as long
// as it chooses.
func Retry(ctx context.Context, server pgdial.Server, stream *progress.Stream,
	want func(*progress.Object) bool, patiently func(do func() error) error) (created int, err error) {
	s := &conn{}
	s.Conn, err = server.ConnectNoticing(ctx, func(n *pgconn.Notice) {
		if pgwire.Unchanged(n.Code) {
			s.warned = (*pgconn.PgError)(n)
		}
	})
	if err != nil {
		return 0, err
	}
	defer func() { _ = s.Close(context.WithoutCancel(ctx)) }()
	if err := s.Exec(ctx, "SET check_function_bodies = off; SET synchronous_commit = "+citus.Commit(stream.Citus)+"; SET lock_timeout = '"+
		waiting.LockTimeout+"'"); err != nil {
		return 0, server.Explain(err)
	}
	m := &Maker{Session: s, Stream: stream.ID, Citus: stream.Citus, patiently: patiently, NewID: func() (int64, error) {
		ids, err := progress.NewIDs(ctx, s.Conn, 1)
		if err != nil {
			return 0, err
		}
		return ids[0], nil
	}}
	tried := make(map[int64]int64) // object → failure that it was a consequence of
	for {
		list, err := progress.Failed(ctx, s.Conn, stream.ID)
		if err != nil {
			return created, server.Explain(err)
		}
		failing := make(map[int64]bool)
		for _, o := range list {
			failing[o.ID] = true
		}
		progressed := false
		for i := range list {
			o := &list[i]
			if o.Phase == progress.PhaseCutover || o.Phase == progress.PhaseFinish || !want(o) || strings.TrimSpace(o.SQL) == "" {
				continue
			}
			// Try each object once, and again when its cause is resolved.
			if because, known := tried[o.ID]; known && (because == 0 || failing[because]) {
				continue
			}
			tried[o.ID] = o.Because
			done, err := m.again(ctx, o)
			if err != nil {
				return created, server.Explain(fmt.Errorf("%v: %w", o, err))
			}
			if done {
				created++
				progressed = true
				delete(failing, o.ID)
			}
		}
		if !progressed {
			return created, nil
		}
	}
}

// again retries one object.
func (m *Maker) again(ctx context.Context, o *progress.Object) (done bool, err error) {
	refused, err := m.try(ctx, o.Rest(), progress.DoneSQL(o.ID))
	if err != nil {
		return false, err
	}
	if refused == nil || isThere(o, refused) {
		return true, m.Session.Exec(ctx, progress.DoneSQL(o.ID))
	}
	left, err := m.Settle(ctx, o, refused)
	return err == nil && len(left) == 0, err
}

// isThere reports whether creation failed only because somebody has created the object by hand
// since. It is false if the object failed for that reason from the start.
func isThere(o *progress.Object, err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && exists(o, pg.Code) && !exists(o, o.Code)
}

func exists(o *progress.Object, code string) bool {
	switch code {
	case "42P07", "42710", "42P06", "42723":
		return true
	case "42P16":
		return o.Type == "CONSTRAINT" // the table already has a primary key
	}
	return false
}
