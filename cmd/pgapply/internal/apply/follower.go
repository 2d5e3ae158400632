package apply

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/pgsluice/pgsluice/cmd/internal/citus"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/hold"
	"github.com/pgsluice/pgsluice/cmd/internal/identity"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/write"
	"github.com/pgsluice/pgsluice/format"
)

// A follower applies change streams of one slot.
type follower struct {
	*Run
	groups
	stream  *progress.Stream
	mapper  write.Mapper
	applier *write.Applier
	tables  map[uint32]*plan.Table // by relation ID
	// the snapshots that tables were loaded from, by schema and name on the target
	snapshots map[[2]string]format.LSN

	position   format.LSN // every change up to this LSN has been read
	past       history
	tx         openTransaction
	huge       bool    // the current record is too large to copy its values
	repair     *repair // nil: the stream has positions
	progress   inProgress
	processors int // GOMAXPROCS before the follower started
}

// An openTransaction is the transaction whose changes are being read, either between begin and
// commit, or from the blocks of a transaction in progress that commits.
type openTransaction struct {
	state   state
	xid     uint32
	commit  format.LSN
	altered bool // it changed the schema, and only its own session sees the change
}

// A state is the state of the open transaction.
type state uint8

const (
	closed  state = iota // no transaction is open
	skipped              // it is on the target already, and is not applied again
	taken                // all of it is in a group
	// What has been read of it is on the target, written by the main session, which writes
	// everything that is not ahead.
	inPart
	ahead // it is on the target ahead of its commit, written by its own session
)

// follow prepares to apply the stream that a header opens.
func (r *Run) follow(ctx context.Context, h *format.Header) (*follower, error) {
	stream, err := progress.Open(ctx, r.control, progress.KeyOf(h))
	if err != nil {
		return nil, r.Server.Explain(err)
	}
	if stream.Citus {
		r.ApplyJobs = min(r.ApplyJobs, citus.Jobs)
	}
	f := &follower{Run: r, groups: groups{cur: new(plan.Group), most: maxGroups / (r.ApplyJobs + 1)}}
	if f.applier, err = write.NewApplier(ctx, r.Server, r.Log, stream, r.OnConflict); err != nil {
		return nil, err
	}
	if err := f.start(ctx, h, stream.Key); err != nil {
		f.applier.Close()
		return nil, err
	}
	return f, nil
}

// start reads the stream's position and starts the writer. No other process can move the position
// any more.
func (f *follower) start(ctx context.Context, h *format.Header, key progress.Key) (err error) {
	if f.stream, err = progress.Open(ctx, f.control, key); err != nil {
		return f.Server.Explain(err)
	}
	f.streamID = f.stream.ID
	f.report.of(f.stream)
	if err := f.admissible(h); err != nil {
		return err
	}
	if err := f.closedToOthers(ctx); err != nil {
		return err
	}
	f.applier.SetApplied(f.stream.Applied)
	f.position, f.past.last = f.stream.Applied, f.stream.Last
	report := f.report
	if h.StreamKind == format.Repair {
		f.repair, f.position, f.past.last, report = new(repair), 0, progress.Transaction{}, new(reporter)
		f.applier.KeepPosition()
	} else if f.snapshots, err = progress.Snapshots(ctx, f.control, f.stream.ID); err != nil {
		return f.Server.Explain(err)
	}
	if err := f.unkey(ctx); err != nil {
		return err
	}
	if err := f.hold(ctx, hold.StreamTables(f.stream.ID)); err != nil {
		return err
	}
	if err := f.holdKeys(ctx); err != nil {
		return err
	}
	f.mapper = write.Mapper{Lookup: f.lookup, Rename: f.Rename,
		Snapshot: func(schema, table string) format.LSN { return f.snapshots[[2]string{schema, table}] }}
	if f.stream.Citus {
		f.mapper.Citus, f.mapper.Log = f.control, f.Log
	}
	if err := f.progress.start(ctx, f); err != nil {
		return f.Server.Explain(err)
	}
	f.applier.SetLoaded(f.progress.snapshot)
	// With one job, the target's session is the bottleneck while there is a backlog. Without a
	// backlog, all processes mostly wait. As in pgdecode, more processors would only pass the work
	// around.
	if f.processors = runtime.GOMAXPROCS(0); f.ApplyJobs == 1 {
		runtime.GOMAXPROCS(1)
	}
	f.writer = newWriter(ctx, f.applier, report, f.ApplyJobs)
	return nil
}

// closedToOthers refuses to write to an old primary that applications may write to.
func (f *follower) closedToOthers(ctx context.Context) error {
	if f.stream.BackOf == "" {
		return nil
	}
	fenced, err := identity.Fenced(ctx, f.control)
	if err != nil || fenced {
		return f.Server.Explain(err)
	}
	return fault.New(fault.Config, "the old primary is not closed any more, so the new primary's changes are not applied to it").
		WithDetail("Applications may write to the old primary, and what both sides write must not mix.").
		WithHint("To remove the way back: pgcutover cleanup --slot %s", f.stream.BackOf)
}

// onOldPrimary adds to a hint what statements on an old primary need: it is read-only by default.
func (f *follower) onOldPrimary(err error) error {
	var x *fault.Error
	if f.stream.BackOf == "" || !errors.As(err, &x) || x.Hint == "" || x.Status == fault.TryAgain {
		return err
	}
	e := *x
	e.Hint = "The target is the old primary, which is read-only: begin the session with SET default_transaction_read_only = off; " + e.Hint
	return &e
}

// admissible refuses changes for a target that a cutover has opened, or whose load is not complete.
func (f *follower) admissible(h *format.Header) error {
	switch {
	case f.stream.Ended && h.StreamKind == format.Repair:
		return fault.New(fault.Config,
			"the repair was not applied: a cutover has ended the stream of %v, and applications may write to the target",
			f.stream.Key)
	case f.stream.Ended:
		return write.ErrEnded
	case f.stream.LoadStatus == "loading":
		return fault.New(fault.Config, "the full load of %v is not complete on the target", f.stream.Key).
			WithHint("Complete it first: pgextract --slot %s --resume | pgapply.", f.stream.Key.Slot)
	}
	return nil
}

// begin takes the header of the first or of a later stream of the slot.
func (f *follower) begin(ctx context.Context, h *format.Header) error {
	if err := f.progress.catchUp(ctx); err != nil {
		return err
	}
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
		// Nothing was loaded or applied. pgapply assumes that the target has the rows that the
		// source had where the stream begins.
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
			WithDetail("The slot was advanced past changes that this target does not have.").
			WithHint("If a file has the changes between the two LSNs, apply it first. Otherwise the target needs a new full load. %s",
				slot.Anew(f.stream.Key.Slot))
	}
	return nil
}

// drop forgets incomplete transactions. The source sends them again.
func (f *follower) drop(ctx context.Context) error {
	f.cur.Rollback()
	inPart := f.tx.state == inPart
	f.tx = openTransaction{}
	written, err := f.progress.drop(ctx)
	if err != nil || !written && !inPart {
		return err
	}
	return f.do(func(ctx context.Context, _ *plan.Group) error { return f.applier.Abort(ctx) })
}

// next waits for input. Meanwhile it gives complete transactions to the writer as soon as the
// writer can take them.
func (f *follower) next(ctx context.Context) ([]byte, bool, error) {
	for {
		select {
		case b, ok := <-f.in.blocks:
			return b, ok, nil
		default:
		}
		if err := f.progress.pause(ctx); err != nil {
			return nil, false, err
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
			return nil, false, write.ErrEnded
		case <-f.giveUp:
			return nil, false, errGiveUp
		}
	}
}

// flush gives the writer the open transaction as far as it has been read. The writer must have
// given back a group.
func (f *follower) flush() error {
	f.tx.state = inPart
	g, next := f.cur, f.take()
	open := g.OpenLSN
	g.Fold()
	next.Skip = g.Skip
	next.Begin(open)
	f.cur = next
	return f.send(job{group: g, do: f.applier.Flush})
}

// full makes room in a group that has reached its limit. It writes the complete transactions. If
// the open transaction alone is too large, full writes it as far as it has been read.
func (f *follower) full() error {
	if err := f.wait(1); err != nil {
		return err
	}
	if f.cur.Ready() {
		if err := f.handOver(); err != nil {
			return err
		}
	}
	if f.cur.Size() < f.most/2 {
		return nil
	}
	if err := f.wait(1); err != nil {
		return err
	}
	return f.flush()
}

// room makes room if the group has reached its limit.
func (f *follower) room() error {
	if f.cur.Size() < f.most {
		return nil
	}
	return f.full()
}

// drain waits until all complete transactions are durable on the target.
func (f *follower) drain() error {
	if err := f.settle(); err != nil {
		return err
	}
	if err := f.send(job{group: f.take(),
		do:   func(ctx context.Context, _ *plan.Group) error { return f.applier.Sync(ctx) },
		sync: true}); err != nil {
		return err
	}
	return f.await()
}

// stuck returns the error for a change that the target has no place for.
func (f *follower) stuck(ctx context.Context, t *plan.Table) error {
	return f.refuse(ctx, write.Describe(t, f.tx.commit))
}

// refuse applies everything before the open transaction, and then returns err.
func (f *follower) refuse(ctx context.Context, err error) error {
	if err := f.progress.catchUp(ctx); err != nil {
		return err
	}
	if err := f.drop(ctx); err != nil {
		return err
	}
	if err := f.drain(); err != nil {
		return err
	}
	return err
}

// expired reports whether the time to end the input after a signal to stop is over.
func (f *follower) expired() bool {
	select {
	case <-f.giveUp:
		return true
	default:
		return false
	}
}

// hold disables triggers, rules and row-level security of tables until the cutover.
func (f *follower) hold(ctx context.Context, tables string) error {
	n, err := hold.Tables(ctx, f.control, f.stream.ID, f.applier.Replica(), tables)
	if err == nil && n > 0 {
		f.Log.Info(fmt.Sprintf("triggers, rules and row level security of the target wait for the cutover: %d", n))
	}
	return f.Server.Explain(err)
}

// holdKeys drops the foreign keys of an old primary until it is the primary again, if the session
// cannot switch them off.
func (f *follower) holdKeys(ctx context.Context) error {
	if f.stream.BackOf == "" || f.applier.Replica() {
		return nil
	}
	n, err := hold.Keys(ctx, f.control, f.stream.ID, hold.StreamTables(f.stream.ID))
	if err == nil && n > 0 {
		f.Log.Info(fmt.Sprintf("foreign keys of the target wait for the cutover: %d", n))
	}
	return f.Server.Explain(err)
}

// unkey records whether foreign keys and triggers may exist on the target while changes are
// applied. If they may not, unkey drops the keys that pgcutover prepare has created.
func (f *follower) unkey(ctx context.Context) error {
	replica := f.applier.Replica()
	if err := progress.SetReplica(ctx, f.control, f.stream.ID, replica); err != nil || replica {
		return f.Server.Explain(err)
	}
	n, err := hold.ReleaseKeys(ctx, f.control, f.stream.ID, "")
	if err == nil && n > 0 {
		f.Log.Info(fmt.Sprintf("foreign keys of the target wait for the cutover again, because the role may not set session_replication_role: %d", n))
	}
	return f.Server.Explain(err)
}

func (f *follower) close() {
	if n := f.applier.Conflicts(); n > 0 {
		f.Log.Warn(fmt.Sprintf("%s did not fit the target and were skipped or forced: SELECT * FROM pgsluice.conflicts", count.Of(n, "change")))
	}
	if f.writer != nil {
		close(f.writer.work)
	}
	f.applier.Close()
	runtime.GOMAXPROCS(f.processors)
}
