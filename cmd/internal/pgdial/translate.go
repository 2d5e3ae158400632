package pgdial

import (
	"context"
	"encoding/binary"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/old"
)

// speak connects as login does. The sessions of a server older than version 10 have a translation
// in between. The driver takes one only before it knows the version: the first session finds that
// out, and connects again. A server that is too old is refused.
func (s Server) speak(ctx context.Context, c *pgconn.Config, connect func() (*pgconn.PgConn, error)) error {
	isOld := s.Sessions != nil && s.Sessions.old.Load()
	for {
		translated := isOld
		c.AfterNetConnect = nil
		if translated {
			c.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
				return &translation{Conn: conn}, nil
			}
		}
		err := s.login(ctx, c, func() error {
			conn, err := connect()
			if err != nil {
				return err
			}
			version := Version(conn)
			if err = s.supported(version); err != nil {
				_ = conn.Close(ctx)
				return err
			}
			if isOld = version < old.Newest; isOld != translated {
				return conn.Close(ctx)
			}
			return nil
		})
		if err != nil || isOld == translated {
			return err
		}
		if s.Sessions != nil {
			s.Sessions.old.Store(isOld)
		}
	}
}

// A translation stands between a session and a server older than version 10. It replaces the SQL in
// the session's messages: see package old. Everything else passes unchanged.
type translation struct {
	net.Conn
	begun bool // the first message has no type
}

// NetConn returns the connection below.
func (t *translation) NetConn() net.Conn { return t.Conn }

// Write gets whole messages.
func (t *translation) Write(messages []byte) (int, error) {
	if !t.begun {
		t.begun = true
		return t.Conn.Write(messages)
	}
	var out []byte
	for rest := messages; len(rest) > 0; {
		n := len(rest)
		if n >= 5 {
			n = min(n, 1+int(binary.BigEndian.Uint32(rest[1:])))
		}
		out = appendTranslated(out, rest[:n])
		rest = rest[n:]
	}
	if _, err := t.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(messages), nil
}

// appendTranslated appends a message with its SQL translated. Query has only that; Parse has the
// name of a statement before it, and types after it.
func appendTranslated(out, message []byte) []byte {
	body := string(message[min(5, len(message)):])
	name := ""
	switch message[0] {
	case 'Q':
	case 'P':
		name, body, _ = strings.Cut(body, "\x00")
		name += "\x00"
	default:
		return append(out, message...)
	}
	sql, types, _ := strings.Cut(body, "\x00")
	sql = name + old.SQL(sql) + "\x00" + types
	out = binary.BigEndian.AppendUint32(append(out, message[0]), uint32(4+len(sql)))
	return append(out, sql...)
}
