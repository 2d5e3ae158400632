package apply

import (
	"context"
	"fmt"
	"runtime"
	"slices"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/hold"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/target"
	"github.com/pgsluice/pgsluice/format"
)

// maxGroups bounds the memory of all groups, of which there is one more than are written side by side, and with it how much is written in one go. Larger ones
// are no faster.
const maxGroups = 12 << 20

// A follower applies change streams of one slot.
type follower struct {
	*Run
	stream   *progress.Stream
	mapper   target.Mapper
	writer   *writer
	applier  *target.Applier
	cur      *plan.Group   // collects what comes in
	idle     []*plan.Group // what the writer gave back
	maxGroup int           // how large a group may become, in bytes
	position format.LSN    // of what has been taken in
	tables   map[uint32]*plan.Table

	within    bool   // a transaction is open, outside of blocks
	xid       uint32 // its id
	skipping  bool   // it has been applied already
	flushing  bool   // the open transaction has been written in part
	huge      bool   // the record at hand is so large that its values are not copied
	altered   bool   // it has changed the schema
	alteredBy uint32 // its XID, if it is written ahead of its commit
	commit    format.LSN

	last, must progress.Transaction // the newest that was taken in, and, if it has to come again, that one
	limit      format.LSN           // transactions behind it are of a history that the source does not have; 0: none are

	repair     *repair // nil: the stream has positions
	progress   inProgress
	processors int // that were in use before
}

// follow prepares to apply the stream that a header opens.
func (r *Run) follow(ctx context.Context, h *format.Header) (*follower, error) {
	stream, err := progress.Open(ctx, r.control, progress.KeyOf(h))
	if err != nil {
		return nil, r.Server.Explain(err)
	}
	f := &follower{Run: r, stream: stream, cur: new(plan.Group), maxGroup: maxGroups / (r.ApplyJobs + 1)}
	if f.applier, err = target.NewApplier(ctx, r.Server, r.Log, stream, r.OnConflict); err != nil {
		return nil, err
	}
	// Only now, with the lock, does the position not move any more.
	if stream, err = progress.Open(ctx, r.control, stream.Key); err != nil {
		f.applier.Close()
		return nil, r.Server.Explain(err)
	}
	f.stream, r.streamID = stream, stream.ID
	r.report.of(stream)
	if stream.Ended {
		f.applier.Close()
		if h.StreamKind == format.Repair {
			return nil, fault.New(fault.Config, "the repair was not applied: a cutover has ended the stream of %v, and the target is written to by others", stream.Key)
		}
		return nil, target.ErrEnded
	}
	if stream.LoadStatus == "loading" {
		f.applier.Close()
		return nil, fault.New(fault.Config, "the full load of %v is not complete on the target", stream.Key).
			WithHint("Complete it first: pgextract --slot %s --resume | pgapply.", stream.Key.Slot)
	}
	f.applier.SetApplied(stream.Applied)
	f.position, f.last = stream.Applied, stream.Last
	report := r.report
	var snapshots map[[2]string]format.LSN
	if h.StreamKind == format.Repair {
		f.repair, f.position, f.last, report = new(repair), 0, progress.Transaction{}, new(reporter)
		f.applier.KeepPosition()
	} else if snapshots, err = progress.Snapshots(ctx, r.control, stream.ID); err != nil {
		f.applier.Close()
		return nil, r.Server.Explain(err)
	}
	if err := f.hold(ctx, hold.StreamTables(stream.ID)); err != nil {
		f.applier.Close()
		return nil, err
	}
	f.mapper = target.Mapper{Lookup: f.lookup, Rename: r.Rename, Snapshot: func(schema, table string) format.LSN { return snapshots[[2]string{schema, table}] }}
	if err := f.progress.start(ctx, f, snapshots); err != nil {
		f.applier.Close()
		return nil, r.Server.Explain(err)
	}
	// With one job it is the target's session that is busy under a backlog, and without one all of us wait most of the time: as in pgdecode, more processors
	// only hand around what there is to do.
	if f.processors = runtime.GOMAXPROCS(0); r.ApplyJobs == 1 {
		runtime.GOMAXPROCS(1)
	}
	f.writer = newWriter(ctx, f.applier, report, r.ApplyJobs)
	return f, nil
}

// begin takes a header: the first one, or one that goes on with the same slot.
func (f *follower) begin(ctx context.Context, h *format.Header) error {
	if err := f.drop(ctx); err != nil {
		return err
	}
	f.tables = make(map[uint32]*plan.Table)
	clear(f.progress.early)
	f.progress.replay.Tables = f.progress.replay.Tables[:0]
	f.mapper.Reset()
	if f.repair != nil {
		f.progress.seen = f.position
		return nil
	}
	f.progress.seen = h.StartLSN
	if f.position == 0 {
		// Nothing was loaded and nothing applied: the target is taken to be as the source was where the stream begins.
		f.Log.Info(fmt.Sprintf("%v has not been applied here before: starting at LSN %v", f.stream.Key, h.StartLSN))
		f.position = h.StartLSN
		f.cur.Progress(h.StartLSN, h.Created)
		return f.remember(ctx, f.stream, h)
	}
	if err := f.sameHistory(ctx, h); err != nil {
		return err
	}
	if h.StartLSN > f.position {
		return fault.New(fault.Failed, "changes are missing: the stream begins at LSN %v, the target is at %v", h.StartLSN, f.position).
			WithDetail("The slot was moved without this target.").
			WithHint("If there is a file with the changes between the two, apply it first. Otherwise the target needs a new full load. %s", slot.Anew(f.stream.Key.Slot))
	}
	return nil
}

// drop forgets the transactions that are not complete. They will come again.
func (f *follower) drop(ctx context.Context) error {
	f.cur.Rollback()
	f.within, f.skipping, f.altered, f.alteredBy = false, false, false, 0
	written, err := f.progress.drop(ctx)
	if err != nil || !written && !f.flushing {
		return err
	}
	f.flushing = false
	return f.do(func(ctx context.Context, _ *plan.Group) error { return f.applier.Abort(ctx) })
}

// next waits for input, and gives the writer what is complete as soon as it can take it.
func (f *follower) next() ([]byte, bool, error) {
	for {
		select {
		case b, ok := <-f.in.blocks:
			return b, ok, nil
		default:
		}
		if err := f.offer(); err != nil {
			return nil, false, err
		}
		free := f.writer.free
		if len(f.idle) > 0 {
			free = nil
		}
		select {
		case b, ok := <-f.in.blocks:
			return b, ok, nil
		case g := <-free:
			f.idle = append(f.idle, g)
		case <-f.writer.failed:
			return nil, false, f.writer.err
		case <-f.writer.ended:
			return nil, false, target.ErrEnded
		case <-f.giveUp:
			return nil, false, errGiveUp
		}
	}
}

// offer gives the writer what is complete, if it can take it.
func (f *follower) offer() error {
	if !f.cur.Ready() {
		return nil
	}
	if len(f.idle) == 0 {
		select {
		case g := <-f.writer.free:
			f.idle = append(f.idle, g)
		case <-f.writer.failed:
			return f.writer.err
		default:
			return nil
		}
	}
	return f.handOver(false)
}

// await waits until the writer is idle.
func (f *follower) await() error { return f.group(f.writer.jobs) }

// group waits until the writer has given back n groups.
func (f *follower) group(n int) error {
	for len(f.idle) < n {
		select {
		case g := <-f.writer.free:
			f.idle = append(f.idle, g)
		case <-f.writer.failed:
			return f.writer.err
		}
	}
	return nil
}

// take takes one of the idle groups.
func (f *follower) take() *plan.Group {
	n := len(f.idle) - 1
	g := f.idle[n]
	f.idle = f.idle[:n]
	return g
}

// handOver gives the writer, which has given back a group, what is complete; the open transaction stays behind, unless it is wanted partially.
func (f *follower) handOver(partial bool) error {
	g, next := f.cur, f.take()
	open := g.OpenLSN
	if partial {
		f.flushing = true
		g.Fold()
		next.Skip = g.Skip
		next.Begin(open)
	} else {
		g.MoveOpen(next)
	}
	f.cur = next
	if partial {
		return f.send(job{group: g, do: f.applier.Flush})
	}
	return f.send(job{group: g})
}

// do has the writer do something, after what it has been given before.
func (f *follower) do(what func(context.Context, *plan.Group) error) error {
	if err := f.group(1); err != nil {
		return err
	}
	return f.send(job{group: f.take(), do: what})
}

// settle has the writer write everything that is complete, and waits until it is idle.
func (f *follower) settle() error {
	if err := f.await(); err != nil || !f.cur.Ready() {
		return err
	}
	if err := f.handOver(false); err != nil {
		return err
	}
	return f.await()
}

func (f *follower) send(j job) error {
	select {
	case f.writer.work <- j:
		return nil
	case <-f.writer.ended:
		return target.ErrEnded
	case <-f.writer.failed:
		return f.writer.err
	}
}

// full makes room when the group has grown to its limit: what is complete is written; an open transaction that is itself too large is
// written as far as it has come.
func (f *follower) full() error {
	if err := f.group(1); err != nil {
		return err
	}
	if f.cur.Ready() {
		if err := f.handOver(false); err != nil {
			return err
		}
	}
	if f.cur.Size() < f.maxGroup/2 {
		return nil
	}
	if err := f.group(1); err != nil {
		return err
	}
	return f.handOver(true)
}

// drain waits until everything that is complete is durable on the target.
func (f *follower) drain() error {
	if err := f.settle(); err != nil {
		return err
	}
	if err := f.send(job{group: f.take(), do: func(ctx context.Context, _ *plan.Group) error { return f.applier.Sync(ctx) }, sync: true}); err != nil {
		return err
	}
	return f.await()
}

// record takes one record of a change stream.
func (f *follower) record(ctx context.Context, rec format.Record) error {
	if f.progress.block != nil {
		return f.progress.record(ctx, rec)
	}
	switch r := rec.(type) {
	case *format.Insert:
		t, err := f.table(ctx, r.Relation)
		if t == nil {
			f.progress.keep(rec)
			return err
		}
		if f.huge {
			return f.alone(func(g *plan.Group) error { addChange(g, rec, t); return nil })
		}
		f.cur.Insert(t, r.New)
		return f.room()
	case *format.Update:
		t, err := f.table(ctx, r.Relation)
		if t == nil {
			f.progress.keep(rec)
			return err
		}
		if f.huge {
			return f.alone(func(g *plan.Group) error { addChange(g, rec, t); return nil })
		}
		f.cur.Update(t, r.Old, r.New)
		return f.room()
	case *format.Delete:
		t, err := f.table(ctx, r.Relation)
		if t == nil {
			f.progress.keep(rec)
			return err
		}
		if f.huge {
			return f.alone(func(g *plan.Group) error { addChange(g, rec, t); return nil })
		}
		f.cur.Delete(t, r.Old)
		return f.room()
	case *format.Begin:
		f.commit, f.within, f.xid = r.CommitLSN, true, r.XID
		if err := f.meetBegin(r); err != nil {
			return err
		}
		f.progress.twoPhase.clear()
		if f.skipping = r.CommitLSN < f.position; !f.skipping {
			return f.open(r.CommitLSN)
		}
	case *format.Commit:
		if err := f.meet(progress.Transaction{XID: f.xid, CommitLSN: r.CommitLSN, EndLSN: r.EndLSN, Time: r.Time}); err != nil {
			return err
		}
		f.progress.seen = r.EndLSN
		f.within = false
		if f.skipping {
			if r.EndLSN > f.position {
				return f.refuse(ctx, fault.New(fault.Data, "the transaction with commit LSN %v and end LSN %v is neither before LSN %v, where the target is, nor after it", r.CommitLSN, r.EndLSN, f.position))
			}
			f.skipping = false
			return nil
		}
		return f.committed(ctx, f.xid, r.CommitLSN, r.EndLSN, r.Time)
	case *format.Truncate:
		return f.truncate(ctx, r)
	case *format.Relation:
		return f.relation(ctx, r)
	case *format.StreamStart, *format.StreamCommit, *format.StreamAbort, *format.Prepare, *format.CommitPrepared, *format.RollbackPrepared:
		return f.progress.record(ctx, rec)
	case *format.Progress:
		if err := f.meetPosition(r.LSN); err != nil {
			return err
		}
		f.progress.seen = max(f.progress.seen, r.LSN)
		if r.LSN >= f.position {
			f.position = r.LSN
			f.cur.Progress(r.LSN, r.Time)
			return f.offer()
		}
	case *format.DDL:
		if !f.skipping {
			if err := target.Alterable(r); err != nil {
				return f.refuse(ctx, err)
			}
			if err := f.renamed(r); err != nil && !f.cur.Skip {
				return f.refuse(ctx, err)
			}
			return f.alter(r)
		}
		f.progress.keep(rec)
	case *format.Message:
	case *format.Unknown:
		f.heard(r)
	default:
		return fault.New(fault.Data, "cannot apply a %v record", rec.Kind())
	}
	return nil
}

// open begins a transaction that is to be applied. One that is to be skipped is written as a group of its own.
func (f *follower) open(commit format.LSN) error {
	if slices.Contains(f.SkipLSN, commit) {
		if err := f.settle(); err != nil {
			return err
		}
		f.cur.Skip = true
		f.Log.Warn(fmt.Sprintf("skipping the transaction with commit LSN %v; its changes are in pgsluice.conflicts", commit))
	}
	f.cur.Begin(commit)
	return nil
}

// committed makes the open transaction complete.
func (f *follower) committed(ctx context.Context, xid uint32, commit, end format.LSN, at format.Time) error {
	f.cur.Commit(xid, commit, end, at)
	if f.cur.Skip || f.altered {
		f.flushing = false
		f.position = end
		if err := f.settle(); err != nil {
			return err
		}
		return f.seeAltered(ctx)
	}
	f.flushing = false
	f.position = end
	if f.expired() {
		return errGiveUp
	}
	return f.offer()
}

// alter executes a statement that changes the schema, at its place in the open transaction.
func (f *follower) alter(d *format.DDL) error {
	if err := f.settle(); err != nil {
		return err
	}
	if f.cur.Pending() > 0 {
		if err := f.handOver(true); err != nil {
			return err
		}
		if err := f.await(); err != nil {
			return err
		}
	}
	f.cur.AddDDL(d)
	f.altered = true
	return f.handOver(true)
}

// seeAltered makes what comes next see what the last transaction has changed of the schema, if it has.
func (f *follower) seeAltered(ctx context.Context) error {
	if !f.altered {
		return nil
	}
	if err := f.await(); err != nil {
		return err
	}
	f.altered, f.alteredBy = false, 0
	for id := range f.progress.early {
		if t := f.tables[id]; t != nil {
			if err := f.relation(ctx, t.Relation); err != nil {
				return err
			}
		}
	}
	clear(f.progress.early)
	return nil
}

// lookup reads a table of the target as the open transaction sees it.
func (f *follower) lookup(ctx context.Context, schema, table string) (*catalog.Relation, error) {
	if !f.altered {
		return f.Run.lookup(ctx, schema, table)
	}
	var r *catalog.Relation
	err := f.do(func(ctx context.Context, _ *plan.Group) (err error) {
		r, err = f.applier.Lookup(ctx, f.alteredBy, schema, table)
		return err
	})
	if err == nil {
		err = f.await()
	}
	return r, err
}

func (f *follower) relation(ctx context.Context, r *format.Relation) error {
	if err := target.Writable(r.Kind(), r.Schema, r.Name); err != nil {
		return f.refuse(ctx, err)
	}
	// Rows are told apart by the keys that were chosen when a table was looked up.
	if err := f.await(); err != nil {
		return err
	}
	t, err := f.mapper.Map(ctx, r)
	if err != nil {
		return f.Server.Explain(err)
	}
	if t.OID != 0 && !f.altered && !f.loaded(t) { // else it was looked at when we began, or by the statement that has altered it
		if err := f.hold(ctx, hold.OIDs(t.OID)); err != nil {
			return f.refuse(ctx, err)
		}
	}
	f.tables[r.ID] = t
	t.Index = len(f.progress.replay.Tables)
	f.progress.replay.Tables = append(f.progress.replay.Tables, t)
	return nil
}

// hold makes what would act on the rows of tables wait for the cutover.
func (f *follower) hold(ctx context.Context, tables string) error {
	n, err := hold.Tables(ctx, f.control, f.stream.ID, f.applier.Replica(), tables)
	if err == nil && n > 0 {
		f.Log.Info(fmt.Sprintf("triggers, rules and row level security of the target wait for the cutover: %d", n))
	}
	return f.Server.Explain(err)
}

// loaded reports whether the target has a table from a load of the stream's.
func (f *follower) loaded(t *plan.Table) bool { return t.Snapshot != 0 }

// table returns where changes of a relation go; nil if this one is to be skipped.
func (f *follower) table(ctx context.Context, id uint32) (*plan.Table, error) {
	if f.skipping {
		return nil, nil
	}
	t := f.tables[id]
	switch {
	case t.Snapshot > f.commit:
		return nil, nil // it was loaded with this transaction's effect
	case t.Problem != nil:
		return nil, f.stuck(ctx, t)
	}
	return t, nil
}

// stuck makes the error for a change that has no place on the target.
func (f *follower) stuck(ctx context.Context, t *plan.Table) error {
	return f.refuse(ctx, target.Describe(t, f.commit))
}

// refuse returns an error when everything before the open transaction has been applied.
func (f *follower) refuse(ctx context.Context, err error) error {
	if err := f.drop(ctx); err != nil {
		return err
	}
	if err := f.drain(); err != nil {
		return err
	}
	return err
}

// expired reports whether the time is over that a stopping process gives its input.
func (f *follower) expired() bool {
	select {
	case <-f.giveUp:
		return true
	default:
		return false
	}
}

func (f *follower) room() error {
	if f.cur.Size() < f.maxGroup {
		return nil
	}
	return f.full()
}

func (f *follower) truncate(ctx context.Context, r *format.Truncate) error {
	op := &plan.TruncateOp{RestartIdentity: r.RestartIdentity}
	var left []uint32
	for _, id := range r.Relations {
		t, err := f.table(ctx, id)
		if err != nil {
			return err
		}
		if t != nil {
			op.Tables = append(op.Tables, t)
		} else {
			left = append(left, id)
		}
	}
	if len(left) > 0 {
		f.progress.keep(&format.Truncate{Relations: left, RestartIdentity: r.RestartIdentity})
	}
	if len(op.Tables) > 0 {
		f.cur.AddTruncate(op)
	}
	return nil
}

func (f *follower) close() {
	if n := f.applier.Conflicts(); n > 0 {
		f.Log.Warn(fmt.Sprintf("%s did not fit the target, skipped or forced: SELECT * FROM pgsluice.conflicts", count.Of(n, "change")))
	}
	if f.writer != nil {
		close(f.writer.work)
	}
	f.applier.Close()
	runtime.GOMAXPROCS(f.processors)
}
