// Package pgwire reads the raw messages of a PostgreSQL connection for COPY TO STDOUT and
// START_REPLICATION, where millions of rows arrive. The driver's message loop costs more per row
// than all our own work. The driver still opens each connection; pgwire then takes the connection
// over.
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
	// maxMessage is the server's own limit for a message.
	maxMessage = 1<<30 + 1<<16
)

// A Conn is a connection taken over from the driver. It is not safe for concurrent use, except that
// one other goroutine may call SendCopyData during Receive.
type Conn struct {
	nc  net.Conn
	buf []byte
	pos int
	end int

	batch  Batch
	result Result
	fatal  error // the FATAL error that ended the session

	// The current large message; see large.go.
	begun []byte // its beginning, in buf
	rest  int    // number of unread bytes
	whole []byte // memory in which Whole assembles it
	got   int    // number of bytes in whole so far
}

// syncTimeout bounds the round trip that Hijack may make.
const syncTimeout = 30 * time.Second

// Hijack takes over an idle connection. The caller must not use the driver on it any more.
func Hijack(pg *pgconn.PgConn) (*Conn, error) {
	// After a slow write, the driver leaves a goroutine behind that reads from the connection. It
	// would steal our next answer.
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

// watch makes the end of ctx interrupt reads and writes until stop is called.
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

// head reads the next message's header into the buffer, and returns the size of the message.
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

// take returns the next message, which has n bytes.
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

// fill reads until n bytes are in the buffer. The buffer grows with the bytes that arrive, not with
// the announced length, and shrinks again.
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

// Waiting reports whether the next message is not yet complete in the buffer.
func (c *Conn) Waiting() bool {
	if c.end-c.pos < 5 {
		return true
	}
	return c.end-c.pos < int(binary.BigEndian.Uint32(c.buf[c.pos+1:]))+1
}

// serverError returns the error that the server reports. If the error ended the session, c.fatal
// keeps it as the reason for the lost connection.
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

// Unchanged reports whether the SQLSTATE is that of a warning that a GRANT or REVOKE had no effect.
func Unchanged(code string) bool { return code == "01006" || code == "01007" }

// notice returns a warning that Unchanged reports as an error, and nil for any other notice.
func (c *Conn) notice(body []byte) error {
	var m pgproto3.NoticeResponse
	if err := m.Decode(body); err != nil || !Unchanged(m.Code) {
		return err
	}
	return pgconn.ErrorResponseToPgError((*pgproto3.ErrorResponse)(&m))
}

// Exec runs statements and returns the first error. A warning that a privilege was not granted or
// revoked counts as an error, if the session receives warnings. Exec discards rows.
func (c *Conn) Exec(ctx context.Context, sql string) error {
	_, err := c.CopyOut(ctx, sql, nil)
	return err
}

// CopyOut runs a COPY TO STDOUT and calls row with each CopyData message. Each message is one row.
// In binary format, the first message also has the header, and the last one is the trailer.
//
// The bytes are valid until row returns. For a large message, row gets the beginning, and must read
// the rest with Rest and Read. An error of row ends the session. After an error of the server, the
// session is still usable. CopyOut returns the server's row count.
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
						err = ctx.Err() // the cause of the error that row returned
					}
					return rows, err
				}
			}
		case 'G': // a COPY FROM STDIN, for which there is no data
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

// lost closes a connection that is no longer usable, and returns the reason: the error of the
// context, else the server's FATAL error, else err.
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

// CopyBoth starts replication. After it, Receive returns the server's messages.
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

// ErrEnded is the error of Receive after the server has ended the replication cleanly, as it does
// when it shuts down.
var ErrEnded = errors.New("the server ended the replication")

// Receive returns the payload of the next CopyData message, valid until the next call. For a large
// message it returns the beginning, and Rest returns the length of the rest. SetReadDeadline can
// set a deadline. The connection is still usable after the deadline has passed.
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

// SetReadDeadline sets the deadline of later calls to Receive.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.nc.SetReadDeadline(t) }

// SendCopyData sends one CopyData message.
func (c *Conn) SendCopyData(payload []byte) error {
	b := make([]byte, 0, len(payload)+5)
	b = binary.BigEndian.AppendUint32(append(b, 'd'), uint32(len(payload)+4))
	_, err := c.nc.Write(append(b, payload...))
	return err
}
