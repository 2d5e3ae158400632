// Package identity answers which server and database a connection is on, and whether two
// connections are on one and the same. It does not know what is done there.
package identity

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// Line names one end for people: its side, and the role, host, port and database of the
// connection, without its password, and the server's version. Control characters, which any of
// them may have, are escaped.
func Line(side string, c *pgx.Conn) string {
	version, _, _ := strings.Cut(c.PgConn().ParameterStatus("server_version"), " ")
	o := c.Config()
	host := fmt.Sprintf("%s:%d", o.Host, o.Port)
	for _, f := range o.Fallbacks {
		if f.Host != o.Host || f.Port != o.Port { // of several it is the one that has answered
			host = c.PgConn().Conn().RemoteAddr().String()
		}
	}
	return fmt.Sprintf("%-6s  %s", side, text.Escape(fmt.Sprintf("%s@%s/%s (PostgreSQL %s)", o.User, host, o.Database, version)))
}

// A Probe is a random number that a session holds an advisory lock of. Whoever sees that lock in
// pg_locks is connected to the same database, whatever it is called there and wherever it seems to
// be. It needs no rights, and no name or identifier that a copy of the database would have, too.
type Probe uint64

// Hold takes the lock of a new probe, until the session ends.
func Hold(ctx context.Context, c *pgx.Conn) (Probe, error) {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	p := Probe(binary.BigEndian.Uint64(b[:])>>1 | 1)
	_, err := c.Exec(ctx, "SELECT pg_catalog.pg_advisory_lock($1)", int64(p))
	return p, err
}

// Seen reports whether a session of the connection's database holds a probe.
func (p Probe) Seen(ctx context.Context, c *pgx.Conn) (seen bool, err error) {
	if p == 0 {
		return false, nil
	}
	err = c.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
		AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
		AND classid::pg_catalog.int8 = $1 AND objid::pg_catalog.int8 = $2)`, int64(p>>32), int64(p&0xffffffff)).Scan(&seen)
	return seen, err
}

// Same reports whether two sessions are on one and the same database.
func Same(ctx context.Context, a, b *pgx.Conn) (bool, error) {
	p, err := Hold(ctx, a)
	if err != nil {
		return false, err
	}
	same, err := p.Seen(ctx, b)
	if err == nil {
		_, err = a.Exec(ctx, "SELECT pg_catalog.pg_advisory_unlock($1)", int64(p))
	}
	return same, err
}

// Name is what Line says of a connection, as a part of a sentence.
func Name(c *pgx.Conn) string { return strings.TrimSpace(Line("", c)) }

// Fenced reports whether a database is read-only for new sessions, as a cutover makes its source.
func Fenced(ctx context.Context, c *pgx.Conn) (fenced bool, err error) {
	err = c.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) x WHERE s.setrole = 0
		AND s.setdatabase = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) AND x = 'default_transaction_read_only=on')`).Scan(&fenced)
	return fenced, err
}
