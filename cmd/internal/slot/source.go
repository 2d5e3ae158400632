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

// Identity identifies a source, as in the stream's header.
type Identity struct {
	SystemID string
	Timeline uint64
	Database string
	Version  int
	Encoding string // of the text that the server sends us
	Recovery bool   // the server is a standby

	// Set by IdentifySystem: the timelines before Timeline, and the LSN up to which the WAL was
	// durable.
	History []format.TimelineEnd
	At      format.LSN
}

// Identify identifies the server in an ordinary session, as far as the role may. Some servers hide
// the system identifier from ordinary roles; a replication session always has it (IdentifySystem).
func Identify(ctx context.Context, c *pgx.Conn) (Identity, error) {
	id := Identity{Version: pgdial.Version(c.PgConn()), Encoding: pgdial.ClientEncoding(c.PgConn())}
	err := c.QueryRow(ctx, "SELECT pg_catalog.current_database(), pg_catalog.pg_is_in_recovery()").Scan(&id.Database, &id.Recovery)
	if err != nil {
		return id, err
	}
	// Some managed services close this to ordinary roles. The identifier then stays empty.
	id.SystemID, err = identity.System(ctx, c)
	return id, err
}

// IdentifySystem sets the fields that only a replication session can always read.
func (id *Identity) IdentifySystem(ctx context.Context, repl *pgconn.PgConn) error {
	sys, err := pglogrepl.IdentifySystem(ctx, repl)
	if err != nil {
		return err
	}
	id.SystemID, id.Timeline, id.Database, id.At = sys.SystemID, uint64(sys.Timeline), sys.DBName, format.LSN(sys.XLogPos)
	id.History = nil
	if id.Timeline > 1 { // the first timeline has no history
		h, err := pglogrepl.TimelineHistory(ctx, repl, sys.Timeline)
		var pg *pgconn.PgError
		switch {
		case err == nil:
			id.History = timelines(h.Content)
		case !errors.As(err, &pg): // without the file, the history is unknown
			return err
		}
	}
	return nil
}

// timelines parses a timeline history file: each line has a timeline, the LSN where it ended, and
// the reason.
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

// Header returns a header with the identity of the source.
func (id Identity) Header(kind string) *format.Header {
	return &format.Header{StreamKind: kind, Minor: format.Minor, SystemID: id.SystemID, Timeline: id.Timeline,
		History: id.History, Database: id.Database,
		ServerVersion: uint64(id.Version), Encoding: id.Encoding}
}

// Decodes returns an error if the server cannot decode from the slot: a standby can only from
// version 16, and not from a slot that it synchronizes from its primary.
func (id *Identity) Decodes(i *Info) error {
	switch {
	case !id.Recovery:
		return nil
	case i != nil && i.Synced:
		return fault.New(fault.TryAgain,
			"slot %q cannot be read yet: the source is a standby that synchronizes it from its primary", i.Name).
			WithHint("Unless a failover is under way, connect to the primary in --source or PGSLUICE_SOURCE.")
	case id.Version < 160000:
		return fault.New(fault.Config,
			"the source is a standby (pg_is_in_recovery() is true), but PostgreSQL %d decodes only on a primary",
			id.Version/10000).
			WithHint("Connect to the primary in --source or PGSLUICE_SOURCE.")
	}
	return nil
}
