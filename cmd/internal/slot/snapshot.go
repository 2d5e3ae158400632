package slot

import (
	"context"
	"errors"
	"strconv"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/old"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/format"
)

// A Snapshot is a snapshot of the source that other sessions can import, and its LSN: it shows
// exactly the transactions whose end LSN is not past that LSN.
type Snapshot struct {
	Name string
	LSN  format.LSN // 0 if unknown: without a slot
	At   format.LSN // LSN, or else the approximate WAL position
	// 64-bit xid; all transactions before it have ended, and their effects are visible
	XMin uint64
	// the session whose transaction holds the snapshot; closing it releases the snapshot
	Keep *pgx.Conn
}

// Release releases the snapshot.
func (s *Snapshot) Release(ctx context.Context) {
	if s.Keep != nil {
		_ = s.Keep.Close(ctx)
		s.Keep = nil
	}
}

// Export creates a slot together with a snapshot of the source at its consistent point. A temporary
// slot is dropped with Export's session: it serves to get a snapshot with a known LSN for a slot
// that exists already.
//
// While a slot is being created, PostgreSQL misses some schema changes (seen with 15.20). Changes
// to such a table by transactions that are open at the consistent point are decoded with the old
// definition, so that columns are missing, or not at all ("could not map filenode", or filenumber).
// Export drops a slot that met such changes and creates it again, up to attempts times. altered has
// the tables of the last attempt, whose changes cannot be trusted.
func Export(ctx context.Context, server pgdial.Server, name, plugin string, temporary bool) (s *Snapshot, altered []string, err error) {
	repl, _, err := server.ConnectRaw(ctx, true)
	if err != nil {
		return nil, nil, err
	}
	// The snapshot ends with this session, and with the session's next command. So another session
	// imports it.
	defer repl.Close(context.WithoutCancel(ctx))
	asks := repl
	if !old.Walsender(pgdial.Version(repl)) {
		c, err := server.Connect(ctx)
		if err != nil {
			return nil, nil, err
		}
		defer c.Close(context.WithoutCancel(ctx))
		asks = c.PgConn()
	}
	for attempt := 1; ; attempt++ {
		next, err := asks.Exec(ctx,
			"SELECT pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot()) % (1::bigint << 32)").
			ReadAll()
		if err != nil {
			return nil, nil, server.Explain(err)
		}
		s, err := export(ctx, server, repl, name, plugin, temporary)
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

// attempts bounds how often Export creates a slot while the schema changes.
const attempts = 5

func export(ctx context.Context, server pgdial.Server, repl *pgconn.PgConn, name, plugin string, temporary bool) (*Snapshot, error) {
	r, err := create(ctx, repl, name, plugin, "EXPORT_SNAPSHOT", temporary)
	if err != nil {
		return nil, explainCreate(server, name, err)
	}
	s := new(Snapshot)
	if s.LSN, err = format.ParseLSN(r.ConsistentPoint); err != nil {
		return nil, err
	}
	s.Name, s.At = r.SnapshotName, s.LSN
	err = s.keep(ctx, server, s.Name)
	if temporary && !old.Walsender(pgdial.Version(repl)) {
		if e := pglogrepl.DropReplicationSlot(ctx, repl, quoteName(name), pglogrepl.DropReplicationSlotOptions{}); err == nil && e != nil {
			s.Release(ctx)
			return nil, server.Explain(e)
		}
	}
	if err != nil {
		return nil, Ended(err)
	}
	return s, nil
}

// create creates a slot. Before version 10, every new slot exports a snapshot, and none is
// temporary.
func create(ctx context.Context, repl *pgconn.PgConn, name, plugin, snapshot string, temporary bool) (pglogrepl.CreateReplicationSlotResult, error) {
	o := pglogrepl.CreateReplicationSlotOptions{Mode: pglogrepl.LogicalReplication}
	if old.Walsender(pgdial.Version(repl)) {
		o.Temporary, o.SnapshotAction = temporary, snapshot
	}
	return pglogrepl.CreateReplicationSlot(ctx, repl, quoteName(name), plugin, o)
}

// Gone reports whether err, of a session that was to import a snapshot, means that no session holds
// the snapshot any more.
func Gone(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "22023" || pg.Code == "42704")
}

// Ended is the error of a session that was to import a snapshot of this process. If the session
// that held the snapshot was lost, the load can be tried again with another snapshot.
func Ended(err error) error {
	if !Gone(err) {
		return err
	}
	return fault.New(fault.TryAgain, "the session that held the snapshot is lost: %w", err)
}

// altered returns the tables whose definition or file was changed, as the snapshot sees it, by a
// transaction not older than xid.
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

// Hold takes a snapshot without a slot. Its LSN is not known.
func Hold(ctx context.Context, server pgdial.Server) (*Snapshot, error) {
	c, err := server.Connect(ctx)
	if err != nil {
		return nil, err
	}
	s, err := Take(ctx, server, c, "")
	if err != nil {
		return nil, err
	}
	if s.At, err = FlushLSN(ctx, s.Keep); err != nil {
		s.Release(ctx)
		return nil, server.Explain(err)
	}
	return s, nil
}

// Import imports a snapshot that another process holds. If known, lsn is the snapshot's LSN; else
// it is the approximate WAL position.
func Import(ctx context.Context, server pgdial.Server, name string, lsn format.LSN, known bool) (*Snapshot, error) {
	s := &Snapshot{At: lsn}
	if known {
		s.LSN = lsn
	}
	err := s.keep(ctx, server, name)
	if Gone(err) {
		e := fault.New(fault.Unavailable, "snapshot %s does not exist on the source: %w", name, err)
		if !known {
			return nil, e.WithHint("The process that held the snapshot has exited. Without a slot, hold a new snapshot, and load all tables again, into an empty database.")
		}
		return nil, e.WithHint("The process that held the snapshot has exited. Hold a new snapshot, and load the missing tables with --resume.")
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// keep opens the session that holds the snapshot, imports the snapshot if it has a name, and
// exports it again.
func (s *Snapshot) keep(ctx context.Context, server pgdial.Server, name string) error {
	c, err := server.Connect(ctx)
	if err != nil {
		return err
	}
	took, err := Take(ctx, server, c, name)
	if err == nil {
		s.Keep, s.Name, s.XMin = c, took.Name, took.XMin
	}
	return err
}

// Take takes a snapshot in a session that the snapshot owns from then on: of what is there now, or,
// by its name, one that another session holds. It waits for the server once. The snapshot's LSN is
// not known. If it fails, it closes the session.
func Take(ctx context.Context, server pgdial.Server, c *pgx.Conn, name string) (*Snapshot, error) {
	s := &Snapshot{Keep: c}
	sql := "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
	if name != "" {
		sql += "SET TRANSACTION SNAPSHOT " + QuoteLiteral(name) + "; "
	}
	results, err := c.PgConn().Exec(ctx, sql+
		"SELECT pg_catalog.pg_export_snapshot(), pg_catalog.txid_snapshot_xmin(pg_catalog.txid_current_snapshot())").ReadAll()
	if err == nil {
		row := results[len(results)-1].Rows[0]
		s.Name = string(row[0])
		s.XMin, err = strconv.ParseUint(string(row[1]), 10, 64)
	}
	if err != nil {
		s.Release(context.WithoutCancel(ctx))
		return nil, server.Explain(err)
	}
	return s, nil
}
