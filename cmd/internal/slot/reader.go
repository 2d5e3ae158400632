package slot

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
)

// A Reader is the session that reads a slot, as seen at one moment.
type Reader struct {
	PID  int
	Text string // describes the session, for messages
	sign string // changes whenever the session's client replies to the server
}

// GetReader returns the session that reads a slot, or nil if there is none.
func GetReader(ctx context.Context, c *pgx.Conn, name string) (*Reader, error) {
	replied := "''" // not every role may see it
	if pgdial.Version(c.PgConn()) >= 120000 {
		replied = "coalesce(r.reply_time::pg_catalog.text, '')"
	}
	var x Reader
	err := c.QueryRow(ctx, `SELECT s.active_pid, pg_catalog.format('%s, connected from %s since %s (process %s of the source)', coalesce(nullif(a.application_name, ''), 'a session'),
		coalesce(pg_catalog.host(a.client_addr), 'its own host'), pg_catalog.to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS TZ'), s.active_pid), pg_catalog.concat(s.confirmed_flush_lsn, ' ', `+replied+`)
		FROM pg_catalog.pg_replication_slots s LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid LEFT JOIN pg_catalog.pg_stat_replication r ON r.pid = s.active_pid
		WHERE s.slot_name = $1 AND s.active_pid IS NOT NULL`, name).Scan(&x.PID, &x.Text, &x.sign)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &x, nil
}

// Lives reports whether the session's client has replied to the server between two looks, x and the
// later one y. If it has not, it may still be alive.
func (x *Reader) Lives(y *Reader) bool {
	return x != nil && y != nil && x.PID == y.PID && x.sign != y.sign
}
