// Package progress holds what a target knows of the migrations into it: schema pgsluice. It creates
// the tables, reads them, and writes them in the caller's transaction. It knows nothing of the
// records of the stream format.
package progress

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/citus"
	"github.com/pgsluice/pgsluice/format"
)

// Schema is the name of the schema. pgsluice never extracts, publishes or applies it.
const Schema = "pgsluice"

// Key identifies a stream by the slot it comes from.
type Key struct{ SystemID, Database, Slot string }

// KeyOf returns the key of the stream that a header opens.
func KeyOf(h *format.Header) Key { return Key{h.SystemID, h.Database, h.Slot} }

// String names the stream for messages.
func (k Key) String() string {
	if k.Slot == "" {
		return fmt.Sprintf("load of database %q", k.Database)
	}
	return fmt.Sprintf("slot %q of database %q", k.Slot, k.Database)
}

// A Stream is a row of pgsluice.streams.
type Stream struct {
	ID           int32
	Key          Key
	Applied      format.LSN
	AppliedTime  time.Time
	Start        format.LSN
	Transactions int64
	Changes      int64
	LoadStatus   string // none, loading, loaded
	Ended        bool
	Ahead        bool     // transactions in progress are applied ahead of their commit
	ByHand       bool     // the schema was not created by a load
	Without      []string // the parts of the schema that the load left out
	Whole        bool     // the load covers all tables of the source, not a selection
	Source       Source
	Replica      bool   // the last pgapply could set session_replication_role
	TargetID     string // random id of this stream on this target
	Last         Transaction
	// When the stream was last active: a change was applied, or a load was running.
	Active time.Time
	// The slot of the migration that the stream leads back from; empty for a migration's own.
	BackOf string
	Citus  bool // the target belongs to a Citus cluster
}

// Source is what is remembered of a stream's source besides its key.
type Source struct {
	Token    string
	Timeline uint64
	History  []format.TimelineEnd
}

// A Transaction identifies a transaction of the source. Its fields distinguish it from a
// transaction at the same position in another history.
type Transaction struct {
	XID       uint32
	CommitLSN format.LSN
	EndLSN    format.LSN
	Time      format.Time // of the commit
}

func (t Transaction) String() string {
	s := fmt.Sprintf("transaction %d with commit LSN %v", t.XID, t.CommitLSN)
	if t.Time != 0 { // it is known
		s += ", committed at " + t.Time.Time().Format("2006-01-02 15:04:05.000000Z")
	}
	return s
}

const selectStream = `SELECT stream_id, system_id, database, slot, applied_lsn::pg_catalog.text, coalesce(applied_time, 'epoch'), coalesce(start_lsn, '0/0')::pg_catalog.text,
	transactions, changes, load_status, ended_at IS NOT NULL, ahead, whole, by_hand, without, coalesce(timeline, 0), history, token, target_id,
	coalesce(last_xid, 0), coalesce(last_commit_lsn, '0/0')::pg_catalog.text, coalesce(last_end_lsn, '0/0')::pg_catalog.text, last_commit_time, greatest(updated_at, loading_at), back_of, replica, ` + citus.There + ` FROM pgsluice.streams `

func scanStream(row pgx.CollectableRow) (*Stream, error) {
	var s Stream
	var applied, start, history, commit, end string
	var timeline, xid int64
	var at *time.Time
	err := row.Scan(&s.ID, &s.Key.SystemID, &s.Key.Database, &s.Key.Slot, &applied, &s.AppliedTime, &start,
		&s.Transactions, &s.Changes, &s.LoadStatus, &s.Ended, &s.Ahead, &s.Whole, &s.ByHand, &s.Without,
		&timeline, &history, &s.Source.Token, &s.TargetID, &xid, &commit, &end, &at, &s.Active, &s.BackOf, &s.Replica, &s.Citus)
	if err != nil {
		return nil, err
	}
	for _, p := range []struct {
		text string
		lsn  *format.LSN
	}{{applied, &s.Applied}, {start, &s.Start}, {commit, &s.Last.CommitLSN}, {end, &s.Last.EndLSN}} {
		if *p.lsn, err = format.ParseLSN(p.text); err != nil {
			return nil, err
		}
	}
	s.Last.XID, s.Source.Timeline = uint32(xid), uint64(timeline)
	if at != nil {
		s.Last.Time = format.TimeOf(*at)
	}
	s.Source.History, err = parseHistory(history)
	return &s, err
}

// The history of timelines is stored as text: "1@0/3000000 2@0/5000000".

func historyText(list []format.TimelineEnd) string {
	var b strings.Builder
	for _, t := range list {
		fmt.Fprintf(&b, "%d@%v ", t.Timeline, t.End)
	}
	return strings.TrimSpace(b.String())
}

func parseHistory(s string) (list []format.TimelineEnd, err error) {
	for f := range strings.FieldsSeq(s) {
		timeline, end, _ := strings.Cut(f, "@")
		var t format.TimelineEnd
		if t.Timeline, err = strconv.ParseUint(timeline, 10, 64); err != nil {
			return nil, err
		}
		if t.End, err = format.ParseLSN(end); err != nil {
			return nil, err
		}
		list = append(list, t)
	}
	return list, nil
}

// SetSource records the stream's source.
func SetSource(ctx context.Context, c *pgx.Conn, stream int32, s Source) error {
	_, err := c.Exec(ctx, "UPDATE pgsluice.streams SET token = $2, timeline = nullif($3::pg_catalog.int8, 0), history = $4 WHERE stream_id = $1",
		stream, s.Token, int64(s.Timeline), historyText(s.History))
	return err
}

// SetReplica records whether changes are applied with session_replication_role = replica.
func SetReplica(ctx context.Context, c *pgx.Conn, stream int32, replica bool) error {
	_, err := c.Exec(ctx, "UPDATE pgsluice.streams SET replica = $2 WHERE stream_id = $1 AND replica <> $2", stream, replica)
	return err
}

// Open returns the stream with a key. It creates the stream if necessary.
func Open(ctx context.Context, c *pgx.Conn, k Key) (*Stream, error) {
	if _, err := c.Exec(ctx,
		"INSERT INTO pgsluice.streams (system_id, database, slot, target_id, lock_key) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
		k.SystemID, k.Database, k.Slot, rand.Text(), newSecret()); err != nil {
		return nil, err
	}
	rows, err := c.Query(ctx, selectStream+"WHERE system_id = $1 AND database = $2 AND slot = $3", k.SystemID, k.Database, k.Slot)
	if err != nil {
		return nil, err
	}
	s, err := pgx.CollectExactlyOneRow(rows, scanStream)
	if err == nil && s.TargetID == "" { // written before target ids existed
		s.TargetID = rand.Text()
		_, err = c.Exec(ctx, "UPDATE pgsluice.streams SET target_id = $2 WHERE stream_id = $1", s.ID, s.TargetID)
	}
	return s, err
}

// Streams returns the streams of a slot, or all streams if slot is empty. It returns none if the
// schema does not exist or belongs to another role.
func Streams(ctx context.Context, c *pgx.Conn, slot string) ([]*Stream, error) {
	p, err := look(ctx, c)
	if err != nil || !p.tables {
		return nil, err
	}
	if err := p.readable(); err != nil {
		return nil, err
	}
	rows, err := c.Query(ctx, selectStream+"WHERE $1 = '' OR slot = $1 ORDER BY stream_id", slot)
	if err != nil {
		return nil, notOurs(err)
	}
	streams, err := pgx.CollectRows(rows, scanStream)
	return streams, notOurs(err)
}

// Advance is the statement that moves a stream's position. Its parameters are the new LSN, its time
// (or NULL), the numbers of transactions and of changes, the stream's id, and the expected current
// LSN, followed by the XID, commit LSN, end LSN and time of the last transaction (NULL if there is
// none to record). The statement fails with division by zero if the current LSN is different,
// because another process has applied changes. It fails the same way if a cutover has ended the
// stream, because nothing may be applied after that.
const Advance = `WITH w AS (UPDATE pgsluice.streams SET applied_lsn = $1::pg_catalog.pg_lsn, applied_time = coalesce($2::pg_catalog.timestamptz, applied_time),
	transactions = transactions + $3::pg_catalog.int8, changes = changes + $4::pg_catalog.int8, updated_at = pg_catalog.clock_timestamp(),
	last_xid = coalesce($7::pg_catalog.int8, last_xid), last_commit_lsn = coalesce($8::pg_catalog.pg_lsn, last_commit_lsn), last_end_lsn = coalesce($9::pg_catalog.pg_lsn, last_end_lsn),
	last_commit_time = CASE WHEN $7 IS NULL THEN last_commit_time ELSE $10::pg_catalog.timestamptz END
	WHERE stream_id = $5::pg_catalog.int4 AND applied_lsn = $6::pg_catalog.pg_lsn AND ended_at IS NULL RETURNING 1)
	SELECT 1/pg_catalog.count(*) FROM w`

// Count is the statement that adds to the counters of tables. Its parameters are the stream's id
// and arrays: schema and table on the target, schema and table on the source, inserts, updates,
// deletes, truncates.
const Count = `INSERT INTO pgsluice.tables AS t (stream_id, schema_name, table_name, source_schema, source_table, status, inserts, updates, deletes, truncates, changed_at)
	SELECT $1::pg_catalog.int4, s, n, ss, sn, 'loaded', i, u, d, tr, pg_catalog.clock_timestamp()
	FROM unnest($2::pg_catalog.text[], $3::pg_catalog.text[], $4::pg_catalog.text[], $5::pg_catalog.text[], $6::pg_catalog.int8[], $7::pg_catalog.int8[], $8::pg_catalog.int8[], $9::pg_catalog.int8[]) AS v(s, n, ss, sn, i, u, d, tr)
	ON CONFLICT (stream_id, schema_name, table_name) DO UPDATE SET inserts = t.inserts + excluded.inserts, updates = t.updates + excluded.updates,
	deletes = t.deletes + excluded.deletes, truncates = t.truncates + excluded.truncates, changed_at = excluded.changed_at`

// Conflicts returns how many changes of a stream were skipped or forced.
func Conflicts(ctx context.Context, c *pgx.Conn, stream int32) (n int64, err error) {
	err = c.QueryRow(ctx, "SELECT pg_catalog.count(*) FROM pgsluice.conflicts WHERE stream_id = $1", stream).Scan(&n)
	return n, err
}

// Snapshots returns the LSN of the snapshot that each table was loaded from, by schema and table on
// the target.
func Snapshots(ctx context.Context, c *pgx.Conn, stream int32) (map[[2]string]format.LSN, error) {
	rows, err := c.Query(ctx,
		"SELECT schema_name, table_name, snapshot_lsn::pg_catalog.text FROM pgsluice.tables WHERE stream_id = $1 AND snapshot_lsn IS NOT NULL", stream)
	if err != nil {
		return nil, err
	}
	m := make(map[[2]string]format.LSN)
	var schema, table, lsn string
	_, err = pgx.ForEachRow(rows, []any{&schema, &table, &lsn}, func() error {
		l, err := format.ParseLSN(lsn)
		m[[2]string{schema, table}] = l
		return err
	})
	return m, err
}
