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

// A Loader writes a full load: the schema, the rows over a session for each part that is open, and
// a table's indexes as soon as its rows are there. Its methods are called by one goroutine, which
// reads the stream.
type Loader struct {
	Server  pgdial.Server
	Control *pgx.Conn
	Stream  *progress.Stream
	Mapper  *Mapper
	Jobs    int
	Log     *slog.Logger
	Meter   *meter.Meter
	Waits   *waiting.Watch
	// Snapshot identifies what the rows of this load were read with, and SnapshotLSN is where that
	// was, unless a part says otherwise.
	Snapshot    string
	SnapshotLSN format.LSN
	// Reload empties the tables of this load that have been loaded before.
	Reload bool
	// Whole says that the stream describes all tables of the source that are wanted, and Objects,
	// that it brings the large objects if there are any.
	Whole, Objects bool
	// ByHand says that the schema was created by hand: what stands in the way is taken off and
	// recorded.
	ByHand bool
	// RebuildIndexes takes off indexes, too, and builds them when the rows are there.
	RebuildIndexes bool
	// Constraints has what is otherwise left for the cutover created at the end of the load.
	Constraints bool

	ctx    context.Context
	cancel context.CancelCauseFunc
	guard  *session // keeps continuous sync away from the beginning to the end
	schemaWork
	tableWork
	copyWork
	sequences    []*format.Sequence // not yet there
	fingerprints []progress.Fingerprint
	lobs         *largeObjects
	builder      *builder
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
		return fault.New(fault.Config,
			"foreign keys and triggers cannot be created before the cutover: the role may not disable them while changes are applied").
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
		l.Log.Warn(fmt.Sprintf("unlogged table %s.%s has lost its rows in a crash of the target",
			t[0], t[1]), "hint", "To load it again: pgextract --resume | pgapply")
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

// Finish waits for everything that is under way, creates what belongs to no table, and marks the
// load complete. It reports whether it is.
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
		if noRelation(err) && len(l.lost) > 0 {
			// it is one of those that could not be created, and failed with its table
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
			l.Log.Warn(fmt.Sprintf("--rename %s=%s: this load has no table or schema %q", old, to, old),
				"hint", "Names stand there as they are, without quotes.")
		}
	}
	if complete, err = l.builder.finish(); err != nil || !complete {
		return complete, err
	}
	return true, l.fingerprintTarget()
}

// forget removes from the load the tables of an earlier run that the source no longer has. With
// them the load would never be complete.
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

// Missing returns the tables that the stream describes, and that have not all of their rows when
// Finish says that the load is not complete.
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
