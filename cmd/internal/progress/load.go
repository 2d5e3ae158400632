package progress

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
	"github.com/pgsluice/pgsluice/format"
)

// A TableState is the state of a table's load.
type TableState struct {
	Status   string // queued, loading, copied, indexing, loaded, error; empty if there is no row
	Snapshot string
	Of       int
	Done     map[int]bool // finished parts

	SourceSchema, SourceName string
}

// Complete reports whether all rows are on the target.
func (s *TableState) Complete() bool {
	return s.Status == "copied" || s.Status == "indexing" || s.Status == "loaded"
}

// TableStates returns the states of all tables of a stream, by schema and name on the target.
func TableStates(ctx context.Context, c *pgx.Conn, stream int32) (map[[2]string]*TableState, error) {
	m := make(map[[2]string]*TableState)
	rows, err := c.Query(ctx,
		"SELECT schema_name, table_name, source_schema, source_table, status, coalesce(snapshot, ''), parts FROM pgsluice.tables WHERE stream_id = $1", stream)
	if err != nil {
		return nil, err
	}
	var k [2]string
	var schema, name, status, snapshot string
	var n int
	if _, err := pgx.ForEachRow(rows, []any{&k[0], &k[1], &schema, &name, &status, &snapshot, &n}, func() error {
		m[k] = &TableState{Status: status, Snapshot: snapshot, Of: n, Done: make(map[int]bool), SourceSchema: schema, SourceName: name}
		return nil
	}); err != nil {
		return nil, err
	}
	if rows, err = c.Query(ctx, "SELECT schema_name, table_name, part FROM pgsluice.parts WHERE stream_id = $1", stream); err != nil {
		return nil, err
	}
	if _, err := pgx.ForEachRow(rows, []any{&k[0], &k[1], &n}, func() error {
		if t := m[k]; t != nil {
			t.Done[n] = true
		}
		return nil
	}); err != nil {
		return nil, err
	}
	lost, err := Emptied(ctx, c, stream)
	for _, k := range lost {
		t := m[k]
		t.Status, t.Snapshot, t.Done = "queued", "", make(map[int]bool)
	}
	return m, err
}

// Emptied returns the tables, by schema and name on the target, that a crash of the target server
// emptied because they are unlogged. TableStates reports them as queued.
func Emptied(ctx context.Context, c *pgx.Conn, stream int32) ([][2]string, error) {
	rows, err := c.Query(ctx, `SELECT t.schema_name, t.table_name FROM pgsluice.tables t JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
		JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.table_name
		WHERE t.stream_id = $1 AND t.rows > 0 AND c.relpersistence = 'u' AND c.relkind = 'r'`, stream)
	if err != nil {
		return nil, err
	}
	unlogged, err := pgx.CollectRows(rows,
		func(row pgx.CollectableRow) (k [2]string, err error) { err = row.Scan(&k[0], &k[1]); return k, err })
	if err != nil {
		return nil, err
	}
	var lost [][2]string
	for _, k := range unlogged {
		var any bool
		if err := c.QueryRow(ctx, "SELECT EXISTS (SELECT FROM ONLY "+pgx.Identifier(k[:]).Sanitize()+")").Scan(&any); err != nil {
			return nil, err
		}
		if !any {
			lost = append(lost, k)
		}
	}
	return lost, nil
}

// Requeue records that a table must be loaded again from the start.
func Requeue(ctx context.Context, c *pgx.Conn, stream int32, schema, table string) error {
	return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx,
			"DELETE FROM pgsluice.parts WHERE stream_id = $1 AND schema_name = $2 AND table_name = $3",
			stream, schema, table); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE pgsluice.tables SET status = 'queued', snapshot = NULL, snapshot_lsn = NULL, counted = NULL, rows = 0, bytes = 0, copying_rows = 0, copying_bytes = 0, copied_at = NULL, loaded_at = NULL
			WHERE stream_id = $1 AND schema_name = $2 AND table_name = $3`, stream, schema, table)
		return err
	})
}

// Forget removes an incomplete table from a load.
func Forget(ctx context.Context, c *pgx.Conn, stream int32, schema, table string) error {
	_, err := c.Exec(ctx, "DELETE FROM pgsluice.tables WHERE stream_id = $1 AND schema_name = $2 AND table_name = $3 AND status IN ('queued', 'loading', 'error')",
		stream, schema, table)
	return err
}

// A LoadTable is a table to load.
type LoadTable struct {
	Schema, Name             string // on the target
	SourceSchema, SourceName string
}

// QueueTables records the tables to load.
func QueueTables(ctx context.Context, c *pgx.Conn, stream int32, list []LoadTable) error {
	if len(list) == 0 {
		return nil
	}
	cols := make([][]string, 4)
	for _, t := range list {
		for i, s := range []string{t.Schema, t.Name, t.SourceSchema, t.SourceName} {
			cols[i] = append(cols[i], s)
		}
	}
	_, err := c.Exec(ctx, `INSERT INTO pgsluice.tables (stream_id, schema_name, table_name, source_schema, source_table, status)
		SELECT $1, s, n, ss, sn, 'queued' FROM unnest($2::pg_catalog.text[], $3::pg_catalog.text[], $4::pg_catalog.text[], $5::pg_catalog.text[]) AS v(s, n, ss, sn) ON CONFLICT DO NOTHING`,
		stream, cols[0], cols[1], cols[2], cols[3])
	return err
}

// SetLoadStatus records the status of a stream's load. Changes begin at the snapshot of the first
// load.
func SetLoadStatus(ctx context.Context, c *pgx.Conn, stream int32, status string, snapshot format.LSN) error {
	_, err := c.Exec(ctx, `UPDATE pgsluice.streams SET load_status = $2, start_lsn = coalesce(start_lsn, $3::pg_catalog.text::pg_catalog.pg_lsn), updated_at = pg_catalog.now() WHERE stream_id = $1`,
		stream, status, snapshot.String())
	return err
}

// SetWhole records that the load covers all tables of the source.
func SetWhole(ctx context.Context, c *pgx.Conn, stream int32) error {
	_, err := c.Exec(ctx, "UPDATE pgsluice.streams SET whole = true WHERE stream_id = $1", stream)
	return err
}

// Unfinished returns the tables of a stream whose load is not finished. copied are the tables that
// have all of their rows but lack other objects, such as indexes. missing are the tables that lack
// rows.
func Unfinished(ctx context.Context, c *pgx.Conn, stream int32) (copied, missing []LoadTable, err error) {
	rows, err := c.Query(ctx,
		"SELECT schema_name, table_name, source_schema, source_table, status FROM pgsluice.tables WHERE stream_id = $1 AND status <> 'loaded' ORDER BY 1, 2", stream)
	if err != nil {
		return nil, nil, err
	}
	var t LoadTable
	var s TableState
	_, err = pgx.ForEachRow(rows, []any{&t.Schema, &t.Name, &t.SourceSchema, &t.SourceName, &s.Status}, func() error {
		if s.Complete() {
			copied = append(copied, t)
		} else {
			missing = append(missing, t)
		}
		return nil
	})
	return copied, missing, err
}

// Unbuilt returns the tables of a stream that count as loaded but have objects that were never
// attempted.
func Unbuilt(ctx context.Context, c *pgx.Conn, stream int32) ([]LoadTable, error) {
	rows, err := c.Query(ctx, `SELECT schema_name, table_name, source_schema, source_table FROM pgsluice.tables t WHERE stream_id = $1 AND status = 'loaded' AND EXISTS (
		SELECT FROM pgsluice.deferred d WHERE d.stream_id = t.stream_id AND d.phase = 'table' AND d.state = 'deferred'
		AND d.schema_name = t.schema_name AND d.table_name = t.table_name) ORDER BY 1, 2`, stream)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t LoadTable, err error) {
		err = row.Scan(&t.Schema, &t.Name, &t.SourceSchema, &t.SourceName)
		return t, err
	})
}

// FinishLoad marks the load of a stream complete. Changes then begin at the snapshot of the first
// load, unless later ones have already been applied. It returns false if some tables are
// incomplete.
func FinishLoad(ctx context.Context, c *pgx.Conn, stream int32) (complete bool, err error) {
	err = c.QueryRow(ctx, `UPDATE pgsluice.streams SET load_status = 'loaded', applied_lsn = greatest(applied_lsn, coalesce(start_lsn, '0/0')), updated_at = pg_catalog.now()
		WHERE stream_id = $1 AND NOT EXISTS (SELECT FROM pgsluice.tables WHERE stream_id = $1 AND status <> 'loaded') RETURNING true`, stream).Scan(&complete)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return complete, err
}

// StepBegins records that a step of the cutover begins. A repeated step starts over.
func StepBegins(ctx context.Context, c *pgx.Conn, stream int32, step string) error {
	_, err := c.Exec(ctx, stepBegan, stream, step, time.Duration(0))
	return err
}

const stepBegan = `INSERT INTO pgsluice.cutover (stream_id, step, started_at) VALUES ($1, $2, pg_catalog.clock_timestamp() - $3::pg_catalog.interval)
		ON CONFLICT (stream_id, step) DO UPDATE SET started_at = excluded.started_at, finished_at = NULL, detail = NULL, result = NULL, stamp = NULL,
		counted = NULL, fence_id = NULL, undo = NULL, lsn = NULL, applied_lsn = NULL, changes = NULL, large_objects = NULL`

// StepEnds records that a step has ended. It waits until the target's WAL is flushed, which also
// makes everything committed before durable.
func StepEnds(ctx context.Context, c *pgx.Conn, stream int32, step, detail string) error {
	var b pgx.Batch
	QueueStepEnds(&b, stream, step, detail, "")
	return c.SendBatch(ctx, &b).Close()
}

// StepWas records a step that has ended, with its result, in the place of an earlier one.
func StepWas(ctx context.Context, c *pgx.Conn, stream int32, step string, took time.Duration, detail, result string) error {
	var b pgx.Batch
	b.Queue(stepBegan, stream, step, took)
	QueueStepEnds(&b, stream, step, detail, result)
	return c.SendBatch(ctx, &b).Close()
}

// QueueStepEnds is StepEnds for a batch, which becomes one transaction, and for a step that has a
// result. What is queued before it is recorded with the end of the step, or not at all.
func QueueStepEnds(b *pgx.Batch, stream int32, step, detail, result string) {
	b.Queue(durable)
	b.Queue("UPDATE pgsluice.cutover SET finished_at = pg_catalog.clock_timestamp(), detail = $3, result = nullif($4, '') WHERE stream_id = $1 AND step = $2",
		stream, step, detail, result)
}

// durable has the session's commits wait for the disk.
const durable = "SELECT pg_catalog.set_config('synchronous_commit', 'local', false) WHERE pg_catalog.current_setting('synchronous_commit') = 'off'"

// SetStamp records the state of the source's catalogs at the time a step compared the schemas, and
// the counters of the tables that are not carried completely, and what the source's large objects
// are.
func SetStamp(ctx context.Context, c *pgx.Conn, stream int32, step, stamp, counted, largeObjects string) error {
	_, err := c.Exec(ctx, "UPDATE pgsluice.cutover SET stamp = nullif($3, ''), counted = nullif($4, ''), large_objects = nullif($5, '') WHERE stream_id = $1 AND step = $2",
		stream, step, stamp, counted, largeObjects)
	return err
}

// SetFence records the fence that is being put up, and the statements that undo it. What was
// drained and compared under an earlier fence says nothing under this one, and is forgotten.
func SetFence(ctx context.Context, c *pgx.Conn, stream int32, id, undo string) error {
	var b pgx.Batch
	b.Queue("UPDATE pgsluice.cutover SET fence_id = $2, undo = $3 WHERE stream_id = $1 AND step = 'fence'", stream, id, undo)
	b.Queue("DELETE FROM pgsluice.cutover WHERE stream_id = $1 AND step IN ('drain', 'verify')", stream)
	return c.SendBatch(ctx, &b).Close()
}

// QueueDrain records what a drain has found: the fence that it belongs to, its mark, what the
// target has applied by now, and what the source's large objects are.
func QueueDrain(b *pgx.Batch, stream int32, fenceID string, mark format.LSN, largeObjects string) {
	b.Queue(`UPDATE pgsluice.cutover c SET fence_id = $2, lsn = $3::pg_catalog.text::pg_catalog.pg_lsn, applied_lsn = s.applied_lsn, changes = s.changes, large_objects = nullif($4, '')
		FROM pgsluice.streams s WHERE s.stream_id = c.stream_id AND c.stream_id = $1 AND c.step = 'drain'`, stream, fenceID, mark.String(), largeObjects)
}

// ForgetSteps removes the records of steps.
func ForgetSteps(ctx context.Context, c *pgx.Conn, stream int32, steps ...string) (removed bool, err error) {
	tag, err := c.Exec(ctx, "DELETE FROM pgsluice.cutover WHERE stream_id = $1 AND step = ANY ($2)", stream, steps)
	return tag.RowsAffected() > 0, err
}

// A Step is a row of pgsluice.cutover.
type Step struct {
	Name         string     `json:"step"`
	Started      time.Time  `json:"started_at"`
	Finished     *time.Time `json:"finished_at"`
	Detail       string     `json:"detail,omitempty"` // for people
	Result       string     `json:"result,omitempty"` // of verify: equal, differs
	Stamp        string     `json:"-"`                // of fence: the source's inventory.Stamp
	FenceID      string     `json:"-"`                // of fence and drain: the fence they belong to
	Undo         string     `json:"-"`                // of fence: the statements that undo it
	LSN          format.LSN `json:"-"`                // of drain and open; 0: none
	Counted      string     `json:"-"`                // of fence: the tables to count again
	Changes      int64      `json:"-"`                // of drain: how many changes were applied; -1: unknown
	LargeObjects string     `json:"-"`                // of fence and drain: the source's
}

// Steps returns the steps of a cutover in the order in which they began.
func Steps(ctx context.Context, c *pgx.Conn, stream int32) ([]Step, error) {
	rows, err := c.Query(ctx,
		"SELECT step, started_at, finished_at, coalesce(detail, ''), coalesce(result, ''), coalesce(stamp, ''), coalesce(counted, ''), coalesce(fence_id, ''), coalesce(undo, ''), coalesce(lsn, '0/0')::pg_catalog.text, coalesce(changes, -1), coalesce(large_objects, '') FROM pgsluice.cutover WHERE stream_id = $1 ORDER BY started_at", stream)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (s Step, err error) {
		var lsn string
		if err := row.Scan(&s.Name, &s.Started, &s.Finished, &s.Detail, &s.Result, &s.Stamp, &s.Counted, &s.FenceID, &s.Undo, &lsn, &s.Changes, &s.LargeObjects); err != nil {
			return s, err
		}
		s.LSN, err = format.ParseLSN(lsn)
		return s, err
	})
}

// A TableInfo is a row of pgsluice.tables.
type TableInfo struct {
	Schema       string     `json:"schema"`
	Table        string     `json:"table"`
	SourceSchema string     `json:"source_schema"`
	SourceTable  string     `json:"source_table"`
	Status       string     `json:"status"`
	Parts        int        `json:"parts"`
	PartsDone    int        `json:"parts_done"`
	Rows         int64      `json:"rows"`  // on the target
	Bytes        int64      `json:"bytes"` // of these rows
	Started      *time.Time `json:"started_at"`
	Loaded       *time.Time `json:"loaded_at"`
	Inserts      int64      `json:"inserts"`
	Updates      int64      `json:"updates"`
	Deletes      int64      `json:"deletes"`
	Truncates    int64      `json:"truncates"`
	Changed      *time.Time `json:"changed_at"`
	Error        string     `json:"error,omitempty"`

	CopyingRows  int64 `json:"-"` // copied but not committed, while the table is loading
	CopyingBytes int64 `json:"-"`

	SourceOID uint32 `json:"-"` // 0 if unknown
	// The snapshot of the load. MadeByStatement if a recorded statement created the table.
	Snapshot string `json:"-"`
	Counted  string `json:"-"` // what the source had counted of it before the snapshot
}

// Tables returns what is known of a stream's tables. It includes rows that are being copied if a
// loader has reported them recently. Only AtWork can tell whether the loader still exists.
func Tables(ctx context.Context, c *pgx.Conn, stream int32) ([]TableInfo, error) {
	rows, err := c.Query(ctx, `SELECT schema_name, table_name, source_schema, source_table, status, parts,
		(SELECT pg_catalog.count(*) FROM pgsluice.parts p WHERE p.stream_id = t.stream_id AND p.schema_name = t.schema_name AND p.table_name = t.table_name),
		rows, bytes, CASE WHEN status = 'loading' AND l.active THEN copying_rows ELSE 0 END, CASE WHEN status = 'loading' AND l.active THEN copying_bytes ELSE 0 END,
		started_at, loaded_at, inserts, updates, deletes, truncates, changed_at, coalesce(error, ''), coalesce(source_oid, 0), coalesce(snapshot, ''), coalesce(counted, '')
		FROM pgsluice.tables t, (SELECT coalesce(s.loading_at > pg_catalog.clock_timestamp() - interval '15 s', false) AS active FROM pgsluice.streams s WHERE s.stream_id = $1) l
		WHERE stream_id = $1 ORDER BY 1, 2`, stream)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t TableInfo, err error) {
		err = row.Scan(&t.Schema, &t.Table, &t.SourceSchema, &t.SourceTable, &t.Status, &t.Parts,
			&t.PartsDone, &t.Rows, &t.Bytes, &t.CopyingRows, &t.CopyingBytes, &t.Started, &t.Loaded,
			&t.Inserts, &t.Updates, &t.Deletes, &t.Truncates, &t.Changed, &t.Error, &t.SourceOID, &t.Snapshot, &t.Counted)
		return t, err
	})
}

// RenamedSchemas maps source schemas to target schemas. It contains the source schemas whose tables
// are all in one target schema of another name.
func RenamedSchemas(ctx context.Context, c *pgx.Conn, stream int32) (map[string]string, error) {
	rows, err := c.Query(ctx, `SELECT source_schema, pg_catalog.min(schema_name) FROM pgsluice.tables WHERE stream_id = $1
		GROUP BY source_schema HAVING pg_catalog.count(DISTINCT schema_name) = 1 AND pg_catalog.min(schema_name) <> source_schema`, stream)
	if err != nil {
		return nil, err
	}
	m := make(map[string]string)
	var from, to string
	_, err = pgx.ForEachRow(rows, []any{&from, &to}, func() error { m[from] = to; return nil })
	return m, err
}

// EndStream stops further changes from being applied, because a cutover has made the target the
// primary. It does so only if the number of applied changes is still the one given; else it returns
// false. With the step "open" it records the position up to which the target has everything. From
// here on the application relies on the target's data, and on the durability that the server's
// settings promise: the commit waits for it.
func EndStream(ctx context.Context, c *pgx.Conn, stream int32, changes int64) (ended bool, err error) {
	var b pgx.Batch
	b.Queue(waiting.Durable)
	b.Queue(`WITH s AS (UPDATE pgsluice.streams SET ended_at = coalesce(ended_at, pg_catalog.clock_timestamp()) WHERE stream_id = $1 AND changes = $2 RETURNING stream_id, applied_lsn),
			c AS (UPDATE pgsluice.cutover c SET lsn = s.applied_lsn FROM s WHERE c.stream_id = s.stream_id AND c.step = 'open')
		SELECT EXISTS (SELECT FROM s)`, stream, changes).QueryRow(func(row pgx.Row) error { return row.Scan(&ended) })
	err = c.SendBatch(ctx, &b).Close()
	return ended && err == nil, err
}
