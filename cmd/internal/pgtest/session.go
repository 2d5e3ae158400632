package pgtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// queryTimeout bounds a single query.
const queryTimeout = 2 * time.Minute

// A session is a connection to a DB for several queries. Opening one takes the server longer than
// most queries of a test.
type session struct {
	db *DB
	t  testing.TB
	c  *pgconn.PgConn
}

func (d *DB) open() (*session, error) {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	c, err := pgconn.Connect(ctx, d.URI)
	if err != nil {
		return nil, err
	}
	return &session{db: d, t: d.t, c: c}, nil
}

// session opens a session whose errors fail t.
func (d *DB) session(t testing.TB) *session {
	t.Helper()
	x, err := d.open()
	if err != nil {
		t.Fatal(err)
	}
	x.t = t
	return x
}

// with calls f with a session and closes it afterwards.
func (d *DB) with(f func(*session)) {
	d.t.Helper()
	x := d.session(d.t)
	defer x.close()
	f(x)
}

// close ends the session.
func (x *session) close() {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	_ = x.c.Close(ctx)
}

// try runs SQL, as DB.Try does.
func (x *session) try(sql string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	results, err := x.c.Exec(ctx, sql).ReadAll()
	if err != nil {
		var pg *pgconn.PgError
		if errors.As(err, &pg) {
			return "", fmt.Errorf("%w\nin: %.500s", err, sql)
		}
		return "", err
	}
	var b strings.Builder
	if len(results) == 0 {
		return "", nil
	}
	for i, row := range results[len(results)-1].Rows {
		if i > 0 {
			b.WriteByte('\n')
		}
		for n, v := range row {
			if n > 0 {
				b.WriteByte('\t')
			}
			if v == nil {
				b.WriteString("NULL")
			} else {
				b.Write(v)
			}
		}
	}
	return b.String(), nil
}

// query is try that fails the test on an error.
func (x *session) query(sql string) string {
	x.t.Helper()
	s, err := x.try(sql)
	if err != nil {
		x.t.Fatal(err)
	}
	return s
}
