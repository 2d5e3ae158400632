package progress

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// An Object is a row of pgsluice.deferred.
type Object struct {
	ID     int64 // in creation order
	Phase  Phase
	Type   string
	Schema string
	Table  string
	Name   string
	SQL    string
	Index  string  // creates the index of a constraint
	Attach string  // creates the constraint from that index
	Needs  []int64 // ids of the objects that must exist first
	// Error is why the object could not be created, and Code is the SQLSTATE. Because is the id of
	// the object whose failure is the first cause, or 0 if this object failed on its own.
	Error   string
	Code    string
	Because int64
}

// String names the object for messages.
func (o *Object) String() string {
	s := o.Type + " "
	if o.Schema != "" {
		s += o.Schema + "."
	}
	return s + o.Name
}

// Rest returns the statements that create the object, or the remaining ones if an earlier run
// created its index.
func (o *Object) Rest() string {
	if o.Index == "" && o.Attach != "" {
		return o.Attach
	}
	return o.SQL
}

// A Phase says when an object is created.
type Phase string

// The phases, in order.
const (
	PhaseSchema Phase = "schema" // before rows are copied
	PhaseTable  Phase = "table"  // after the rows of its table are copied
	PhaseLoad   Phase = "load"   // after all rows are copied
	// when the target is opened: objects that would interfere with applying changes
	PhaseCutover Phase = "cutover"
	// when the cutover is finished: objects that would interfere with its other steps
	PhaseFinish Phase = "finish"
)

// ObjectKey identifies an object by type, schema, name and definition.
type ObjectKey [4]string

// Key returns the object's key.
func (o *Object) Key() ObjectKey { return ObjectKey{o.Type, o.Schema, o.Name, o.SQL} }

// Recorded describes a recorded object: its id, and whether it has been created.
type Recorded struct {
	ID   int64
	Done bool
}

// Objects returns all recorded objects by key.
func Objects(ctx context.Context, c *pgx.Conn, stream int32) (map[ObjectKey]Recorded, error) {
	rows, err := c.Query(ctx,
		"SELECT type, schema_name, name, definition, id, state = 'done' FROM pgsluice.deferred WHERE stream_id = $1", stream)
	if err != nil {
		return nil, err
	}
	m := make(map[ObjectKey]Recorded)
	var k ObjectKey
	var r Recorded
	_, err = pgx.ForEachRow(rows, []any{&k[0], &k[1], &k[2], &k[3], &r.ID, &r.Done}, func() error { m[k] = r; return nil })
	return m, err
}

// NewIDs reserves ids for n objects, in ascending order.
func NewIDs(ctx context.Context, c *pgx.Conn, n int) ([]int64, error) {
	rows, err := c.Query(ctx,
		"SELECT pg_catalog.nextval(pg_catalog.pg_get_serial_sequence('pgsluice.deferred', 'id')) FROM pg_catalog.generate_series(1, $1) ORDER BY 1", n)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

// AddObjects records objects with ids from NewIDs.
func AddObjects(ctx context.Context, c *pgx.Conn, stream int32, list []Object, state string) error {
	if len(list) == 0 {
		return nil
	}
	var ids []int64
	cols := make([][]string, 9)
	for _, o := range list {
		ids = append(ids, o.ID)
		for i, s := range []string{string(o.Phase), o.Type, o.Schema, o.Table, o.Name, o.SQL, o.Index, o.Attach, needsText(o.Needs)} {
			cols[i] = append(cols[i], s)
		}
	}
	_, err := c.Exec(ctx, `INSERT INTO pgsluice.deferred (stream_id, id, phase, type, schema_name, table_name, name, definition, index_sql, attach_sql, needs, state, finished_at)
		SELECT $1, id, p, t, s, tn, n, d, nullif(i, ''), nullif(a, ''), w::pg_catalog.int8[], $2, CASE WHEN $2 <> 'deferred' THEN pg_catalog.now() END
		FROM unnest($3::pg_catalog.int8[], $4::pg_catalog.text[], $5::pg_catalog.text[], $6::pg_catalog.text[], $7::pg_catalog.text[], $8::pg_catalog.text[], $9::pg_catalog.text[], $10::pg_catalog.text[], $11::pg_catalog.text[], $12::pg_catalog.text[])
			AS v(id, p, t, s, tn, n, d, i, a, w)`,
		stream, state, ids, cols[0], cols[1], cols[2], cols[3], cols[4], cols[5], cols[6], cols[7], cols[8])
	return err
}

// AddObjectsSQL returns AddObjects as a statement, for a transaction that is sent as one query.
func AddObjectsSQL(stream int32, list []Object, state string) string {
	var b strings.Builder
	b.WriteString(`INSERT INTO pgsluice.deferred (stream_id, id, phase, type, schema_name, table_name, name, definition, index_sql, attach_sql, needs, state, finished_at)
		SELECT s, id, p, t, sn, tn, n, d, nullif(i, ''), nullif(a, ''), w::pg_catalog.int8[], st, CASE WHEN st <> 'deferred' THEN pg_catalog.now() END FROM (VALUES `)
	for i, o := range list {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "(%d, %d", stream, o.ID)
		for _, s := range []string{string(o.Phase), o.Type, o.Schema, o.Table, o.Name, o.SQL, o.Index,
			o.Attach, needsText(o.Needs), state} {
			b.WriteString(", " + Literal(s))
		}
		b.WriteString(")")
	}
	b.WriteString(") AS v(s, id, p, t, sn, tn, n, d, i, a, w, st)")
	return b.String()
}

func needsText(ids []int64) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, id := range ids {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatInt(id, 10))
	}
	b.WriteByte('}')
	return b.String()
}

// FailSQL returns the statement that records why an object could not be created. It also records
// the first cause: a failed object that this one needs, or the cause of that failure.
func FailSQL(id int64, reason error) string {
	code := "NULL"
	var pg *pgconn.PgError
	if errors.As(reason, &pg) {
		code = Literal(pg.Code)
	}
	return fmt.Sprintf(`UPDATE pgsluice.deferred d SET state = 'failed', error = %s, code = %s, finished_at = pg_catalog.clock_timestamp(),
		because = (SELECT coalesce(f.because, f.id) FROM pgsluice.deferred f WHERE f.id = ANY (d.needs) AND f.state = 'failed' ORDER BY f.id LIMIT 1) WHERE d.id = %d`,
		Literal(reasonText(reason)), code, id)
}

// AnyFailedSQL returns the query whether at least one of some objects could not be created.
func AnyFailedSQL(ids []int64) string {
	return "SELECT EXISTS (SELECT FROM pgsluice.deferred WHERE id = ANY ('" + needsText(ids) + "') AND state = 'failed')"
}

// DoneSQL returns the statement that records that objects have been created.
func DoneSQL(ids ...int64) string {
	return "UPDATE pgsluice.deferred SET state = 'done', error = NULL, code = NULL, because = NULL, finished_at = pg_catalog.clock_timestamp() WHERE id = ANY ('" +
		needsText(ids) + "')"
}

// MadeSQL returns the statement that records that a foreign key has been created, and which
// constraint it is, so that it can be found under any name.
func MadeSQL(id int64, constraint string) string {
	return fmt.Sprintf(`UPDATE pgsluice.deferred d SET state = 'done', error = NULL, code = NULL, because = NULL, finished_at = pg_catalog.clock_timestamp(),
		made = (SELECT k.oid FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname = d.schema_name AND c.relname = d.table_name AND k.contype = 'f' AND k.conname = %s) WHERE d.id = %d`, Literal(constraint), id)
}

// RunningSQL returns the statement that records that a foreign key of a partitioned table exists on
// its partitions.
func RunningSQL(id int64) string {
	return fmt.Sprintf("UPDATE pgsluice.deferred SET state = 'running', error = NULL, code = NULL, because = NULL, finished_at = pg_catalog.clock_timestamp() WHERE id = %d", id)
}

// Literal quotes a string for SQL text. The space before an escape string separates its E from the
// preceding text.
func Literal(s string) string {
	s = strings.ReplaceAll(s, "'", "''")
	if strings.Contains(s, `\`) {
		return ` E'` + strings.ReplaceAll(s, `\`, `\\`) + `'`
	}
	return "'" + s + "'"
}

const selectObject = `SELECT id, phase, type, schema_name, table_name, name, definition, coalesce(index_sql, ''), coalesce(attach_sql, ''), needs,
	coalesce(error, ''), coalesce(code, ''), coalesce(because, 0) FROM pgsluice.deferred `

func scanObject(row pgx.CollectableRow) (o Object, err error) {
	err = row.Scan(&o.ID, &o.Phase, &o.Type, &o.Schema, &o.Table, &o.Name, &o.SQL, &o.Index, &o.Attach,
		&o.Needs, &o.Error, &o.Code, &o.Because)
	return o, err
}

// Pending returns the objects of a phase that have not been created, in order. They are those of
// one table, or all of them if schema is empty.
func Pending(ctx context.Context, c *pgx.Conn, stream int32, phase Phase, schema, table string) ([]Object, error) {
	rows, err := c.Query(ctx,
		selectObject+`WHERE stream_id = $1 AND phase = $2 AND state <> 'done' AND ($3 = '' OR schema_name = $3 AND table_name = $4) ORDER BY id`,
		stream, string(phase), schema, table)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanObject)
}

// Failed returns the objects that could not be created, with the reasons, in creation order.
func Failed(ctx context.Context, c *pgx.Conn, stream int32) ([]Object, error) {
	rows, err := c.Query(ctx, selectObject+"WHERE stream_id = $1 AND state = 'failed' ORDER BY id", stream)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanObject)
}

// Settle records that failed objects exist by now.
func Settle(ctx context.Context, c *pgx.Conn, stream int32, ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	_, err := c.Exec(ctx, "UPDATE pgsluice.deferred SET state = 'done', error = NULL, code = NULL, because = NULL, finished_at = pg_catalog.clock_timestamp() WHERE stream_id = $1 AND id = ANY ($2::pg_catalog.int8[])", stream, ids)
	return err
}

// SetObject records the new state of an object. For a failure, use Fail.
func SetObject(ctx context.Context, c *pgx.Conn, id int64, state string) error {
	_, err := c.Exec(ctx, "UPDATE pgsluice.deferred SET state = $2, error = NULL, code = NULL, because = NULL, finished_at = pg_catalog.clock_timestamp() WHERE id = $1", id, state)
	return err
}

// Fail records that an object could not be created.
func Fail(ctx context.Context, c *pgx.Conn, id int64, reason error) error {
	_, err := c.Exec(ctx, FailSQL(id, reason), pgx.QueryExecModeSimpleProtocol)
	return err
}
