// Package slot handles replication slots, publications, exported snapshots, and the identity of a
// source. It does not decode, and it does not touch targets.
package slot

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/format"
)

// Output plugins that can be decoded.
const (
	PGOutput     = "pgoutput"
	TestDecoding = "test_decoding"
)

var validName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

// CheckName checks a slot's name by PostgreSQL's rule.
func CheckName(name string) error {
	if !validName.MatchString(name) {
		return fault.New(fault.Usage, "invalid slot name %q", name).WithHint("Use at most 63 lower-case letters, digits and underscores.")
	}
	return nil
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
	Reason     string // why the slot is lost; 17 and newer
	Synced     bool   // a standby copied it from its primary; 17 and newer
	Retained   int64  // bytes of WAL that the slot holds back
	Safe       *int64 // bytes of WAL until the slot may be lost; nil: no limit, or not known; 13 and newer
	XIDAge     *int64 // how many transactions back vacuum keeps rows of the catalogs for the slot
	Temporary  bool
	CurrentLSN format.LSN // of the server
}

// Get reads a slot. It returns nil if there is no slot of that name.
func Get(ctx context.Context, c *pgx.Conn, name string) (*Info, error) {
	v := pgdial.Version(c.PgConn())
	wal, safe, current := "''", "NULL::bigint", "CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END"
	if v >= 130000 {
		wal, safe = "coalesce(wal_status, '')", "safe_wal_size"
	}
	more := "'', false"
	if v >= 170000 {
		more = "coalesce(invalidation_reason, ''), synced"
	}
	var i Info
	var confirmed, restart, now *string
	err := c.QueryRow(ctx, `SELECT slot_name, coalesce(plugin, ''), coalesce(database, ''), active, coalesce(active_pid, 0),
		confirmed_flush_lsn::pg_catalog.text, restart_lsn::pg_catalog.text, `+wal+`, temporary, `+current+`::pg_catalog.text,
		coalesce(pg_catalog.pg_wal_lsn_diff(`+current+`, restart_lsn), 0)::bigint, `+more+`, `+safe+`, pg_catalog.age(catalog_xmin)::bigint
		FROM pg_catalog.pg_replication_slots WHERE slot_name = $1`, name).
		Scan(&i.Name, &i.Plugin, &i.Database, &i.Active, &i.ActivePID, &confirmed, &restart, &i.WALStatus,
			&i.Temporary, &now, &i.Retained, &i.Reason, &i.Synced, &i.Safe, &i.XIDAge)
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
			WithHint("Check that --source leads to the source. pgextract --slot %s creates the slot together with the full load. If the slot was dropped, the target needs a new full load. %s",
				name, Anew(name))
	case i.Plugin == "":
		return fault.New(fault.Config, "slot %q is a physical slot, not a logical one", name).
			WithHint("Choose another slot name, since a standby or a backup may need this slot. pgextract creates the new one.")
	case i.Plugin != PGOutput && i.Plugin != TestDecoding:
		return fault.New(fault.Config, "slot %q uses the output plugin %q, not pgoutput or test_decoding", name, i.Plugin).
			WithHint("Choose another slot name. pgextract creates the slot with the right plugin.")
	case i.Database != database:
		return fault.New(fault.Unavailable, "slot %q belongs to database %q, but the connection is to %q", name, i.Database, database).
			WithHint("Connect to database %q, or use another slot.", i.Database)
	}
	return i.Lost()
}

// Lost returns an error if the source has removed WAL or rows that the slot needs.
func (i *Info) Lost() error {
	if i.WALStatus != "lost" {
		return nil
	}
	why, before := "The source has removed WAL that the slot needed, because the slot held back more than max_slot_wal_keep_size.",
		"Raise max_slot_wal_keep_size"
	switch i.Reason {
	case "idle_timeout":
		why, before = "The slot was not read for longer than idle_replication_slot_timeout.",
			"Raise idle_replication_slot_timeout, or set it to 0"
	case "rows_removed":
		why, before = "The source has removed catalog rows that the slot needed.", "Set hot_standby_feedback = on on the standby"
	case "wal_level_insufficient":
		why, before = "wal_level was lowered on the primary.", "Set wal_level = logical"
	}
	return fault.New(fault.Unavailable, "slot %q is lost and can no longer be read", i.Name).WithDetail("%s", why).
		WithHint("%s. The target needs a new full load. %s", before, Anew(i.Name))
}

// QuoteLiteral quotes a string literal for a replication command.
func QuoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// quoteName quotes the name of a slot, which may begin with a digit or be a keyword, for a
// replication command.
func quoteName(name string) string { return pgx.Identifier{name}.Sanitize() }

// StartCommand returns the command that starts streaming from lsn, with all features of the
// server's version: from 14, transactions in progress in blocks and logical messages.
func StartCommand(version int, name string, lsn format.LSN, publications []string) string {
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
		quoteName(name), lsn, proto, QuoteLiteral(QuoteAll(publications)), more)
}

// StartLines is StartCommand for the plugin test_decoding. It must tell of each transaction, also
// of those that change no table: they may have altered one.
func StartLines(name string, lsn format.LSN) string {
	return fmt.Sprintf(`START_REPLICATION SLOT %s LOGICAL %v ("include-xids" 'on', "include-timestamp" 'on', "skip-empty-xacts" 'off')`, quoteName(name), lsn)
}

// EnableFailover has the slot copied to standbys that synchronize slots, so that the slot survives
// a failover of the source.
func EnableFailover(ctx context.Context, server pgdial.Server, name string) error {
	repl, _, err := server.ConnectRaw(ctx, true)
	if err != nil {
		return err
	}
	defer repl.Close(context.WithoutCancel(ctx))
	if _, err = repl.Exec(ctx, "ALTER_REPLICATION_SLOT "+quoteName(name)+" (FAILOVER true)").ReadAll(); err != nil {
		return server.Explain(fmt.Errorf("could not enable failover for slot %q: %w", name, err))
	}
	return nil
}

func explainCreate(server pgdial.Server, name string, err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return server.Explain(err)
	}
	e := &fault.Error{Status: fault.StatusOf(server.Explain(err)), Detail: pg.Detail, Hint: pg.Hint,
		Err: fmt.Errorf("could not create slot %q on the %s: %w", name, server.Side, err)}
	switch pg.Code {
	case "55000":
		e.Status = fault.Config
		e.Hint = walHint
	case "42501":
		e.Hint = "The role needs the REPLICATION attribute: ALTER ROLE … REPLICATION. On RDS and Aurora: GRANT rds_replication TO …"
	case "53400":
		e.Status = fault.Config
		e.Hint = "All replication slots are in use. Raise max_replication_slots, or drop a slot that is no longer needed: SELECT slot_name, active FROM pg_catalog.pg_replication_slots;"
	}
	return e
}
