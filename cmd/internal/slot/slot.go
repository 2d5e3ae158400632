// Package slot knows replication slots, publications, exported snapshots, and what identifies a source. It knows nothing of decoding and
// nothing of targets.
package slot

import (
	"context"
	"errors"
	"fmt"
	"regexp"
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

var validName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

// CheckName checks a slot's name by PostgreSQL's own rule.
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

	// What a replication session adds: the timelines before Timeline, and up to where the WAL was durable then.
	History []format.TimelineEnd
	At      format.LSN
}

// Identify asks an ordinary session who the server is, as far as any role may know. The system identifier is not among that everywhere: a
// replication session always tells it (IdentifySystem).
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
	return &format.Header{StreamKind: kind, Minor: format.Minor, SystemID: id.SystemID, Timeline: id.Timeline, History: id.History, Database: id.Database,
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
	Reason     string // why it is lost; 17 and newer
	Synced     bool   // a standby has it from its primary; 17 and newer
	Retained   int64  // bytes of WAL that the slot holds back
	Temporary  bool
	CurrentLSN format.LSN // of the server
}

// Get reads a slot. It returns nil if there is none of that name.
func Get(ctx context.Context, c *pgx.Conn, name string) (*Info, error) {
	v := pgdial.Version(c.PgConn())
	wal, current := "''", "CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END"
	if v >= 130000 {
		wal = "coalesce(wal_status, '')"
	}
	more := "'', false"
	if v >= 170000 {
		more = "coalesce(invalidation_reason, ''), synced"
	}
	var i Info
	var confirmed, restart, now *string
	err := c.QueryRow(ctx, `SELECT slot_name, coalesce(plugin, ''), coalesce(database, ''), active, coalesce(active_pid, 0),
		confirmed_flush_lsn::pg_catalog.text, restart_lsn::pg_catalog.text, `+wal+`, temporary, `+current+`::pg_catalog.text,
		coalesce(pg_catalog.pg_wal_lsn_diff(`+current+`, restart_lsn), 0)::bigint, `+more+`
		FROM pg_catalog.pg_replication_slots WHERE slot_name = $1`, name).
		Scan(&i.Name, &i.Plugin, &i.Database, &i.Active, &i.ActivePID, &confirmed, &restart, &i.WALStatus, &i.Temporary, &now, &i.Retained, &i.Reason, &i.Synced)
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

// A Reader is the session that reads a slot, at one moment.
type Reader struct {
	PID  int
	Text string // who that is, for messages
	sign string // of life: what changes while its client answers the server
}

// GetReader returns the session that reads a slot, nil if there is none.
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

// Lives reports whether the session's client has been heard of between two looks, x and the later one y. If not, it may still be alive.
func (x *Reader) Lives(y *Reader) bool {
	return x != nil && y != nil && x.PID == y.PID && x.sign != y.sign
}

// Usable checks that changes of the connected database can be decoded from the slot.
func (i *Info) Usable(name, database string) error {
	switch {
	case i == nil:
		return fault.New(fault.Unavailable, "slot %q does not exist on the source", name).
			WithHint("Is it the right source, and not the target? Then pgextract --slot %s creates it, together with the full load. If it was there and is gone, the target needs a new full load. %s", name, Anew(name))
	case i.Plugin == "":
		return fault.New(fault.Config, "slot %q is a physical one, which a standby or a backup may need", name).
			WithHint("Choose another slot name; pgextract creates the slot.")
	case i.Plugin != "pgoutput":
		return fault.New(fault.Config, "slot %q uses the output plugin %q, not pgoutput", name, i.Plugin).
			WithHint("Choose another slot name; pgextract creates the slot with the right plugin.")
	case i.Database != database:
		return fault.New(fault.Unavailable, "slot %q belongs to database %q, the connection is to %q", name, i.Database, database).
			WithHint("Connect to database %q, or use another slot.", i.Database)
	}
	return i.Lost()
}

// Lost returns an error if the slot has lost what it would go on from.
func (i *Info) Lost() error {
	if i.WALStatus != "lost" {
		return nil
	}
	why, before := "The source has removed WAL that the slot needed, since it held back more than max_slot_wal_keep_size.", "Raise max_slot_wal_keep_size"
	switch i.Reason {
	case "idle_timeout":
		why, before = "Nobody has read it for as long as idle_replication_slot_timeout.", "Raise idle_replication_slot_timeout, or set it to 0"
	case "rows_removed":
		why, before = "The source has removed rows of the catalog that it needed.", "Set hot_standby_feedback = on on the standby"
	case "wal_level_insufficient":
		why, before = "wal_level was lowered on the primary.", "Set wal_level = logical"
	}
	return fault.New(fault.Unavailable, "slot %q is lost, and nothing can be read from it any more", i.Name).WithDetail("%s", why).
		WithHint("%s. The target needs a new full load. %s", before, Anew(i.Name))
}

// Decodes makes sure that changes can be decoded on the server: on a standby only from version 16 on,
// and not from a slot that it has from its primary.
func (id *Identity) Decodes(i *Info) error {
	switch {
	case !id.Recovery:
		return nil
	case i != nil && i.Synced:
		return fault.New(fault.TryAgain, "the source is a standby, which has slot %q from its primary and cannot read it before it is promoted", i.Name).
			WithHint("If no failover is under way: connect to the primary, in --source or PGSLUICE_SOURCE.")
	case id.Version < 160000:
		return fault.New(fault.Config, "the source is a standby (pg_is_in_recovery() is true), and PostgreSQL %d decodes on a primary only", id.Version/10000).
			WithHint("Connect to the primary, in --source or PGSLUICE_SOURCE.")
	}
	return nil
}

// InsertOnly is the name of the publication for the tables that have no usable replica identity: see package carried.
func InsertOnly(publication string) string { return publication + "_insert_only" }

// Publications returns those of the given publications that exist, together with the insert-only companions of each.
func Publications(ctx context.Context, c *pgx.Conn, names []string) ([]string, error) {
	all := make([]string, 0, 2*len(names))
	for _, n := range names {
		all = append(all, n, InsertOnly(n))
	}
	rows, err := c.Query(ctx, "SELECT pubname FROM pg_catalog.pg_publication WHERE pubname = ANY($1) ORDER BY 1", all)
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
				WithHint("pgextract creates it together with the slot, and one that is made after its slot cannot serve it: the target needs a new full load. %s", Anew(n))
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

// quoteName quotes the name of a slot, which may begin with a digit or be a keyword, for a replication command.
func quoteName(name string) string { return pgx.Identifier{name}.Sanitize() }

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
		quoteName(name), lsn, proto, QuoteLiteral(strings.Join(quoted, ",")), more)
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
	// The commit is what flushes, so it must not be asynchronous. No standby need have it.
	if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = local"); err != nil {
		return 0, err
	}
	if _, err := tx.Exec(ctx, "SELECT pg_catalog.pg_logical_emit_message(true, $1, $2::pg_catalog.text)", MessagePrefix, content); err != nil {
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
	err := c.QueryRow(ctx, "SELECT (CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_flush_lsn() END)::pg_catalog.text").Scan(&s)
	if err != nil {
		return 0, err
	}
	return format.ParseLSN(s)
}

// Now returns a position behind everything that has been committed on the server.
func Now(ctx context.Context, c *pgx.Conn) (format.LSN, error) {
	var standby bool
	if err := c.QueryRow(ctx, "SELECT pg_catalog.pg_is_in_recovery()").Scan(&standby); err != nil {
		return 0, err
	}
	if standby {
		return FlushLSN(ctx, c)
	}
	return Mark(ctx, c, "now")
}

// A Snapshot is a snapshot of the source that other sessions can import, and the LSN that it stands for: the transactions with an end LSN up
// to it are visible in it, and no others.
type Snapshot struct {
	Name string
	LSN  format.LSN // 0 if it is not known: without a slot
	At   format.LSN // LSN, or about where the WAL was
	XMin uint64     // transactions before this one (of 64 bits) have ended: what they have done is visible
	Keep *pgx.Conn  // the session that holds it, in a transaction that sees it; closing it releases the snapshot
}

// Release lets the snapshot go.
func (s *Snapshot) Release(ctx context.Context) {
	if s.Keep != nil {
		_ = s.Keep.Close(ctx)
		s.Keep = nil
	}
}

// Export creates a slot together with a snapshot of the source at its consistent point. A temporary slot goes with Export's session; it
// serves to get a snapshot whose LSN is known for a slot that exists already.
//
// While a slot is being made, PostgreSQL does not notice all changes of the schema (seen with 15.20): what transactions that are open at the consistent point
// write to such a table is decoded as the table was before, so that columns are missing, or not at all ("could not map filenode", or filenumber). A slot that
// met such changes is dropped and made again, a few times; altered are the tables of the last one, whose changes are not to be trusted.
func Export(ctx context.Context, server pgdial.Server, name string, temporary bool) (s *Snapshot, altered []string, err error) {
	repl, _, err := server.ConnectRaw(ctx, true)
	if err != nil {
		return nil, nil, err
	}
	// The snapshot dies with this session, and with whatever it is asked next. So another one takes it over.
	defer repl.Close(context.WithoutCancel(ctx))
	for attempt := 1; ; attempt++ {
		next, err := repl.Exec(ctx, "SELECT pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot()) % (1::bigint << 32)").ReadAll()
		if err != nil {
			return nil, nil, server.Explain(err)
		}
		s, err := export(ctx, server, repl, name, temporary)
		if err != nil || temporary {
			return s, nil, err
		}
		altered, err := s.altered(ctx, string(next[0].Rows[0][0]))
		if err == nil && (len(altered) == 0 || attempt == attempts) {
			return s, altered, nil
		}
		s.Release(ctx)
		if e := pglogrepl.DropReplicationSlot(ctx, repl, quoteName(name), pglogrepl.DropReplicationSlotOptions{}); err == nil {
			err = e
		}
		if err != nil {
			return nil, nil, server.Explain(err)
		}
	}
}

// attempts is how often a slot is made while the schema changes.
const attempts = 5

func export(ctx context.Context, server pgdial.Server, repl *pgconn.PgConn, name string, temporary bool) (*Snapshot, error) {
	r, err := pglogrepl.CreateReplicationSlot(ctx, repl, quoteName(name), "pgoutput", pglogrepl.CreateReplicationSlotOptions{Temporary: temporary,
		SnapshotAction: "EXPORT_SNAPSHOT", Mode: pglogrepl.LogicalReplication})
	if err != nil {
		return nil, explainCreate(server, name, err)
	}
	s := new(Snapshot)
	if s.LSN, err = format.ParseLSN(r.ConsistentPoint); err != nil {
		return nil, err
	}
	s.Name, s.At = r.SnapshotName, s.LSN
	if err := s.keep(ctx, server, s.Name); err != nil {
		return nil, err
	}
	return s, nil
}

// altered lists the tables whose definition, or file, the snapshot sees changed by a transaction that is not older than an XID.
func (s *Snapshot) altered(ctx context.Context, xid string) ([]string, error) {
	rows, err := s.Keep.Query(ctx, `SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
		AND (pg_catalog.age(c.xmin) BETWEEN 0 AND pg_catalog.age($1::pg_catalog.text::pg_catalog.xid) OR EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND pg_catalog.age(a.xmin) BETWEEN 0 AND pg_catalog.age($1::pg_catalog.text::pg_catalog.xid)))
		ORDER BY 1`, xid)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// EnableFailover has the slot copied to standbys that synchronize slots, so that it is there after a failover of the source.
func EnableFailover(ctx context.Context, server pgdial.Server, name string) error {
	repl, _, err := server.ConnectRaw(ctx, true)
	if err != nil {
		return err
	}
	defer repl.Close(context.WithoutCancel(ctx))
	if _, err = repl.Exec(ctx, "ALTER_REPLICATION_SLOT "+quoteName(name)+" (FAILOVER true)").ReadAll(); err != nil {
		return server.Explain(fmt.Errorf("could not make slot %q survive a failover: %w", name, err))
	}
	return nil
}

// Hold takes a snapshot without a slot. Its LSN is not known.
func Hold(ctx context.Context, server pgdial.Server) (*Snapshot, error) {
	s := new(Snapshot)
	if err := s.keep(ctx, server, ""); err != nil {
		return nil, err
	}
	var err error
	if s.At, err = FlushLSN(ctx, s.Keep); err != nil {
		s.Release(ctx)
		return nil, server.Explain(err)
	}
	return s, nil
}

// Import imports a snapshot that another process holds, whose LSN was lsn if known is true.
func Import(ctx context.Context, server pgdial.Server, name string, lsn format.LSN, known bool) (*Snapshot, error) {
	s := &Snapshot{At: lsn}
	if known {
		s.LSN = lsn
	}
	err := s.keep(ctx, server, name)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code == "22023" || pg.Code == "42704") {
		return nil, fault.New(fault.Unavailable, "snapshot %s does not exist on the source: %w", name, err).
			WithHint("The process that held it has ended. Hold a new one, and load with --resume what is missing.")
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// keep opens the session that holds the snapshot, importing it if it has a name, and exports it again.
func (s *Snapshot) keep(ctx context.Context, server pgdial.Server, name string) (err error) {
	if s.Keep, err = server.Connect(ctx); err != nil {
		return err
	}
	sql := "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
	if name != "" {
		sql += "; SET TRANSACTION SNAPSHOT " + QuoteLiteral(name)
	}
	if _, err = s.Keep.Exec(ctx, sql); err == nil {
		err = s.Keep.QueryRow(ctx, "SELECT pg_catalog.pg_export_snapshot(), pg_catalog.txid_snapshot_xmin(pg_catalog.txid_current_snapshot())").Scan(&s.Name, &s.XMin)
	}
	if err != nil {
		s.Release(ctx)
	}
	return server.Explain(err)
}

const walHint = "Set wal_level = logical and restart the source. On RDS and Aurora: rds.logical_replication = 1 in the parameter group, then reboot. On Cloud SQL: cloudsql.logical_decoding = on."

// WALLevel returns the server's wal_level, and whether changes can be decoded. From version 19 on the
// server raises the level that is in effect by itself, while there are logical slots, if it is replica.
func WALLevel(ctx context.Context, c *pgx.Conn) (level string, logical bool, err error) {
	var raises bool
	err = c.QueryRow(ctx, "SELECT pg_catalog.current_setting('wal_level'), pg_catalog.current_setting('effective_wal_level', true) IS NOT NULL").Scan(&level, &raises)
	return level, level == "logical" || level == "replica" && raises, err
}

// RequireLogical checks that the source writes WAL that can be decoded.
func RequireLogical(ctx context.Context, c *pgx.Conn) error {
	level, logical, err := WALLevel(ctx, c)
	if err != nil {
		return err
	}
	if !logical {
		return fault.New(fault.Config, "wal_level is %s on the source, and logical decoding needs logical", level).WithHint("%s", walHint)
	}
	return nil
}

func explainCreate(server pgdial.Server, name string, err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return server.Explain(err)
	}
	e := &fault.Error{Status: fault.StatusOf(server.Explain(err)), Detail: pg.Detail, Hint: pg.Hint,
		Err: fmt.Errorf("could not create slot %q on the source: %w", name, err)}
	switch pg.Code {
	case "55000":
		e.Status = fault.Config
		e.Hint = walHint
	case "42501":
		e.Hint = "The role needs the REPLICATION attribute: ALTER ROLE … REPLICATION. On RDS and Aurora: GRANT rds_replication TO …"
	case "53400":
		e.Status = fault.Config
		e.Hint = "All replication slots are taken. Drop one that is not used any more (SELECT slot_name, active FROM pg_replication_slots), or raise max_replication_slots."
	}
	return e
}
