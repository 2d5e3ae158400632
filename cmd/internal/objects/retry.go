package objects

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
)

// conn is a session of the driver's. The one of pgapply is another.
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

// Quick reports whether an object is created without reading rows of tables, however many they
// have.
func Quick(o *progress.Object) bool {
	switch o.Type {
	case "INDEX", "CONSTRAINT":
		return o.Index == "" && o.Attach != "" // the index is there
	case "CHECK CONSTRAINT", "FK CONSTRAINT", "MATERIALIZED VIEW", "MATERIALIZED VIEW DATA":
		return false
	}
	return true
}

// NotData reports whether an object was not refused because of the rows that are there.
func NotData(o *progress.Object) bool {
	return !strings.HasPrefix(o.Code, "22") && !strings.HasPrefix(o.Code, "23")
}

// Any is for all objects.
func Any(*progress.Object) bool { return true }

// Retry tries again to create the objects of a stream that could not be created, in order, and
// those that failed because of others after these. It leaves out those that want does not want, and
// what waits for the cutover: foreign keys, triggers and rules. It returns how many it has created.
// progress.Failed has what is left. A statement that is given up for a lock of somebody else is
// tried by patiently, again and again for as long as that has patience: a lock says nothing of the
// object.
func Retry(ctx context.Context, server pgdial.Server, stream int32,
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
	if err := s.Exec(ctx, "SET check_function_bodies = off; SET synchronous_commit = off; SET lock_timeout = '"+
		waiting.LockTimeout+"'"); err != nil {
		return 0, server.Explain(err)
	}
	m := &Maker{Session: s, Stream: stream, patiently: patiently, NewID: func() (int64, error) {
		ids, err := progress.NewIDs(ctx, s.Conn, 1)
		if err != nil {
			return 0, err
		}
		return ids[0], nil
	}}
	tried := make(map[int64]int64) // object → the failure that it was then a consequence of
	for {
		list, err := progress.Failed(ctx, s.Conn, stream)
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
			// Once, and again when what stood in its way is there.
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

// again tries to create one object.
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

// isThere reports whether an object could not be created because it has been meanwhile, by hand.
// What was in its way from the beginning is not it.
func isThere(o *progress.Object, err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && exists(o, pg.Code) && !exists(o, o.Code)
}

func exists(o *progress.Object, code string) bool {
	switch code {
	case "42P07", "42710", "42P06", "42723":
		return true
	case "42P16":
		return o.Type == "CONSTRAINT" // there is a primary key
	}
	return false
}
