package progress

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/format"
)

// After a cutover, a stream in the other direction keeps the old primary current. Its row is in
// schema pgsluice of the old primary, and names the slot of the migration that it leads back from.
// That row is the only proof that the old primary may be written to although it is fenced.

// A Back describes the stream that leads back from a migration.
type Back struct {
	Key     Key    // of the slot on the new primary
	Of      string // slot of the migration
	Source  Source // the new primary
	Whole   bool   // the migration covers all tables
	Without []string
}

// A stream that leads back is prepared (OpenBack), begins (StartBack), and is applied. If a cutover
// has ended the stream before, this database is the primary until the next cutover has opened the
// other side. Until then (ResumeBack), what the cutover and its watch know stays as it was: the
// cutover may still be given up (HaltBack).

// OpenBack prepares the stream that leads back. Until StartBack, it has no start.
func OpenBack(ctx context.Context, c *pgx.Conn, b Back) (*Stream, error) {
	s, err := Open(ctx, c, b.Key)
	if err != nil {
		return nil, err
	}
	if !s.Ended {
		if _, err := c.Exec(ctx, `UPDATE pgsluice.streams SET by_hand = true, load_status = 'none', applied_lsn = '0/0', last_xid = NULL, last_commit_lsn = NULL, last_end_lsn = NULL, last_commit_time = NULL WHERE stream_id = $1`, s.ID); err != nil {
			return nil, err
		}
	}
	if _, err := c.Exec(ctx, "UPDATE pgsluice.streams SET back_of = $2, whole = $3, without = $4, start_lsn = NULL WHERE stream_id = $1", s.ID, b.Of, b.Whole, b.Without); err != nil {
		return nil, err
	}
	// Those of an earlier target.
	if _, err := c.Exec(ctx, "DELETE FROM pgsluice.streams WHERE back_of = $2 AND stream_id <> $1", s.ID, b.Of); err != nil {
		return nil, err
	}
	s.BackOf, s.Start, s.Source = b.Of, 0, b.Source
	return s, SetSource(ctx, c, s.ID, b.Source)
}

// LeadsBack reports whether a stream that BackOf has returned leads back, or is about to. Otherwise
// a cutover has ended it.
func (s *Stream) LeadsBack() bool { return !s.Ended || s.Start == 0 || s.begun() }

// begun reports whether the stream waits for ResumeBack: it begins behind the cutover that ended
// it.
func (s *Stream) begun() bool { return s.Ended && s.Start > s.Applied }

// BackOf returns the stream that leads back from the migration with a slot, or nil.
func BackOf(ctx context.Context, c *pgx.Conn, slot string) (*Stream, error) {
	list, err := Streams(ctx, c, "")
	if err != nil || slot == "" {
		return nil, err
	}
	for _, s := range list {
		if s.BackOf == slot {
			return s, nil
		}
	}
	return nil, nil
}

// A BackTable is a table of a stream that leads back.
type BackTable struct {
	LoadTable
	SourceOID int64
	Counted   string // what the new primary's statistics have counted, of a table that is carried in part
}

// AddBackTables records the tables that have the same rows on both sides when the stream starts.
// snapshot is a snapshot of the new primary.
func AddBackTables(ctx context.Context, c *pgx.Conn, stream int32, list []BackTable, snapshot string) error {
	cols := make([][]string, 5)
	oids := make([]int64, 0, len(list))
	for _, t := range list {
		for i, s := range []string{t.Schema, t.Name, t.SourceSchema, t.SourceName, t.Counted} {
			cols[i] = append(cols[i], s)
		}
		oids = append(oids, t.SourceOID)
	}
	_, err := c.Exec(ctx, `INSERT INTO pgsluice.tables (stream_id, schema_name, table_name, source_schema, source_table, source_oid, counted, status, snapshot)
		SELECT $1, s, n, ss, sn, o, nullif(c, ''), 'loaded', $8 FROM unnest($2::pg_catalog.text[], $3::pg_catalog.text[], $4::pg_catalog.text[], $5::pg_catalog.text[], $6::pg_catalog.text[], $7::pg_catalog.int8[]) AS v(s, n, ss, sn, c, o)
		ON CONFLICT (stream_id, schema_name, table_name) DO UPDATE SET source_schema = excluded.source_schema, source_table = excluded.source_table, source_oid = excluded.source_oid,
		status = 'loaded', snapshot = excluded.snapshot, snapshot_lsn = NULL, counted = excluded.counted, error = NULL`, stream, cols[0], cols[1], cols[2], cols[3], cols[4], oids, snapshot)
	return err
}

// StartBack sets where the stream that leads back begins: the old primary has everything that the
// new one has before lsn. It takes one round trip, and works in a fenced database.
func StartBack(ctx context.Context, c *pgx.Conn, stream int32, lsn format.LSN) error {
	return fenced(ctx, c, fmt.Sprintf(`UPDATE pgsluice.streams SET start_lsn = '%[2]v', applied_lsn = CASE WHEN ended_at IS NULL THEN '%[2]v' ELSE applied_lsn END,
		updated_at = pg_catalog.clock_timestamp() WHERE stream_id = %[1]d`, stream, lsn))
}

// ResumeBack lets a stream that has begun be applied again, although a cutover has ended it: this
// database is not the primary any more. It works in a fenced database, and may be repeated.
func ResumeBack(ctx context.Context, c *pgx.Conn, stream int32) error {
	return fenced(ctx, c, fmt.Sprintf(`WITH s AS (UPDATE pgsluice.streams SET applied_lsn = start_lsn, ended_at = NULL, by_hand = true, load_status = 'none',
			last_xid = NULL, last_commit_lsn = NULL, last_end_lsn = NULL, last_commit_time = NULL WHERE stream_id = %d AND ended_at IS NOT NULL AND start_lsn > applied_lsn RETURNING stream_id),
		c AS (DELETE FROM pgsluice.cutover x USING s WHERE x.stream_id = s.stream_id), f AS (DELETE FROM pgsluice.failures x USING s WHERE x.stream_id = s.stream_id)
		DELETE FROM pgsluice.deferred x USING s WHERE x.stream_id = s.stream_id`, stream))
}

// fenced executes a statement in a fenced database, in one round trip.
func fenced(ctx context.Context, c *pgx.Conn, sql string) error {
	_, err := c.PgConn().Exec(ctx, "BEGIN READ WRITE; SET LOCAL synchronous_commit = local; "+sql+"; COMMIT").ReadAll()
	if err != nil && c.PgConn().TxStatus() != 'I' && !c.IsClosed() {
		_, _ = c.Exec(ctx, "ROLLBACK")
	}
	return err
}

// HaltBack takes the position of a stream that leads back away, so that nothing more is applied:
// others are going to write to the old primary. A stream that waits for ResumeBack is as it was
// before OpenBack.
func HaltBack(ctx context.Context, c *pgx.Conn, stream int32) error {
	_, err := c.Exec(ctx, `UPDATE pgsluice.streams SET applied_lsn = CASE WHEN ended_at IS NULL THEN '0/0' ELSE applied_lsn END,
		start_lsn = CASE WHEN ended_at IS NOT NULL THEN applied_lsn END WHERE stream_id = $1`, stream)
	return err
}

// ForgetBack removes a stream that was prepared and never begun.
func ForgetBack(ctx context.Context, c *pgx.Conn, stream int32) error {
	_, err := c.Exec(ctx, "DELETE FROM pgsluice.streams WHERE stream_id = $1 AND ended_at IS NULL", stream)
	return err
}

// Command returns the command line of a script for the stream. A stream that leads back has the
// slot of its migration there, and an option.
func (s *Stream) Command(script, option string) string {
	if s.BackOf != "" && len(s.Key.Slot) > len(s.BackOf) {
		return "scripts/" + script + " " + s.BackOf + " " + option
	}
	return "scripts/" + script + " " + s.Key.Slot
}
