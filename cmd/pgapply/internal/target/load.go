package target

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/format"
)

// A Loader writes a full load: the schema, the rows over a session for each part that is open, and a table's indexes as soon as its rows
// are there. Its methods are called by one goroutine, which reads the stream.
type Loader struct {
	Server  pgdial.Server
	Control *pgx.Conn
	Stream  *progress.Stream
	Mapper  *Mapper
	Jobs    int
	Log     *slog.Logger

	ctx     context.Context
	cancel  context.CancelCauseFunc
	guard   *session // keeps continuous sync away from the beginning to the end
	objects map[progress.ObjectKey]bool
	schema  []progress.Object // not yet executed
	later   []progress.Object // not yet recorded
	queued  []progress.LoadTable
	states  map[[2]string]*progress.TableState
	tables  map[uint32]*loadTable
	fresh   []*loadTable // not yet looked up
	parts   map[uint32]*part
	builder *builder
	rows    uint64
	bytes   uint64

	mu      sync.Mutex
	idle    []*session
	copying sync.WaitGroup
	chunks  chan []byte // empty ones
}

// A loadTable is a table that the stream describes.
type loadTable struct {
	rel          *format.Relation
	schema, name string // on the target
	state        *progress.TableState
	once         sync.Once
	err          error // of preparing it
	freeze       bool
	target       *catalog.Relation // nil: it does not exist
}

func (t *loadTable) String() string { return t.schema + "." + t.name }

func (t *loadTable) qualified() string {
	return plan.QuoteIdent(t.schema) + "." + plan.QuoteIdent(t.name)
}

// Start takes the lock and reads what is there already.
func (l *Loader) Start(ctx context.Context) (err error) {
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	l.chunks = make(chan []byte, 4*queuedChunks)
	l.tables, l.parts = make(map[uint32]*loadTable), make(map[uint32]*part)
	if l.guard, err = l.newSession(); err != nil {
		return err
	}
	if l.objects, err = progress.Objects(ctx, l.Control, l.Stream.ID); err != nil {
		return l.Server.Explain(err)
	}
	if l.states, err = progress.TableStates(ctx, l.Control, l.Stream.ID); err != nil {
		return l.Server.Explain(err)
	}
	l.builder, err = newBuilder(l.ctx, l)
	return err
}

func (l *Loader) newSession() (*session, error) {
	return newSession(l.ctx, l.Server, l.Control, l.Stream, progress.Loading)
}

// fail stops everything that is under way.
func (l *Loader) fail(err error) {
	l.cancel(err)
}

// failure returns why everything was stopped, nil if it was not.
func (l *Loader) failure() error {
	if l.ctx.Err() == nil {
		return nil
	}
	return context.Cause(l.ctx)
}

// Close ends the sessions; what is not committed is rolled back.
func (l *Loader) Close() {
	l.cancel(errors.New("closed"))
	for _, p := range l.parts {
		close(p.chunks)
	}
	l.copying.Wait()
	l.builder.close()
	for _, s := range append(l.idle, l.guard) {
		s.close()
	}
}

// phaseOf says when a post-data object is created.
func phaseOf(d *format.DDL, tables map[[2]string]bool) progress.Phase {
	switch d.Type {
	case "FK CONSTRAINT", "TRIGGER":
		return progress.PhaseCutover
	case "INDEX", "CONSTRAINT", "CHECK CONSTRAINT", "STATISTICS":
		if d.Table != "" && tables[[2]string{d.Schema, d.Table}] {
			return progress.PhaseTable
		}
	}
	return progress.PhaseLoad
}

// DDL takes an object of the schema.
func (l *Loader) DDL(d *format.DDL) error {
	o := progress.Object{Type: d.Type, Schema: d.Schema, Table: d.Table, Name: d.Name, SQL: d.SQL, Index: d.Index, Attach: d.Attach, Phase: progress.PhaseSchema}
	if _, recorded := l.objects[o.Key()]; recorded {
		return nil
	}
	if d.Section == format.PreData {
		l.schema = append(l.schema, o)
		const batch = 200
		if len(l.schema) >= batch {
			return l.flushSchema()
		}
		return nil
	}
	o.Phase = "" // its table may be one without rows of its own, which only the relations tell
	l.later = append(l.later, o)
	return nil
}

// flushSchema executes objects of the pre-data section: all in one transaction if they let themselves, else one by one.
func (l *Loader) flushSchema() error {
	list := l.schema
	l.schema = nil
	if len(list) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("BEGIN;\n")
	for _, o := range list {
		b.WriteString(o.SQL + "\n;")
	}
	b.WriteString("COMMIT")
	err := l.guard.conn.Exec(l.ctx, b.String())
	if err == nil {
		return l.Server.Explain(progress.AddObjects(l.ctx, l.Control, l.Stream.ID, list, "done"))
	}
	if pgdial.Lost(err) || l.ctx.Err() != nil {
		return l.Server.Explain(err)
	}
	if err := l.guard.exec(l.ctx, "ROLLBACK"); err != nil {
		return err
	}
	for _, o := range list {
		state := "done"
		if err := l.guard.conn.Exec(l.ctx, o.SQL); err != nil {
			if err := l.refusedObject(&o, err); err != nil {
				return err
			}
			state = "failed"
		}
		if err := progress.AddObjects(l.ctx, l.Control, l.Stream.ID, []progress.Object{o}, state); err != nil {
			return l.Server.Explain(err)
		}
	}
	return nil
}

// needed has the kinds of objects without which rows would be lost.
var needed = map[string]bool{"SCHEMA": true, "TYPE": true, "SHELL TYPE": true, "DOMAIN": true, "TABLE": true, "TABLE ATTACH": true, "SEQUENCE": true}

// refusedObject decides what becomes of the load when an object cannot be created. The reason is recorded with it.
func (l *Loader) refusedObject(o *progress.Object, err error) error {
	o.Error = err.Error()
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return l.Server.Explain(err)
	}
	if needed[o.Type] {
		e := fault.New(fault.Failed, "could not create %v on the target: %w", o, err)
		if pg.Code == "42P07" || pg.Code == "42710" || pg.Code == "42P06" || pg.Code == "42723" {
			return e.WithHint("The target is not empty. Use an empty database, or create the whole schema by hand and load with pgextract --data-only.")
		}
		return withServer(e, err)
	}
	return nil
}

// Relation takes the description of a table whose rows follow.
func (l *Loader) Relation(rel *format.Relation) error {
	t := &loadTable{rel: rel}
	t.schema, t.name = l.Mapper.Target(rel.Schema, rel.Name)
	l.tables[rel.ID] = t
	l.fresh = append(l.fresh, t)
	if t.state = l.states[[2]string{t.schema, t.name}]; t.state == nil {
		t.state = &progress.TableState{Status: "queued", Done: make(map[int]bool)}
		l.states[[2]string{t.schema, t.name}] = t.state
		l.queued = append(l.queued, progress.LoadTable{Schema: t.schema, Name: t.name, SourceSchema: rel.Schema, SourceName: rel.Name})
	}
	return nil
}

// flush executes and records what has been collected: rows come now.
func (l *Loader) flush() error {
	if err := l.flushSchema(); err != nil {
		return err
	}
	if len(l.later) > 0 {
		tables := make(map[[2]string]bool)
		for _, t := range l.tables {
			tables[[2]string{t.rel.Schema, t.rel.Name}] = true
		}
		for i := range l.later {
			o := &l.later[i]
			o.Phase = phaseOf(&format.DDL{Type: o.Type, Schema: o.Schema, Table: o.Table}, tables)
		}
		if err := progress.AddObjects(l.ctx, l.Control, l.Stream.ID, l.later, "deferred"); err != nil {
			return l.Server.Explain(err)
		}
		l.later = nil
	}
	if len(l.queued) > 0 {
		if err := progress.QueueTables(l.ctx, l.Control, l.Stream.ID, l.queued); err != nil {
			return l.Server.Explain(err)
		}
		l.queued = nil
	}
	return l.inspect()
}

// inspect looks up, all at once, the tables that were described since the last time.
func (l *Loader) inspect() error {
	if len(l.fresh) == 0 {
		return nil
	}
	names := make([][2]string, len(l.fresh))
	for i, t := range l.fresh {
		names[i] = [2]string{t.schema, t.name}
	}
	found, err := catalog.LookupAll(l.ctx, l.Control, names)
	if err != nil {
		return l.Server.Explain(err)
	}
	for _, t := range l.fresh {
		t.target = found[[2]string{t.schema, t.name}]
		if s := t.state; s.Complete() && s.Status != "loaded" {
			s.Status = "loaded" // an earlier run had all its rows, and ended before that
			l.builder.table(t)
		}
	}
	l.fresh = nil
	return nil
}

// fits checks that a part can be copied into the table that is there.
func (t *loadTable) fits(p *part) error {
	if t.target == nil {
		return fault.New(fault.Config, "table %q does not exist on the target", t.String()).
			WithHint("Create the schema on the target first: pg_dump -s of the source, piped into psql; or load without --data-only.")
	}
	for _, name := range p.Columns {
		i := slices.IndexFunc(t.target.Columns, func(c catalog.Column) bool { return c.Name == name })
		j := slices.IndexFunc(t.rel.Columns, func(c format.Column) bool { return c.Name == name })
		switch {
		case i < 0:
			return fault.New(fault.Config, "column %q of table %q does not exist on the target", name, t.String()).
				WithHint("On the target: ALTER TABLE %s ADD COLUMN %s …; then start again.", t.qualified(), plan.QuoteIdent(name))
		case t.target.Columns[i].Generated:
			return fault.New(fault.Config, "column %q of table %q is generated on the target, but not on the source", name, t.String())
		case p.Format == format.CopyBinary && j >= 0 && t.rel.Columns[j].OID != t.target.Columns[i].OID:
			return fault.New(fault.Config, "column %q of table %q is of type %s on the target and %s on the source: binary data does not fit", name, t.String(),
				t.target.Columns[i].Type, t.rel.Columns[j].Type).WithHint("Extract with --format text.")
		}
	}
	return nil
}

// A part is a part of a table that is being copied, by a goroutine of its own.
type part struct {
	*format.CopyBegin
	table  *loadTable
	skip   bool        // it is on the target already
	chunks chan []byte // each with room for pgwire's head in front
	end    *format.CopyEnd
}

// queuedChunks is how many chunks may wait for a session: enough to ride out its pauses, and little memory.
const queuedChunks = 4

// CopyBegin opens a part.
func (l *Loader) CopyBegin(r *format.CopyBegin) error {
	if err := l.flush(); err != nil {
		return err
	}
	if err := l.failure(); err != nil {
		return err
	}
	t := l.tables[r.Relation]
	p := &part{CopyBegin: r, table: t, chunks: make(chan []byte, queuedChunks)}
	l.parts[r.Part] = p
	s := t.state
	p.skip = s.Complete() || s.Snapshot == r.SnapshotLSN && s.Of == int(r.Of) && s.Done[int(r.Index)]
	if p.skip {
		return nil
	}
	l.copying.Add(1)
	go func() {
		defer l.copying.Done()
		if err := l.copyPart(p); err != nil {
			l.fail(err)
			for range p.chunks { // whoever sends must not be blocked for ever
			}
		}
	}()
	return nil
}

// CopyData hands a chunk to the part's goroutine.
func (l *Loader) CopyData(r *format.CopyData) error {
	p := l.parts[r.Part]
	if p.skip {
		return nil
	}
	var b []byte
	select {
	case b = <-l.chunks:
	default:
	}
	b = append(append(b[:0], make([]byte, pgwire.CopyHead)...), r.Data...)
	select {
	case p.chunks <- b:
		return nil
	case <-l.ctx.Done():
		return l.failure()
	}
}

// CopyEnd closes a part.
func (l *Loader) CopyEnd(r *format.CopyEnd) error {
	p := l.parts[r.Part]
	delete(l.parts, r.Part)
	end := *r
	p.end = &end
	close(p.chunks)
	if !p.skip {
		l.rows += r.Rows
		l.bytes += r.Bytes
	}
	return l.failure()
}

func (l *Loader) acquire() (*session, error) {
	l.mu.Lock()
	if n := len(l.idle); n > 0 {
		s := l.idle[n-1]
		l.idle = l.idle[:n-1]
		l.mu.Unlock()
		return s, nil
	}
	l.mu.Unlock()
	return newSession(l.ctx, l.Server, nil, l.Stream, progress.Loading)
}

func (l *Loader) release(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.idle = append(l.idle, s)
}

// copyPart copies a part in one transaction, together with the row that says so.
func (l *Loader) copyPart(p *part) (err error) {
	s, err := l.acquire()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.close()
			err = fmt.Errorf("load %v: %w", p.table, err)
		}
	}()
	t := p.table
	t.once.Do(func() { t.err = l.prepare(s, p) })
	if t.err != nil {
		return t.err
	}
	cols := make([]string, len(p.Columns))
	for i, c := range p.Columns {
		cols[i] = plan.QuoteIdent(c)
	}
	sql := "COPY " + t.qualified()
	if len(cols) > 0 {
		sql += " (" + strings.Join(cols, ", ") + ")"
	}
	sql += " FROM STDIN"
	var options []string
	begin := "BEGIN"
	if p.Format == format.CopyBinary {
		options = append(options, "FORMAT binary")
	}
	if t.freeze {
		// Rows that are written frozen need no vacuum later. The server allows it for a table that this transaction has emptied.
		begin += "; TRUNCATE ONLY " + t.qualified()
		options = append(options, "FREEZE")
	}
	if len(options) > 0 {
		sql += " WITH (" + strings.Join(options, ", ") + ")"
	}
	if err := s.exec(l.ctx, begin); err != nil {
		return err
	}
	if err := s.conn.StartCopyIn(l.ctx, sql); err != nil {
		return l.Server.Explain(err)
	}
	for b := range p.chunks {
		if err := s.conn.WriteCopy(l.ctx, b); err != nil {
			return l.Server.Explain(err)
		}
		if cap(b) < 4<<20 { // one huge row must not stay in memory
			select {
			case l.chunks <- b:
			default:
			}
		}
	}
	if p.end == nil {
		return errors.New("the part was not completed")
	}
	n, err := s.conn.EndCopy(l.ctx, "")
	if err != nil {
		return l.Server.Explain(err)
	}
	if uint64(n) != p.end.Rows {
		return fmt.Errorf("the target took %d rows of %d", n, p.end.Rows)
	}
	copied, err := l.finishPart(s, p)
	if err != nil {
		return err
	}
	l.release(s)
	if copied {
		l.builder.table(t)
	}
	return nil
}

// finishPart records and commits a part, and reports whether it was the table's last one.
func (l *Loader) finishPart(s *session, p *part) (copied bool, err error) {
	t := p.table
	where := fmt.Sprintf("stream_id = %d AND schema_name = %s AND table_name = %s", l.Stream.ID, literal(t.schema), literal(t.name))
	b := s.conn.Batch(l.ctx)
	b.Do(fmt.Sprintf("INSERT INTO pgsluice.parts (stream_id, schema_name, table_name, part, of, snapshot_lsn, rows, bytes) VALUES (%d, %s, %s, %d, %d, '%v', %d, %d)",
		l.Stream.ID, literal(t.schema), literal(t.name), p.Index, p.Of, p.SnapshotLSN, p.end.Rows, p.end.Bytes))
	// Parts that end at the same time must see each other, or none would see that the table is complete.
	b.Do("SELECT FROM pgsluice.tables WHERE " + where + " FOR UPDATE")
	b.Do(fmt.Sprintf(`UPDATE pgsluice.tables SET rows = rows + %d, bytes = bytes + %d,
		status = CASE WHEN (SELECT count(*) FROM pgsluice.parts WHERE %s) = parts THEN 'copied' ELSE status END,
		copied_at = CASE WHEN (SELECT count(*) FROM pgsluice.parts WHERE %s) = parts THEN clock_timestamp() END
		WHERE %s RETURNING status`, p.end.Rows, p.end.Bytes, where, where, where))
	b.Do("COMMIT")
	r, err := b.Run()
	if err == nil {
		err = r.Err
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "23505" {
		return false, fault.New(fault.TryAgain, "another process has loaded the same part meanwhile").WithHint("Start again: what is there is skipped.")
	}
	if err != nil {
		return false, l.Server.Explain(err)
	}
	return len(r.Row) == 1 && r.Row[0] == "copied", nil
}

// prepare makes a table ready for its first part in this run.
func (l *Loader) prepare(s *session, p *part) error {
	t := p.table
	if err := t.fits(p); err != nil {
		return err
	}
	where := fmt.Sprintf("stream_id = %d AND schema_name = %s AND table_name = %s", l.Stream.ID, literal(t.schema), literal(t.name))
	set := fmt.Sprintf("UPDATE pgsluice.tables SET status = 'loading', snapshot_lsn = '%v', parts = %d, started_at = coalesce(started_at, clock_timestamp()), error = NULL WHERE %s",
		p.SnapshotLSN, p.Of, where)
	again := len(t.state.Done) > 0 && t.state.Snapshot == p.SnapshotLSN && t.state.Of == int(p.Of)
	switch {
	case again: // the rest of a table that a load before has begun
		return s.exec(l.ctx, set)
	case len(t.state.Done) > 0: // begun, but from another snapshot: the parts do not fit together
		return s.exec(l.ctx, fmt.Sprintf("BEGIN; TRUNCATE ONLY %s; DELETE FROM pgsluice.parts WHERE %s; UPDATE pgsluice.tables SET rows = 0, bytes = 0 WHERE %s; %s; COMMIT",
			t.qualified(), where, where, set))
	}
	row, err := s.ask(l.ctx, "SELECT EXISTS (SELECT FROM ONLY "+t.qualified()+")")
	if err != nil {
		return err
	}
	if row[0] == "t" {
		return fault.New(fault.Config, "table %q on the target has rows already", t.String()).
			WithHint("Empty it (TRUNCATE %s on the target), or leave it out.", t.qualified())
	}
	t.freeze = p.Of == 1 && p.Bytes >= freezeMin && t.target.Kind == "r"
	return s.exec(l.ctx, set)
}

// freezeMin is from which size on freezing rows is worth a truncate.
const freezeMin = 1 << 20

// Sequence sets a sequence's state.
func (l *Loader) Sequence(r *format.Sequence) error {
	if err := l.flush(); err != nil {
		return err
	}
	schema, name := l.Mapper.Target(r.Schema, r.Name)
	return SetSequence(l.ctx, l.Control, l.Server, schema, name, r.LastValue, r.IsCalled)
}

// SetSequence sets the state of a sequence of the target.
func SetSequence(ctx context.Context, c *pgx.Conn, server pgdial.Server, schema, name string, last int64, called bool) error {
	_, err := c.Exec(ctx, "SELECT pg_catalog.setval($1::text::regclass, $2, $3)", plan.QuoteIdent(schema)+"."+plan.QuoteIdent(name), last, called)
	if err == nil {
		return nil
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "22003" {
		return fault.New(fault.Failed, "sequence %s.%s cannot take the source's value %d: %w", schema, name, last, err).
			WithHint("The sequence of the target is of a smaller type or range: ALTER SEQUENCE … AS bigint, or MAXVALUE …")
	}
	return server.Explain(fmt.Errorf("set sequence %s.%s: %w", schema, name, err))
}

// Finish waits for everything that is under way, creates what belongs to no table, and marks the load complete. It reports whether it is.
func (l *Loader) Finish() (complete bool, err error) {
	if err := l.flush(); err != nil {
		return false, err
	}
	l.copying.Wait()
	if err := l.failure(); err != nil {
		return false, err
	}
	if err := l.builder.finish(); err != nil {
		return false, err
	}
	complete, err = progress.FinishLoad(l.ctx, l.Control, l.Stream.ID)
	return complete, l.Server.Explain(err)
}

// Loaded returns how many rows and bytes were copied.
func (l *Loader) Loaded() (rows, bytes uint64) { return l.rows, l.bytes }

func literal(s string) string {
	s = strings.ReplaceAll(s, "'", "''")
	if strings.Contains(s, `\`) {
		return ` E'` + strings.ReplaceAll(s, `\`, `\\`) + `'`
	}
	return "'" + s + "'"
}
