// Package slot knows replication slots, publications, exported snapshots, and what identifies a source. It knows nothing of decoding and
// nothing of targets.
package slot

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/format"
)

var validName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

// CheckName checks a slot's name by PostgreSQL's own rule, so that it needs no quoting in replication commands.
func CheckName(name string) error {
	if !validName.MatchString(name) {
		return fault.New(fault.Usage, "invalid slot name %q", name).WithHint("Use lower-case letters, digits and underscores, at most 63.")
	}
	return nil
}

// Identity is what makes a source that source, as the stream's header has it.
type Identity struct {
	SystemID string
	Timeline uint64
	Database string
	Version  int
	Encoding string // of the text that the server sends us
	Recovery bool   // a standby
}

// Identify asks an ordinary session who the server is, as far as any role may know. The system identifier is not among that everywhere: a
// replication session always tells it (IdentifySystem).
func Identify(ctx context.Context, c *pgx.Conn) (Identity, error) {
	id := Identity{Version: pgdial.Version(c.PgConn()), Encoding: pgdial.ClientEncoding(c.PgConn())}
	err := c.QueryRow(ctx, "SELECT current_database(), pg_is_in_recovery()").Scan(&id.Database, &id.Recovery)
	if err != nil {
		return id, err
	}
	if id.Version >= 90600 {
		// Closed to ordinary roles on some managed services; then the identifier stays empty.
		_ = c.QueryRow(ctx, "SELECT system_identifier::text FROM pg_control_system()").Scan(&id.SystemID)
	}
	return id, nil
}

// IdentifySystem fills in what only a replication session tells for sure.
func (id *Identity) IdentifySystem(ctx context.Context, repl *pgconn.PgConn) error {
	sys, err := pglogrepl.IdentifySystem(ctx, repl)
	if err != nil {
		return err
	}
	id.SystemID, id.Timeline, id.Database = sys.SystemID, uint64(sys.Timeline), sys.DBName
	return nil
}

// Header returns a header with what is known of the source.
func (id Identity) Header(kind string) *format.Header {
	return &format.Header{StreamKind: kind, SystemID: id.SystemID, Timeline: id.Timeline, Database: id.Database,
		ServerVersion: uint64(id.Version), Encoding: id.Encoding}
}

// Info is a slot's row in pg_replication_slots.
type Info struct {
	Name       string
	Plugin     string
	Database   string
	Active     bool
	ActivePID  int
	Confirmed  format.LSN // confirmed_flush_lsn
	Restart    format.LSN
	WALStatus  string // 13 and newer
	Retained   int64  // bytes of WAL that the slot holds back
	Temporary  bool
	TwoPhase   bool
	CurrentLSN format.LSN // of the server
}

// Get reads a slot. It returns nil if there is none of that name.
func Get(ctx context.Context, c *pgx.Conn, name string) (*Info, error) {
	v := pgdial.Version(c.PgConn())
	wal, current := "''", "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END"
	if v >= 130000 {
		wal = "coalesce(wal_status, '')"
	}
	var i Info
	var confirmed, restart, now *string
	err := c.QueryRow(ctx, `SELECT slot_name, coalesce(plugin, ''), coalesce(database, ''), active, coalesce(active_pid, 0),
		confirmed_flush_lsn::text, restart_lsn::text, `+wal+`, temporary, `+current+`::text,
		coalesce(pg_wal_lsn_diff(`+current+`, restart_lsn), 0)::bigint
		FROM pg_replication_slots WHERE slot_name = $1`, name).
		Scan(&i.Name, &i.Plugin, &i.Database, &i.Active, &i.ActivePID, &confirmed, &restart, &i.WALStatus, &i.Temporary, &now, &i.Retained)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, p := range []struct {
		s *string
		l *format.LSN
	}{{confirmed, &i.Confirmed}, {restart, &i.Restart}, {now, &i.CurrentLSN}} {
		if p.s != nil {
			if *p.l, err = format.ParseLSN(*p.s); err != nil {
				return nil, err
			}
		}
	}
	return &i, nil
}

// Usable checks that changes of the connected database can be decoded from the slot.
func (i *Info) Usable(name, database string) error {
	switch {
	case i == nil:
		return fault.New(fault.Unavailable, "slot %q does not exist on the source", name).
			WithHint("pgextract --slot %s creates it, together with the full load.", name)
	case i.Plugin != "pgoutput":
		return fault.New(fault.Config, "slot %q uses the output plugin %q, not pgoutput", name, i.Plugin).
			WithHint("Choose another slot name; pgextract creates the slot with the right plugin.")
	case i.Database != database:
		return fault.New(fault.Unavailable, "slot %q belongs to database %q, the connection is to %q", name, i.Database, database).
			WithHint("Connect to database %q, or use another slot.", i.Database)
	case i.WALStatus == "lost":
		return fault.New(fault.Unavailable, "slot %q is lost: the source has removed WAL that it needed", name).
			WithDetail("max_slot_wal_keep_size was exceeded.").
			WithHint("Drop the slot, raise max_slot_wal_keep_size, and start over with pgextract.")
	}
	return nil
}

// InsertOnly is the name of the publication for the tables that have no replica identity: see EnsurePublications.
func InsertOnly(publication string) string { return publication + "_insert_only" }

// Publications returns those of the given publications that exist, together with the insert-only companions of each.
func Publications(ctx context.Context, c *pgx.Conn, names []string) ([]string, error) {
	all := make([]string, 0, 2*len(names))
	for _, n := range names {
		all = append(all, n, InsertOnly(n))
	}
	rows, err := c.Query(ctx, "SELECT pubname FROM pg_publication WHERE pubname = ANY($1) ORDER BY 1", all)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// RequirePublications is like Publications, and fails if one of the names does not exist.
func RequirePublications(ctx context.Context, c *pgx.Conn, names []string) ([]string, error) {
	have, err := Publications(ctx, c, names)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if !contains(have, n) {
			return nil, fault.New(fault.Unavailable, "publication %q does not exist on the source", n).
				WithHint("pgextract creates it together with the slot. A publication that is made after its slot cannot serve it: drop the slot and start over.")
		}
	}
	return have, nil
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// QuoteLiteral quotes a string for a replication command.
func QuoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// StartCommand returns the command that starts streaming from lsn on, with everything that the server's version can do: transactions in
// progress in blocks (14), logical messages (14).
func StartCommand(version int, name string, lsn format.LSN, publications []string) string {
	quoted := make([]string, len(publications))
	for i, p := range publications {
		quoted[i] = `"` + strings.ReplaceAll(p, `"`, `""`) + `"`
	}
	proto, more := 1, ""
	switch {
	case version >= 160000:
		proto = 4
	case version >= 150000:
		proto = 3
	case version >= 140000:
		proto = 2
	}
	if version >= 140000 {
		more = ", messages 'true', streaming 'on'"
	}
	return fmt.Sprintf("START_REPLICATION SLOT %s LOGICAL %v (proto_version '%d', publication_names %s%s)",
		name, lsn, proto, QuoteLiteral(strings.Join(quoted, ",")), more)
}

// MessagePrefix is the prefix of the logical messages that pgsluice itself writes into the source's WAL.
const MessagePrefix = "pgsluice"

// Mark writes a logical message into the source's WAL, in a transaction of its own, and returns a position behind it. Everything that was
// committed before, also asynchronously, is durable then and has a smaller end LSN. A fenced database does not stand in the way.
func Mark(ctx context.Context, c *pgx.Conn, content string) (format.LSN, error) {
	tx, err := c.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadWrite})
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	// The commit is what flushes, so it must not be asynchronous.
	if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = on"); err != nil {
		return 0, err
	}
	if _, err := tx.Exec(ctx, "SELECT pg_logical_emit_message(true, $1, $2::text)", MessagePrefix, content); err != nil {
		return 0, err
	}
	if err := tx.Commit(ctx); err != nil {
		return 0, err
	}
	return FlushLSN(ctx, c)
}

// FlushLSN returns the position up to which the server's WAL is durable (replayed, on a standby).
func FlushLSN(ctx context.Context, c *pgx.Conn) (format.LSN, error) {
	var s string
	err := c.QueryRow(ctx, "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END)::text").Scan(&s)
	if err != nil {
		return 0, err
	}
	return format.ParseLSN(s)
}

// Now returns a position behind everything that has been committed on the server.
func Now(ctx context.Context, c *pgx.Conn) (format.LSN, error) {
	var standby bool
	if err := c.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&standby); err != nil {
		return 0, err
	}
	if standby {
		return FlushLSN(ctx, c)
	}
	return Mark(ctx, c, "now")
}
