package write

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/semaphore"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/meter"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
	"github.com/pgsluice/pgsluice/format"
)

// A Loader writes a full load: the schema, the rows, and a table's indexes as soon as its rows are
// loaded. Each open part has its own session. Only the goroutine that reads the stream calls the
// methods.
type Loader struct {
	Server  pgdial.Server
	Control *pgx.Conn
	Stream  *progress.Stream
	Mapper  *Mapper
	Jobs    int
	Log     *slog.Logger
	Meter   *meter.Meter
	Waits   *waiting.Watch
	// Snapshot identifies the snapshot that the rows of this load were read with. SnapshotLSN is
	// its LSN, unless a part says otherwise.
	Snapshot    string
	SnapshotLSN format.LSN
	// Reload empties the tables of this load that were loaded before.
	Reload bool
	// Whole says that the stream describes all selected tables of the source. Objects says that the
	// stream includes the large objects, if there are any.
	Whole, Objects bool
	// ByHand says that the schema was created by hand. The load then records and removes what
	// hinders it.
	ByHand bool
	// RebuildIndexes also drops indexes, and builds them again after the rows are loaded.
	RebuildIndexes bool
	// Constraints creates at the end of the load what otherwise waits for the cutover.
	Constraints bool

	ctx    context.Context
	cancel context.CancelCauseFunc
	guard  *session // excludes continuous sync during the whole load
	schemaWork
	tableWork
	copyWork
	sequences    []*format.Sequence // to be set when the load ends
	fingerprints []progress.Fingerprint
	lobs         *largeObjects
	builder      *builder
}

// Start takes the lock and reads what the target already has.
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
		return fault.New(fault.Config,
			"foreign keys and triggers cannot be created before the cutover: the role may not disable them while changes are applied").
			WithHint("Leave out --constraints now, or as superuser on the target: GRANT SET ON PARAMETER session_replication_role TO … (PostgreSQL 15 and newer).")
	}
	if l.RebuildIndexes && l.Stream.Citus {
		return fault.New(fault.Config, "--rebuild-indexes cannot be used: Citus makes no constraint of an index").
			WithHint("Load without it.")
	}
	// Read the stream only now. No other process moves the position while this one holds the lock.
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
		again := "pgextract --slot " + text.Shell(l.Stream.Key.Slot) + " --resume | pgapply"
		if l.Stream.Key.Slot == "" {
			again = only(&format.Relation{Schema: t[0], Name: t[1]})
		}
		l.Log.Warn(fmt.Sprintf("unlogged table %s.%s has lost its rows in a crash of the target",
			t[0], t[1]), "hint", "To load it again: "+again)
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

// fail stops all goroutines of the load.
func (l *Loader) fail(err error) {
	l.cancel(err)
}

// failure returns why the load was stopped, or nil if it was not.
func (l *Loader) failure() error {
	if l.ctx.Err() == nil {
		return nil
	}
	return context.Cause(l.ctx)
}

// Because returns what stopped the load, if err is only a consequence of that.
func (l *Loader) Because(err error) error {
	if cause := l.failure(); cause != nil && errors.Is(err, context.Canceled) {
		return cause
	}
	return err
}

// Close ends the sessions. Uncommitted work is rolled back.
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

// Finish waits for all work in progress, creates the objects that belong to no table, and marks the
// load complete. It reports whether the load is complete.
func (l *Loader) Finish() (complete bool, err error) {
	if err := l.flush(); err != nil {
		return false, err
	}
	l.lobs.end()
	l.copying.Wait()
	if err := l.failure(); err != nil {
		return false, err
	}
	if err := l.setSequences(); err != nil {
		return false, err
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
			l.Log.Warn(fmt.Sprintf("--rename %s=%s: this load has no table or schema %q", old, to, old),
				"hint", "Names stand there as they are, without quotes.")
		}
	}
	if complete, err = l.builder.finish(); err != nil || !complete {
		return complete, err
	}
	return true, l.fingerprintTarget()
}

// forget removes tables of an earlier run that the source no longer has. With them, the load would
// never be complete.
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
			l.Log.Warn(fmt.Sprintf("table %s.%s of an earlier run is no longer on the source, or no longer selected; it is left out",
				k[0], k[1]),
				"hint", "On the target: DROP TABLE "+text.Ident(k[0], k[1]))
		}
		if err := progress.Forget(l.ctx, l.Control, l.Stream.ID, k[0], k[1]); err != nil {
			return l.Server.Explain(err)
		}
	}
	return nil
}

// Missing returns the tables that the stream describes and that still lack rows after Finish has
// reported an incomplete load.
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
