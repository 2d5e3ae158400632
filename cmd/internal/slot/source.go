package slot

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/identity"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/format"
)

// Identity is what makes a source that source, as the stream's header has it.
type Identity struct {
	SystemID string
	Timeline uint64
	Database string
	Version  int
	Encoding string // of the text that the server sends us
	Recovery bool   // a standby

	// What a replication session adds: the timelines before Timeline, and up to where the WAL was
	// durable then.
	History []format.TimelineEnd
	At      format.LSN
}

// Identify asks an ordinary session who the server is, as far as any role may know. The system
// identifier is not among that everywhere: a replication session always tells it (IdentifySystem).
func Identify(ctx context.Context, c *pgx.Conn) (Identity, error) {
	id := Identity{Version: pgdial.Version(c.PgConn()), Encoding: pgdial.ClientEncoding(c.PgConn())}
	err := c.QueryRow(ctx, "SELECT pg_catalog.current_database(), pg_catalog.pg_is_in_recovery()").Scan(&id.Database, &id.Recovery)
	if err != nil {
		return id, err
	}
	// Closed to ordinary roles on some managed services; then the identifier stays empty.
	id.SystemID, err = identity.System(ctx, c)
	return id, err
}

// IdentifySystem fills in what only a replication session tells for sure.
func (id *Identity) IdentifySystem(ctx context.Context, repl *pgconn.PgConn) error {
	sys, err := pglogrepl.IdentifySystem(ctx, repl)
	if err != nil {
		return err
	}
	id.SystemID, id.Timeline, id.Database, id.At = sys.SystemID, uint64(sys.Timeline), sys.DBName, format.LSN(sys.XLogPos)
	id.History = nil
	if id.Timeline > 1 { // the first one has no history
		h, err := pglogrepl.TimelineHistory(ctx, repl, sys.Timeline)
		var pg *pgconn.PgError
		switch {
		case err == nil:
			id.History = timelines(h.Content)
		case !errors.As(err, &pg): // where the file is not there, nobody knows
			return err
		}
	}
	return nil
}

// timelines reads a timeline's history file: lines of a timeline, the LSN where it ended, and why.
func timelines(file []byte) (list []format.TimelineEnd) {
	for line := range strings.Lines(string(file)) {
		f := strings.Fields(line)
		if len(f) < 2 || strings.HasPrefix(f[0], "#") {
			continue
		}
		timeline, err := strconv.ParseUint(f[0], 10, 32)
		end, err2 := format.ParseLSN(f[1])
		if err == nil && err2 == nil {
			list = append(list, format.TimelineEnd{Timeline: timeline, End: end})
		}
	}
	return list
}

// Header returns a header with what is known of the source.
func (id Identity) Header(kind string) *format.Header {
	return &format.Header{StreamKind: kind, Minor: format.Minor, SystemID: id.SystemID, Timeline: id.Timeline,
		History: id.History, Database: id.Database,
		ServerVersion: uint64(id.Version), Encoding: id.Encoding}
}

// Decodes makes sure that changes can be decoded on the server: on a standby only from version 16
// on, and not from a slot that it has from its primary.
func (id *Identity) Decodes(i *Info) error {
	switch {
	case !id.Recovery:
		return nil
	case i != nil && i.Synced:
		return fault.New(fault.TryAgain,
			"the source is a standby, which has slot %q from its primary and cannot read it before it is promoted", i.Name).
			WithHint("If no failover is under way: connect to the primary, in --source or PGSLUICE_SOURCE.")
	case id.Version < 160000:
		return fault.New(fault.Config,
			"the source is a standby (pg_is_in_recovery() is true), and PostgreSQL %d decodes on a primary only",
			id.Version/10000).
			WithHint("Connect to the primary, in --source or PGSLUICE_SOURCE.")
	}
	return nil
}
