// Package pgwire reads the messages of a PostgreSQL connection raw, where rows arrive by the
// million: COPY TO STDOUT and START_REPLICATION. The driver's message loop costs more per row than
// all that we do with it. Everything else is left to the driver: a connection is opened by it, and
// taken over.
package pgwire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgsluice/pgsluice/cmd/internal/huge"
)

const (
	bufferSize = 512 << 10
	// maxMessage is the server's own limit for what it sends.
	maxMessage = 1<<30 + 1<<16
)

// A Conn is a connection that was taken over from the driver. It is not safe for concurrent use,
// except that SendCopyData may be called by one other goroutine while Receive is running.
type Conn struct {
	nc  net.Conn
	buf []byte
	pos int
	end int

	batch  Batch
	result Result
	fatal  error // the server's last word

	// Of a large message; see large.go.
	begun []byte // its beginning, in buf
	rest  int    // how much of it has not been read
	whole []byte // where it is put together
	got   int    // how much of whole is there
}

// syncTimeout bounds the round trip that Hijack may make.
const syncTimeout = 30 * time.Second

// Hijack takes over a connection that is idle. The driver must not be used on it any more.
func Hijack(pg *pgconn.PgConn) (*Conn, error) {
	// Whenever a write took long, the driver has left a goroutine behind that reads: it would take
	// the next answer away from us.
	ctx, cancel := context.WithTimeout(context.Background(), syncTimeout)
	defer cancel()
	if err := pg.SyncConn(ctx); err != nil {
		_ = pg.Close(ctx)
		return nil, err
	}
	h, err := pg.Hijack()
	if err != nil {
		return nil, err
	}
	return &Conn{nc: h.Conn, buf: make([]byte, bufferSize)}, nil
}

// Close ends the session.
func (c *Conn) Close() error {
	huge.Free(c.whole)
	c.whole = nil
	_ = c.nc.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = c.nc.Write([]byte{'X', 0, 0, 0, 4})
	return c.nc.Close()
}

// watch lets ctx interrupt what reads and writes until stop is called.
func (c *Conn) watch(ctx context.Context) (stop func()) {
	if ctx.Done() == nil {
		return func() {}
	}
	cancel := context.AfterFunc(ctx, func() { _ = c.nc.SetDeadline(time.Unix(1, 0)) })
	return func() { cancel() }
}

func (c *Conn) query(sql string) error {
	b := make([]byte, 0, len(sql)+6)
	b = append(b, 'Q')
	b = binary.BigEndian.AppendUint32(b, uint32(len(sql)+5))
	b = append(append(b, sql...), 0)
	_, err := c.nc.Write(b)
	return err
}

// message returns the next message's type and body, which is valid until the next call.
func (c *Conn) message() (byte, []byte, error) {
	n, err := c.head()
	if err != nil {
		return 0, nil, err
	}
	return c.take(n)
}

// head makes the next message's head available, and returns the message's size.
func (c *Conn) head() (n int, err error) {
	if c.end-c.pos < 5 {
		if err := c.fill(5); err != nil {
			return 0, err
		}
	}
	n = int(binary.BigEndian.Uint32(c.buf[c.pos+1:])) + 1
	if n < 5 || n > maxMessage {
		return 0, fmt.Errorf("invalid message of %d bytes from the server", n)
	}
	return n, nil
}

// take takes the next message, of n bytes.
func (c *Conn) take(n int) (byte, []byte, error) {
	if c.end-c.pos < n {
		if err := c.fill(n); err != nil {
			return 0, nil, err
		}
	}
	t, body := c.buf[c.pos], c.buf[c.pos+5:c.pos+n]
	c.pos += n
	return t, body, nil
}

// fill reads until n bytes are in the buffer. It grows with what arrives, not with what is
// announced, and shrinks again.
func (c *Conn) fill(n int) error {
	if c.pos > 0 {
		rest := c.buf[c.pos:c.end]
		if len(c.buf) > 4*bufferSize && len(rest) < bufferSize && n <= bufferSize {
			c.buf = make([]byte, bufferSize)
		}
		c.end = copy(c.buf, rest)
		c.pos = 0
	}
	for c.end < n {
		if c.end == len(c.buf) {
			c.buf = append(c.buf, make([]byte, min(len(c.buf), n-len(c.buf)))...)
		}
		k, err := c.nc.Read(c.buf[c.end:])
		c.end += k
		if err != nil && c.end < n {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// Waiting reports whether the next message would have to be waited for.
func (c *Conn) Waiting() bool {
	if c.end-c.pos < 5 {
		return true
	}
	return c.end-c.pos < int(binary.BigEndian.Uint32(c.buf[c.pos+1:]))+1
}

// serverError returns the error that the server reports. If it has ended the session by that, it is
// why the connection is lost.
func (c *Conn) serverError(body []byte) error {
	var m pgproto3.ErrorResponse
	if err := m.Decode(body); err != nil {
		return err
	}
	err := pgconn.ErrorResponseToPgError(&m)
	if m.SeverityUnlocalized == "FATAL" || m.SeverityUnlocalized == "PANIC" {
		c.fatal = err
	}
	return err
}

// Unchanged reports whether a warning of that SQLSTATE says that a GRANT or REVOKE has not done
// what it was to do.
func Unchanged(code string) bool { return code == "01006" || code == "01007" }

// notice returns such a warning as an error, nil for any other notice.
func (c *Conn) notice(body []byte) error {
	var m pgproto3.NoticeResponse
	if err := m.Decode(body); err != nil || !Unchanged(m.Code) {
		return err
	}
	return pgconn.ErrorResponseToPgError((*pgproto3.ErrorResponse)(&m))
}

// Exec runs statements and returns the first error; that a right was not granted or revoked is one,
// if the session is to be warned of it. Rows are dropped.
func (c *Conn) Exec(ctx context.Context, sql string) error {
	_, err := c.CopyOut(ctx, sql, nil)
	return err
}

// CopyOut runs a COPY TO STDOUT and calls row with each CopyData message, which is one row (in
// binary format the first has the header before its row, and a trailer is the last one). The bytes
// are valid until row returns. Of a large message row gets the beginning; it is for row to pass the
// rest on, by Rest and Read. An error of row ends the session; an error of the server leaves it
// usable. It returns the number of rows that the server counted.
func (c *Conn) CopyOut(ctx context.Context, sql string, row func([]byte) error) (rows uint64, err error) {
	stop := c.watch(ctx)
	defer stop()
	if err := c.query(sql); err != nil {
		return 0, c.lost(ctx, err)
	}
	var failed error
	for {
		t, body, err := c.messageOrBegin()
		if err != nil {
			return rows, c.lost(ctx, err)
		}
		switch t {
		case 'd':
			if row == nil {
				return rows, c.lost(ctx, errors.New("unexpected COPY data"))
			}
			if failed == nil {
				if err := row(body); err != nil {
					_ = c.nc.Close()
					if ctx.Err() != nil {
						err = ctx.Err() // which has ended what row was reading
					}
					return rows, err
				}
			}
		case 'G': // a COPY FROM STDIN, for which there is nothing
			if _, err := c.nc.Write([]byte("f\x00\x00\x00\x05\x00")); err != nil {
				return rows, c.lost(ctx, err)
			}
		case 'C':
			if tag, ok := strings.CutPrefix(strings.TrimRight(string(body), "\x00"), "COPY "); ok {
				rows, _ = strconv.ParseUint(tag, 10, 64)
			}
		case 'E':
			if failed == nil {
				failed = c.serverError(body)
			}
		case 'N':
			if failed == nil {
				failed = c.notice(body)
			}
		case 'Z':
			return rows, failed
		}
	}
}

// lost closes a connection that cannot be used any more, and returns why: the context's end, or
// what the server has said, or err.
func (c *Conn) lost(ctx context.Context, err error) error {
	_ = c.nc.Close()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if c.fatal != nil {
		return c.fatal
	}
	return err
}

// CopyBoth starts replication. Afterwards Receive returns what the server sends.
func (c *Conn) CopyBoth(ctx context.Context, sql string) error {
	return c.startCopy(ctx, sql, 'W', "the server did not start replication")
}

// startCopy sends a statement and waits for the message that begins a copy.
func (c *Conn) startCopy(ctx context.Context, sql string, begins byte, otherwise string) error {
	stop := c.watch(ctx)
	defer stop()
	if err := c.query(sql); err != nil {
		return c.lost(ctx, err)
	}
	var failed error
	for {
		t, body, err := c.message()
		if err != nil {
			return c.lost(ctx, err)
		}
		switch t {
		case begins:
			return nil
		case 'E':
			failed = c.serverError(body)
		case 'Z':
			if failed == nil {
				failed = errors.New(otherwise)
			}
			return failed
		}
	}
}

// ErrEnded is returned by Receive when the server has ended the replication in good order, as it
// does when it shuts down.
var ErrEnded = errors.New("the server ended the replication")

// Receive returns the next CopyData message's payload, valid until the next call; of a large one
// the beginning, and Rest says how much follows. A deadline may be set with SetReadDeadline; an
// error that it causes leaves the connection usable.
func (c *Conn) Receive() ([]byte, error) {
	for {
		t, body, err := c.messageOrBegin()
		if err != nil {
			return nil, err
		}
		switch t {
		case 'd':
			return body, nil
		case 'E':
			return nil, c.serverError(body)
		case 'c', 'C', 'Z':
			return nil, ErrEnded
		}
	}
}

// SetReadDeadline bounds the following calls of Receive.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.nc.SetReadDeadline(t) }

// SendCopyData sends one CopyData message.
func (c *Conn) SendCopyData(payload []byte) error {
	b := make([]byte, 0, len(payload)+5)
	b = binary.BigEndian.AppendUint32(append(b, 'd'), uint32(len(payload)+4))
	_, err := c.nc.Write(append(b, payload...))
	return err
}
