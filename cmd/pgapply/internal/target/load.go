package target

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/semaphore"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/meter"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
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
	Meter   *meter.Meter
	Waits   *waiting.Watch
	// Snapshot identifies what the rows of this load were read with, and SnapshotLSN is where that was, unless a part says otherwise.
	Snapshot    string
	SnapshotLSN format.LSN
	// Reload empties the tables of this load that have been loaded before.
	Reload bool
	// Whole says that the stream describes all tables of the source that are wanted, and Objects, that it brings the large objects if there are any.
	Whole, Objects bool
	// ByHand says that the schema was created by hand: what stands in the way is taken off and recorded.
	ByHand bool
	// RebuildIndexes takes off indexes, too, and builds them when the rows are there.
	RebuildIndexes bool
	// Constraints has what is otherwise left for the cutover created at the end of the load.
	Constraints bool

	ctx          context.Context
	cancel       context.CancelCauseFunc
	guard        *session // keeps continuous sync away from the beginning to the end
	objects      map[progress.ObjectKey]progress.Recorded
	rowOf        map[uint64]int64 // objects of the stream, by their ids there → their ids in pgsluice.deferred
	idMu         sync.Mutex
	ids          []int64             // reserved for objects
	before       map[int64]bool      // objects that could not be created by an earlier run
	whyLost      map[[2]string]error // why tables could not be created
	lost         []int64             // objects without which rows are lost, that could not be created
	held         []*format.DDL       // until all have come
	schema       []progress.Object   // not yet executed
	later        []deferredObject    // not yet recorded
	schemaLocked bool
	schemaLock   progress.Lock
	tablespaces  map[string]bool // whether the target has them
	queued       []progress.LoadTable
	states       map[[2]string]*progress.TableState
	tables       map[uint32]*loadTable
	targets      map[[2]string]uint32 // which relation goes to a table of the target
	fresh        []*loadTable         // not yet looked up
	trees        map[[2]string]*tree  // by the names of their partitions
	sequences    []*format.Sequence   // not yet there
	fingerprints []progress.Fingerprint
	parts        map[uint32]*part
	lobs         *largeObjects
	builder      *builder
	rows         uint64
	bytes        uint64

	mu      sync.Mutex
	refused []*loadTable // that the load goes on without
	idle    []*session
	copies  copies
	copying sync.WaitGroup
	ended   chan struct{}       // one for each part that has come to its end in the stream, but is not yet committed
	chunks  chan []byte         // empty ones
	room    *semaphore.Weighted // of maxQueued
}

// A loadTable is a table that the stream describes.
type loadTable struct {
	rel          *format.Relation
	schema, name string // on the target
	state        *progress.TableState
	once         sync.Once
	err          error // of preparing it
	tree         *tree // that it is a partition of, if rows go through the root
	refused      error // why the load goes on without it
	freeze       bool
	target       *catalog.Relation // nil: it does not exist
}

func (t *loadTable) String() string { return t.schema + "." + t.name }

func (t *loadTable) names() progress.LoadTable {
	return progress.LoadTable{Schema: t.schema, Name: t.name, SourceSchema: t.rel.Schema, SourceName: t.rel.Name}
}

func (t *loadTable) qualified() string {
	return plan.QuoteIdent(t.schema) + "." + plan.QuoteIdent(t.name)
}

// Start takes the lock and reads what is there already.
func (l *Loader) Start(ctx context.Context) (err error) {
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	l.chunks = make(chan []byte, 4*queuedChunks)
	l.room = semaphore.NewWeighted(maxQueued)
	l.ended = make(chan struct{}, 4)
	l.whyLost = make(map[[2]string]error)
	l.tablespaces, l.rowOf = make(map[string]bool), make(map[uint64]int64)
	l.tables, l.parts, l.targets = make(map[uint32]*loadTable), make(map[uint32]*part), make(map[[2]string]uint32)
	if l.guard, err = l.newSession(); err != nil {
		return err
	}
	if l.Constraints && l.Stream.Key.Slot != "" && !l.guard.replica {
		return fault.New(fault.Config, "foreign keys and triggers cannot be created before the cutover: the role may not switch them off while changes are applied").
			WithHint("Leave out --constraints now, or as superuser on the target: GRANT SET ON PARAMETER session_replication_role TO … (PostgreSQL 15 and newer).")
	}
	// Only now nobody moves the position any more.
	stream, err := progress.Open(ctx, l.Control, l.Stream.Key)
	if err != nil {
		return l.Server.Explain(err)
	}
	*l.Stream = *stream
	lost, err := progress.Emptied(ctx, l.Control, l.Stream.ID)
	if err != nil {
		return l.Server.Explain(err)
	}
	for _, t := range lost {
		l.Log.Warn(fmt.Sprintf("unlogged table %s.%s has lost its rows, as it does when its server crashes", t[0], t[1]), "hint", "It is loaded again where the stream has it: pgextract --resume.")
		if err := progress.Requeue(ctx, l.Control, l.Stream.ID, t[0], t[1]); err != nil {
			return l.Server.Explain(err)
		}
	}
	if l.states, err = progress.TableStates(ctx, l.Control, l.Stream.ID); err != nil {
		return l.Server.Explain(err)
	}
	go l.beat()
	l.builder, err = newBuilder(l.ctx, l)
	return err
}

func (l *Loader) newSession() (*session, error) {
	return newSession(l.ctx, l.Server, l.Log, l.Stream, progress.Loading)
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

// Because returns what stopped everything, if err is only a consequence of that.
func (l *Loader) Because(err error) error {
	if cause := l.failure(); cause != nil && errors.Is(err, context.Canceled) {
		return cause
	}
	return err
}

// Close ends the sessions; what is not committed is rolled back.
func (l *Loader) Close() {
	l.cancel(errors.New("closed"))
	for _, p := range l.parts {
		close(p.chunks)
	}
	l.lobs.close()
	l.copying.Wait()
	l.builder.close()
	for _, s := range append(l.idle, l.guard) {
		s.close()
	}
}

// Relation takes the description of a table whose rows follow.
func (l *Loader) Relation(rel *format.Relation) error {
	t := &loadTable{rel: rel}
	t.schema, t.name = l.Mapper.Target(rel.Schema, rel.Name)
	if err := l.place(t); err != nil {
		return err
	}
	l.tables[rel.ID] = t
	l.fresh = append(l.fresh, t)
	if t.state = l.states[[2]string{t.schema, t.name}]; t.state == nil {
		t.state = &progress.TableState{Status: "queued", Done: make(map[int]bool)}
		l.states[[2]string{t.schema, t.name}] = t.state
		l.queued = append(l.queued, progress.LoadTable{Schema: t.schema, Name: t.name, SourceSchema: rel.Schema, SourceName: rel.Name})
	}
	return nil
}

// place checks that a table may go where it goes, and that no other does.
func (l *Loader) place(t *loadTable) error {
	if err := Writable(t.rel.Kind(), t.rel.Schema, t.rel.Name); err != nil {
		return err
	}
	if reserved(t.schema) {
		return fault.New(fault.Config, "table %s.%s of the source cannot go to schema %s of the target", t.rel.Schema, t.rel.Name, t.schema).WithHint("Correct --rename.")
	}
	key := [2]string{t.schema, t.name}
	if other, ok := l.targets[key]; ok && other != t.rel.ID {
		if len(l.Mapper.Rename) > 0 {
			return fault.New(fault.Config, "two tables of the source go to %q on the target", t.String()).WithHint("Correct --rename.")
		}
		return fault.New(fault.Data, "the stream describes table %q twice, as relation %d and as %d", t.String(), other, t.rel.ID)
	}
	l.targets[key] = t.rel.ID
	return nil
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
	if err := l.findTrees(); err != nil {
		return err
	}
	for _, t := range l.fresh {
		t.target, t.tree = found[[2]string{t.schema, t.name}], l.trees[[2]string{t.schema, t.name}]
		if s := t.state; s.Complete() && s.Status != "loaded" && !l.Reload && t.tree == nil {
			l.builder.table(t.names(), false) // an earlier run had all its rows, and ended before that
		}
	}
	fresh := l.fresh
	l.fresh = nil
	if !l.ByHand {
		var there []uint32
		for _, t := range fresh {
			if t.target == nil { // the statement that creates it may come later
				l.fresh = append(l.fresh, t)
			} else {
				there = append(there, t.target.OID)
			}
		}
		if err := l.hold(there, true); err != nil {
			return err
		}
		return l.takeOffChecks(fresh)
	}
	if !l.schemaLocked {
		if err := l.lockSchema(); err != nil {
			return err
		}
	}
	if err := l.takeOff(fresh); err != nil {
		return err
	}
	return l.takeOffChecks(fresh)
}

// fits checks that a part can be copied into the table that is there.
func (t *loadTable) fits(p *part, byHand bool) error {
	switch {
	case t.target != nil:
	case byHand:
		return fault.New(fault.Config, "table %q does not exist on the target", t.String()).
			WithHint("Create the schema on the target first: pg_dump -s of the source, piped into psql; or load without --data-only.")
	default:
		return fault.New(fault.Config, "table %q does not exist on the target any more, where a load has created it", t.String()).
			WithHint("Create it again: pg_dump -s -t %s of the source, piped into psql on the target. Then start again.", shellPattern(t.rel))
	}
	for _, name := range p.Columns {
		i := slices.IndexFunc(t.target.Columns, func(c catalog.Column) bool { return c.Name == name })
		j := slices.IndexFunc(t.rel.Columns, func(c format.Column) bool { return c.Name == name })
		switch {
		case i < 0:
			return fault.New(fault.Config, "column %q of table %q does not exist on the target", name, t.String()).
				WithHint("On the target: ALTER TABLE %s ADD COLUMN %s …; then start again.", text.Ident(t.schema, t.name), text.Ident(name))
		case t.target.Columns[i].Generated:
			return fault.New(fault.Config, "column %q of table %q is generated on the target, but not on the source", name, t.String())
		case p.Format == format.CopyBinary && j >= 0 && otherType(t.rel.Columns[j].OID, t.target.Columns[i].OID):
			return fault.New(fault.Config, "column %q of table %q is of type %s on the target and %s on the source: binary data does not fit", name, t.String(),
				t.target.Columns[i].Type, t.rel.Columns[j].Type).WithHint("Extract with --format text.")
		}
	}
	return nil
}

// otherType reports whether binary data of a type of the source cannot be of the target's. A user's type has another OID there; whether it
// fits, the server finds out.
func otherType(source, target uint32) bool {
	const firstUser = 16384
	return source != 0 && source != target && (source < firstUser || target < firstUser)
}

// A part is a part of a table that is being copied, by a goroutine of its own.
type part struct {
	*format.CopyBegin
	table  *loadTable
	meter  *meter.Part
	skip   bool // it is on the target already
	chunks chan chunk
	end    *format.CopyEnd
	far    onTheWay
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
	if r.SnapshotLSN == 0 {
		r.SnapshotLSN = l.SnapshotLSN
	}
	if len(r.Columns) == 0 {
		for _, c := range t.rel.Columns {
			if !c.Generated {
				r.Columns = append(r.Columns, c.Name)
			}
		}
	}
	p := &part{CopyBegin: r, table: t, chunks: make(chan chunk, queuedChunks)}
	l.parts[r.Part] = p
	s := t.state
	same := s.Snapshot == l.Snapshot
	p.skip = (s.Complete() && (same || !l.Reload) || same && s.Of == int(r.Of) && s.Done[int(r.Index)]) && !t.tree.anew(l) || l.isRefused(t)
	p.meter = l.Meter.Part(t.String(), r.Bytes)
	if p.skip {
		p.meter.Done()
		return nil
	}
	if err := l.past(r.SnapshotLSN); err != nil {
		return err
	}
	l.begins(p)
	l.copying.Add(1)
	go func() {
		defer l.copying.Done()
		err := l.copyPart(p)
		l.ends(p)
		if errors.Is(err, errIncomplete) {
			return
		}
		if err != nil {
			if !l.without(t, err) {
				l.fail(err)
			}
			for c := range p.chunks { // whoever sends must not be blocked for ever
				l.drop(c)
			}
		}
		select {
		case <-l.ended:
		case <-l.ctx.Done():
		}
	}()
	return nil
}

// past returns an error if the target is past a snapshot: the changes in between would never come again.
func (l *Loader) past(lsn format.LSN) error {
	if l.Stream.Key.Slot == "" || l.Stream.Applied <= lsn {
		return nil
	}
	return fault.New(fault.Config, "the snapshot of this load was taken at LSN %v, and changes up to LSN %v have been applied already", lsn, l.Stream.Applied).
		WithHint("Stop continuous sync first, then load: pgextract --slot %s … | pgapply", l.Stream.Key.Slot)
}

// CopyData hands a chunk to the part's goroutine.
func (l *Loader) CopyData(r *format.CopyData) error {
	p := l.parts[r.Part]
	if p.skip {
		return nil
	}
	p.meter.Add(r.Rows, uint64(len(r.Data)))
	p.far.rows.Add(r.Rows)
	p.far.bytes.Add(uint64(len(r.Data)))
	if len(r.Data) >= lentChunk {
		return l.lend(p, r.Data)
	}
	if err := l.room.Acquire(l.ctx, int64(len(r.Data))); err != nil {
		return l.failure()
	}
	var b []byte
	select {
	case b = <-l.chunks:
	default:
	}
	b = append(append(b[:0], make([]byte, pgwire.CopyHead)...), r.Data...)
	select {
	case p.chunks <- chunk{b: b}:
		return nil
	case <-l.ctx.Done():
		return l.failure()
	}
}

// A chunk is on its way to a part's goroutine.
type chunk struct {
	b    []byte        // with room for pgwire's head in front, unless it is lent
	lent chan struct{} // if it is not a copy: closed when it is not needed any more
}

const (
	// lentChunk is from which size on a chunk, which is a huge row then, is not copied.
	lentChunk = 4 << 20
	// maxQueued bounds the chunks of all parts that wait for their sessions.
	maxQueued = 16 << 20
	// chunkKept is how large a chunk's memory may be to be used again.
	chunkKept = 1 << 20
)

// lend hands a chunk over as it is, and waits until it is written. So there is one of them at a
// time.
func (l *Loader) lend(p *part, data []byte) error {
	c := chunk{b: data, lent: make(chan struct{})}
	select {
	case p.chunks <- c:
		<-c.lent
		return l.failure()
	case <-l.ctx.Done():
		return l.failure()
	}
}

// write writes a chunk.
func (l *Loader) write(s *session, c chunk) error {
	if c.lent != nil {
		defer close(c.lent)
		return l.Server.Explain(s.conn.WriteCopyPieces(l.ctx, c.b))
	}
	defer l.room.Release(int64(len(c.b) - pgwire.CopyHead))
	if err := s.conn.WriteCopy(l.ctx, c.b); err != nil {
		return l.Server.Explain(err)
	}
	if cap(c.b) < chunkKept {
		select {
		case l.chunks <- c.b:
		default:
		}
	}
	return nil
}

// drop gives a chunk up that cannot be written any more.
func (l *Loader) drop(c chunk) {
	if c.lent != nil {
		close(c.lent)
		return
	}
	l.room.Release(int64(len(c.b) - pgwire.CopyHead))
}

// CopyEnd closes a part.
func (l *Loader) CopyEnd(r *format.CopyEnd) error {
	p := l.parts[r.Part]
	delete(l.parts, r.Part)
	end := *r
	p.end = &end
	close(p.chunks)
	if !p.skip {
		// Small tables can come faster than they are committed; each has a session.
		select {
		case l.ended <- struct{}{}:
		case <-l.ctx.Done():
		}
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
	return newSession(l.ctx, l.Server, l.Log, l.Stream, progress.Loading)
}

func (l *Loader) release(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.idle = append(l.idle, s)
}

// Finish waits for everything that is under way, creates what belongs to no table, and marks the load complete. It reports whether it is.
func (l *Loader) Finish() (complete bool, err error) {
	if err := l.flush(); err != nil {
		return false, err
	}
	l.lobs.end()
	l.copying.Wait()
	if err := l.failure(); err != nil {
		return false, err
	}
	for _, r := range l.sequences {
		err := l.setSequence(r)
		if noRelation(err) && len(l.lost) > 0 { // it is one of those that could not be created, and failed with its table
			continue
		}
		if err != nil {
			return false, err
		}
	}
	if err := l.forget(); err != nil {
		return false, err
	}
	for old, to := range l.Mapper.Rename {
		used := false
		for _, t := range l.tables {
			used = used || old == t.rel.Schema || old == t.rel.Schema+"."+t.rel.Name
		}
		if !used {
			l.Log.Warn(fmt.Sprintf("--rename %s=%s: no table of this load is, or is in, %q", old, to, old), "hint", "Names stand there as they are, without quotes.")
		}
	}
	if complete, err = l.builder.finish(); err != nil || !complete {
		return complete, err
	}
	return true, l.fingerprintTarget()
}

// forget takes out of the load what an earlier run was to bring, and the source has no more: else it would never be complete.
func (l *Loader) forget() error {
	if !l.Whole {
		return nil
	}
	described := make(map[[2]string]bool)
	for _, t := range l.tables {
		described[[2]string{t.schema, t.name}] = true
	}
	for k, s := range l.states {
		if s.Complete() || described[k] || k == lobTable && (!l.Objects || l.lobs != nil) {
			continue
		}
		if k != lobTable {
			l.Log.Warn(fmt.Sprintf("table %s.%s, of an earlier run, is no longer on the source, or no longer wanted; it is left out", k[0], k[1]),
				"hint", "On the target: DROP TABLE "+text.Ident(k[0], k[1]))
		}
		if err := progress.Forget(l.ctx, l.Control, l.Stream.ID, k[0], k[1]); err != nil {
			return l.Server.Explain(err)
		}
	}
	return nil
}

// Missing returns the tables that the stream describes, and that have not all of their rows when Finish says that the load is not complete.
func (l *Loader) Missing() (names []string) {
	for _, t := range l.builder.missing {
		if _, ok := l.targets[[2]string{t.Schema, t.Name}]; ok {
			names = append(names, t.Schema+"."+t.Name)
		}
	}
	return names
}

// Loaded returns how many rows and bytes were copied.
func (l *Loader) Loaded() (rows, bytes uint64) { return l.rows, l.bytes }
