package progress

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/format"
)

// An Object is a row of pgsluice.deferred.
type Object struct {
	ID     int64
	Phase  Phase
	Type   string
	Schema string
	Table  string
	Name   string
	SQL    string
	Index  string // creates the index that a constraint rests on
	Attach string // makes the constraint of that index
	Error  string
}

// String names the object for messages.
func (o *Object) String() string {
	s := o.Type + " "
	if o.Schema != "" {
		s += o.Schema + "."
	}
	return s + o.Name
}

// Rest returns the statements that create the object, or what is left to do if an earlier run has made its index.
func (o *Object) Rest() string {
	if o.Index == "" && o.Attach != "" {
		return o.Attach
	}
	return o.SQL
}

// A Phase is when an object is created.
type Phase string

// The phases, in order.
const (
	PhaseSchema  Phase = "schema"  // before rows are copied
	PhaseTable   Phase = "table"   // when the rows of its table are there
	PhaseLoad    Phase = "load"    // when all rows are there
	PhaseCutover Phase = "cutover" // when the target is opened: what would stand in the way of changes
	PhaseFinish  Phase = "finish"  // when the cutover is finished: what would stand in the way of the rest
)

// ObjectKey tells objects apart: type, schema, name and definition.
type ObjectKey [4]string

// Key returns the object's key.
func (o *Object) Key() ObjectKey { return ObjectKey{o.Type, o.Schema, o.Name, o.SQL} }

// Objects returns the keys of all objects that are recorded, and whether each has been created.
func Objects(ctx context.Context, c *pgx.Conn, stream int32) (map[ObjectKey]bool, error) {
	rows, err := c.Query(ctx, "SELECT type, schema_name, name, definition, state = 'done' FROM pgsluice.deferred WHERE stream_id = $1", stream)
	if err != nil {
		return nil, err
	}
	m := make(map[ObjectKey]bool)
	var k ObjectKey
	var done bool
	_, err = pgx.ForEachRow(rows, []any{&k[0], &k[1], &k[2], &k[3], &done}, func() error { m[k] = done; return nil })
	return m, err
}

// AddObjects records objects, in order.
func AddObjects(ctx context.Context, c *pgx.Conn, stream int32, list []Object, state string) error {
	if len(list) == 0 {
		return nil
	}
	cols := make([][]string, 9)
	for _, o := range list {
		for i, s := range []string{string(o.Phase), o.Type, o.Schema, o.Table, o.Name, o.SQL, o.Index, o.Attach, o.Error} {
			cols[i] = append(cols[i], s)
		}
	}
	_, err := c.Exec(ctx, `INSERT INTO pgsluice.deferred (stream_id, phase, type, schema_name, table_name, name, definition, index_sql, attach_sql, error, state, finished_at)
		SELECT $1, p, t, s, tn, n, d, nullif(i, ''), nullif(a, ''), nullif(e, ''), $2, CASE WHEN $2 <> 'deferred' THEN pg_catalog.now() END
		FROM unnest($3::pg_catalog.text[], $4::pg_catalog.text[], $5::pg_catalog.text[], $6::pg_catalog.text[], $7::pg_catalog.text[], $8::pg_catalog.text[], $9::pg_catalog.text[], $10::pg_catalog.text[], $11::pg_catalog.text[]) WITH ORDINALITY AS v(p, t, s, tn, n, d, i, a, e, o)
		ORDER BY o`, stream, state, cols[0], cols[1], cols[2], cols[3], cols[4], cols[5], cols[6], cols[7], cols[8])
	return err
}

// AddObjectsSQL is AddObjects as a statement, for a transaction that is sent as a whole.
func AddObjectsSQL(stream int32, list []Object, state string) string {
	var b strings.Builder
	b.WriteString(`INSERT INTO pgsluice.deferred (stream_id, phase, type, schema_name, table_name, name, definition, index_sql, attach_sql, error, state, finished_at)
		SELECT s, p, t, sn, tn, n, d, nullif(i, ''), nullif(a, ''), nullif(e, ''), st, CASE WHEN st <> 'deferred' THEN pg_catalog.now() END FROM (VALUES `)
	for i, o := range list {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "(%d", stream)
		for _, s := range []string{string(o.Phase), o.Type, o.Schema, o.Table, o.Name, o.SQL, o.Index, o.Attach, o.Error, state} {
			b.WriteString(", " + Literal(s))
		}
		b.WriteString(")")
	}
	b.WriteString(") AS v(s, p, t, sn, tn, n, d, i, a, e, st)")
	return b.String()
}

// Literal quotes a string for SQL text. Where it needs an escape string, a blank keeps its E from what stands before it.
func Literal(s string) string {
	s = strings.ReplaceAll(s, "'", "''")
	if strings.Contains(s, `\`) {
		return ` E'` + strings.ReplaceAll(s, `\`, `\\`) + `'`
	}
	return "'" + s + "'"
}

const selectObject = `SELECT id, phase, type, schema_name, table_name, name, definition, coalesce(index_sql, ''), coalesce(attach_sql, ''), coalesce(error, '')
	FROM pgsluice.deferred `

func scanObject(row pgx.CollectableRow) (o Object, err error) {
	err = row.Scan(&o.ID, &o.Phase, &o.Type, &o.Schema, &o.Table, &o.Name, &o.SQL, &o.Index, &o.Attach, &o.Error)
	return o, err
}

// Pending returns the objects of a phase that have not been created, in order; of one table, or of all if schema is empty.
func Pending(ctx context.Context, c *pgx.Conn, stream int32, phase Phase, schema, table string) ([]Object, error) {
	rows, err := c.Query(ctx, selectObject+`WHERE stream_id = $1 AND phase = $2 AND state <> 'done' AND ($3 = '' OR schema_name = $3 AND table_name = $4) ORDER BY id`,
		stream, string(phase), schema, table)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanObject)
}

// Failed returns the objects that could not be created, with the reasons.
func Failed(ctx context.Context, c *pgx.Conn, stream int32) ([]Object, error) {
	rows, err := c.Query(ctx, selectObject+"WHERE stream_id = $1 AND state = 'failed' ORDER BY id", stream)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanObject)
}

// A TableState is what is known of a table's load.
type TableState struct {
	Status   string // queued, loading, copied, indexing, loaded, error; empty if there is no row
	Snapshot string
	Of       int
	Done     map[int]bool // finished parts

	SourceSchema, SourceName string
}

// Complete reports whether all rows are there.
func (s *TableState) Complete() bool {
	return s.Status == "copied" || s.Status == "indexing" || s.Status == "loaded"
}

// TableStates returns the states of all tables of a stream, by schema and name on the target.
func TableStates(ctx context.Context, c *pgx.Conn, stream int32) (map[[2]string]*TableState, error) {
	m := make(map[[2]string]*TableState)
	rows, err := c.Query(ctx, "SELECT schema_name, table_name, source_schema, source_table, status, coalesce(snapshot, ''), parts FROM pgsluice.tables WHERE stream_id = $1", stream)
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

// Emptied returns the tables, by schema and name on the target, that a crash of the target's server has emptied, because they are unlogged. TableStates
// takes them for queued.
func Emptied(ctx context.Context, c *pgx.Conn, stream int32) ([][2]string, error) {
	rows, err := c.Query(ctx, `SELECT t.schema_name, t.table_name FROM pgsluice.tables t JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema_name
		JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.table_name
		WHERE t.stream_id = $1 AND t.rows > 0 AND c.relpersistence = 'u' AND c.relkind = 'r'`, stream)
	if err != nil {
		return nil, err
	}
	unlogged, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (k [2]string, err error) { err = row.Scan(&k[0], &k[1]); return k, err })
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

// Requeue records that a table is to be loaded anew.
func Requeue(ctx context.Context, c *pgx.Conn, stream int32, schema, table string) error {
	return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM pgsluice.parts WHERE stream_id = $1 AND schema_name = $2 AND table_name = $3", stream, schema, table); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE pgsluice.tables SET status = 'queued', snapshot = NULL, snapshot_lsn = NULL, rows = 0, bytes = 0, copied_at = NULL, loaded_at = NULL
			WHERE stream_id = $1 AND schema_name = $2 AND table_name = $3`, stream, schema, table)
		return err
	})
}

// Forget takes a table that is not complete out of a load.
func Forget(ctx context.Context, c *pgx.Conn, stream int32, schema, table string) error {
	_, err := c.Exec(ctx, "DELETE FROM pgsluice.tables WHERE stream_id = $1 AND schema_name = $2 AND table_name = $3 AND status IN ('queued', 'loading')", stream, schema, table)
	return err
}

// A LoadTable is a table that is to be loaded.
type LoadTable struct {
	Schema, Name             string // on the target
	SourceSchema, SourceName string
}

// QueueTables records tables that are to be loaded.
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

// SetLoadStatus records how far the load of a stream is. The first load's snapshot is where changes begin.
func SetLoadStatus(ctx context.Context, c *pgx.Conn, stream int32, status string, snapshot format.LSN) error {
	_, err := c.Exec(ctx, `UPDATE pgsluice.streams SET load_status = $2, start_lsn = coalesce(start_lsn, $3::pg_catalog.text::pg_catalog.pg_lsn), updated_at = pg_catalog.now() WHERE stream_id = $1`,
		stream, status, snapshot.String())
	return err
}

// SetWhole records that all tables of the source are to be loaded.
func SetWhole(ctx context.Context, c *pgx.Conn, stream int32) error {
	_, err := c.Exec(ctx, "UPDATE pgsluice.streams SET whole = true WHERE stream_id = $1", stream)
	return err
}

// Unfinished returns the tables of a stream whose rows are all there, but not what belongs to them, and those that have not all of their rows.
func Unfinished(ctx context.Context, c *pgx.Conn, stream int32) (copied, missing []LoadTable, err error) {
	rows, err := c.Query(ctx, "SELECT schema_name, table_name, source_schema, source_table, status FROM pgsluice.tables WHERE stream_id = $1 AND status <> 'loaded' ORDER BY 1, 2", stream)
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

// Unbuilt returns the tables of a stream that count as loaded, and have objects that nobody has tried to create.
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

// FinishLoad marks the load of a stream complete and lets changes begin where its first snapshot was taken, unless some have been applied.
// It returns false if there are tables that are not complete.
func FinishLoad(ctx context.Context, c *pgx.Conn, stream int32) (complete bool, err error) {
	err = c.QueryRow(ctx, `UPDATE pgsluice.streams SET load_status = 'loaded', applied_lsn = greatest(applied_lsn, coalesce(start_lsn, '0/0')), updated_at = pg_catalog.now()
		WHERE stream_id = $1 AND NOT EXISTS (SELECT FROM pgsluice.tables WHERE stream_id = $1 AND status <> 'loaded') RETURNING true`, stream).Scan(&complete)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return complete, err
}

// StepBegins records that a step of the cutover begins (again).
func StepBegins(ctx context.Context, c *pgx.Conn, stream int32, step string) error {
	_, err := c.Exec(ctx, `INSERT INTO pgsluice.cutover (stream_id, step) VALUES ($1, $2)
		ON CONFLICT (stream_id, step) DO UPDATE SET started_at = pg_catalog.clock_timestamp(), finished_at = NULL, detail = NULL, result = NULL`, stream, step)
	return err
}

// StepEnds records that a step has ended. It waits for the target's WAL to be flushed, and with it for everything that was committed before.
func StepEnds(ctx context.Context, c *pgx.Conn, stream int32, step, detail string) error {
	return StepEndsWith(ctx, c, stream, step, detail, "")
}

// StepEndsWith is like StepEnds for a step that has a result.
func StepEndsWith(ctx context.Context, c *pgx.Conn, stream int32, step, detail, result string) error {
	if _, err := c.Exec(ctx, "SET synchronous_commit = on"); err != nil {
		return err
	}
	_, err := c.Exec(ctx, "UPDATE pgsluice.cutover SET finished_at = pg_catalog.clock_timestamp(), detail = $3, result = nullif($4, '') WHERE stream_id = $1 AND step = $2", stream, step, detail, result)
	return err
}

// A Step is a row of pgsluice.cutover.
type Step struct {
	Name     string     `json:"step"`
	Started  time.Time  `json:"started_at"`
	Finished *time.Time `json:"finished_at"`
	Detail   string     `json:"detail,omitempty"` // for people
	Result   string     `json:"result,omitempty"` // of verify: equal, differs
}

// Steps returns the steps of a cutover in the order in which they were begun.
func Steps(ctx context.Context, c *pgx.Conn, stream int32) ([]Step, error) {
	rows, err := c.Query(ctx, "SELECT step, started_at, finished_at, coalesce(detail, ''), coalesce(result, '') FROM pgsluice.cutover WHERE stream_id = $1 ORDER BY started_at", stream)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (s Step, err error) {
		err = row.Scan(&s.Name, &s.Started, &s.Finished, &s.Detail, &s.Result)
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
	Rows         int64      `json:"rows"`
	Bytes        int64      `json:"bytes"`
	Started      *time.Time `json:"started_at"`
	Loaded       *time.Time `json:"loaded_at"`
	Inserts      int64      `json:"inserts"`
	Updates      int64      `json:"updates"`
	Deletes      int64      `json:"deletes"`
	Truncates    int64      `json:"truncates"`
	Error        string     `json:"error,omitempty"`
}

// Tables returns what is known of a stream's tables.
func Tables(ctx context.Context, c *pgx.Conn, stream int32) ([]TableInfo, error) {
	rows, err := c.Query(ctx, `SELECT schema_name, table_name, source_schema, source_table, status, parts,
		(SELECT pg_catalog.count(*) FROM pgsluice.parts p WHERE p.stream_id = t.stream_id AND p.schema_name = t.schema_name AND p.table_name = t.table_name),
		rows, bytes, started_at, loaded_at, inserts, updates, deletes, truncates, coalesce(error, '')
		FROM pgsluice.tables t WHERE stream_id = $1 ORDER BY 1, 2`, stream)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t TableInfo, err error) {
		err = row.Scan(&t.Schema, &t.Table, &t.SourceSchema, &t.SourceTable, &t.Status, &t.Parts, &t.PartsDone, &t.Rows, &t.Bytes, &t.Started, &t.Loaded,
			&t.Inserts, &t.Updates, &t.Deletes, &t.Truncates, &t.Error)
		return t, err
	})
}

// RenamedSchemas returns the schemas of a stream's source whose tables are in another schema of the target, all in the same, with that one.
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

// EndStream lets nothing more be applied: a cutover has made the target the primary.
func EndStream(ctx context.Context, c *pgx.Conn, stream int32) error {
	_, err := c.Exec(ctx, "UPDATE pgsluice.streams SET ended_at = coalesce(ended_at, pg_catalog.clock_timestamp()) WHERE stream_id = $1", stream)
	return err
}

// SetObject records what has become of an object.
func SetObject(ctx context.Context, c *pgx.Conn, id int64, state, reason string) error {
	_, err := c.Exec(ctx, "UPDATE pgsluice.deferred SET state = $2, error = nullif($3, ''), finished_at = pg_catalog.clock_timestamp() WHERE id = $1", id, state, reason)
	return err
}
