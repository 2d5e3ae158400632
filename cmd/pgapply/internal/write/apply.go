package write

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/format"
)

// An Applier writes groups of changes to the target over one session. It writes each group in one
// transaction, which also stores the stream's position.
//
// A folded group takes one round trip. Each statement checks that it affects the expected number of
// rows. If the target refuses a statement, the Applier rolls back and writes the group change by
// change in source order, which is correct wherever the source's own execution was. If that fails
// as well, the Applier writes the group once more, transaction by transaction, and waits for each
// change. The transactions before the failing one stay committed, and the error names the change.
//
// Transactions that are in progress on the source are written ahead of their commit, each on its
// own session (see Ahead).
type Applier struct {
	*lane
	stream  *progress.Stream
	applied format.LSN // written to the target, not necessarily flushed
	still   bool       // the position does not advance

	ahead      map[uint32]*lane // transactions in progress, by xid
	spare      []*lane
	drafting   []*lane // idle sessions for drafts
	walFlushed format.LSN
	counting   map[*plan.Table]*plan.Counts
	counted    time.Time
	commits    []commit    // not known to be flushed
	ended      atomic.Bool // a cutover has ended the stream
}

// A commit is a position that is durable once the target has flushed its own WAL up to wal.
type commit struct {
	wal format.LSN
	Position
	asked time.Time // when wal became known
}

// notAsked is the WAL position of a commit that pgapply has not asked the target about yet.
const notAsked format.LSN = math.MaxUint64

// A Position is how far a stream has been applied.
type Position struct {
	LSN  format.LSN
	Time format.Time
}

// NewApplier opens a session on the target that applies a stream, and takes the stream's lock. The
// conflict policy is StopOnConflict, Skip or Overwrite.
func NewApplier(ctx context.Context, server pgdial.Server, log *slog.Logger, stream *progress.Stream, onConflict string) (*Applier, error) {
	s, err := newSession(ctx, server, log, stream, progress.Applying)
	if err != nil {
		return nil, err
	}
	return &Applier{lane: &lane{s: s, onConflict: onConflict, stream: stream.ID, slot: stream.Key.Slot,
		conflicts: new(atomic.Int64), log: log}, ahead: make(map[uint32]*lane), stream: stream,
		counting: make(map[*plan.Table]*plan.Counts), counted: time.Now()}, nil
}

// Replica reports whether the session disables triggers, rules and foreign keys, except those that
// are set to fire in a replica.
func (a *Applier) Replica() bool { return a.s.replica }

// SetApplied sets the stream's position, read from the target after the lock was taken.
func (a *Applier) SetApplied(lsn format.LSN) { a.applied = lsn }

// SetLoaded sets the newest snapshot that a table was loaded from.
func (a *Applier) SetLoaded(lsn format.LSN) { a.loaded = lsn }

// KeepPosition stops the position from advancing, for changes that do not belong to the stream.
func (a *Applier) KeepPosition() { a.still = true }

// Applied returns the stream's position: everything before it is written to the target.
func (a *Applier) Applied() format.LSN { return a.applied }

// Close ends the session. An open transaction is rolled back.
func (a *Applier) Close() {
	if a == nil {
		return
	}
	a.s.close()
	for _, l := range a.ahead {
		l.s.close()
	}
	for _, l := range a.spare {
		l.s.close()
	}
	for _, l := range a.drafting {
		l.s.close()
	}
}

// Open reports whether Flush has written part of a transaction. Apply must then complete it.
func (a *Applier) Open() bool { return a.open }

// Conflicts returns how many changes were recorded in pgsluice.conflicts. It may be called at any
// time.
func (a *Applier) Conflicts() int64 { return a.conflicts.Load() }

// Ended reports whether a cutover has ended the stream. It may be called at any time.
func (a *Applier) Ended() bool { return a.ended.Load() }

// Apply writes a group of whole transactions and commits it. It also commits a large transaction
// that Flush has begun and the group completes.
func (a *Applier) Apply(ctx context.Context, g *plan.Group) error {
	e := endOf(g)
	if a.open {
		if err := a.Flush(ctx, g); err != nil {
			return err
		}
		if err := a.finish(ctx, a.lane, g.Transactions[len(g.Transactions)-1].CommitLSN, e); err != nil {
			return err
		}
		return a.renew(ctx, a.lane)
	}
	var refused error
	for _, how := range a.ways(g) {
		a.count(g, 1)
		var err error
		refused, err = a.commit(ctx, a.lane, func(b *pgwire.Batch) {
			b.Do("BEGIN")
			how(b, g)
			a.writeChecks(b, g, 0, int32(g.Len()))
		}, e)
		if err != nil || refused == nil {
			return err
		}
		a.count(g, -1)
		if err := a.undo(ctx, "ROLLBACK"); err != nil {
			return err
		}
		if err := a.blocked(ctx, refused); err != nil {
			return err
		}
		if err := a.Poll(ctx); err != nil {
			return err
		}
		if a.Ended() {
			return ErrEnded
		}
	}
	if len(g.Transactions) == 0 {
		return a.s.server.Explain(refused)
	}
	if err := a.carefully(ctx, g, 0, len(g.Transactions)); err != nil {
		return err
	}
	if a.applied >= g.EndLSN {
		return nil
	}
	refused, err := a.commit(ctx, a.lane, func(b *pgwire.Batch) { b.Do("BEGIN") }, end{Position: Position{g.EndLSN, g.Time}})
	return or(err, a.s.server.Explain(refused))
}

// finish commits a lane's open transaction.
func (a *Applier) finish(ctx context.Context, l *lane, lsn format.LSN, e end) error {
	for _, sub := range l.subs {
		e.changes += sub.changes
	}
	a.countLane(l, 1)
	refused, err := a.commit(ctx, l, l.writeWholeChecks, e)
	if err != nil || refused == nil {
		l.closed()
		return err
	}
	deferrable := len(l.whole) > 0
	a.countLane(l, -1)
	l.closed()
	if err := l.undo(ctx, "ROLLBACK"); err != nil {
		return err
	}
	if err := a.Poll(ctx); err != nil {
		return err
	}
	if a.Ended() {
		return ErrEnded
	}
	var pg *pgconn.PgError
	if deferrable && errors.As(refused, &pg) && pg.Code == "22012" {
		return fault.New(fault.Failed,
			"could not commit the transaction with commit LSN %v: two rows would have the same values in a deferrable unique constraint", lsn).
			WithHint("Another session has written to the target. Compare the rows on both sides: pgcutover verify")
	}
	return a.refusedCommit(nil, 0, 0, lsn, refused)
}

// ErrEnded means that a cutover has ended the stream, so nothing more is applied.
var ErrEnded = errors.New("the stream was ended by a cutover")

func or(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// carefully writes transactions i to j-1 of a group that the target refused as a whole, change by
// change. It splits the range in half until it finds the refused transaction. The transactions
// before that one stay committed.
func (a *Applier) carefully(ctx context.Context, g *plan.Group, i, j int) error {
	first := int32(0)
	if i > 0 {
		first = int32(g.Transactions[i-1].Ops)
	}
	last := g.Transactions[j-1]
	next := int32(last.Ops)
	e := end{Position{last.EndLSN, last.Time}, j - i, uint64(next - first), last}
	refused, err := a.commit(ctx, a.lane, func(b *pgwire.Batch) {
		b.Do("BEGIN")
		a.writeRange(b, g, first, next)
		a.writeChecks(b, g, first, next)
	}, e)
	if err == nil && refused == nil {
		a.countRange(g, first, next)
	}
	if err != nil || refused == nil {
		return err
	}
	if err := a.undo(ctx, "ROLLBACK"); err != nil {
		return err
	}
	if j-i > 1 {
		mid := (i + j) / 2
		if err := a.carefully(ctx, g, i, mid); err != nil {
			return err
		}
		return a.carefully(ctx, g, mid, j)
	}
	if err := a.s.exec(ctx, "BEGIN"); err != nil {
		return err
	}
	if err := a.careful(ctx, g, first, next); err != nil {
		return err
	}
	refused, err = a.commit(ctx, a.lane, func(b *pgwire.Batch) { a.writeChecks(b, g, first, next) }, e)
	if err == nil && refused == nil {
		a.countRange(g, first, next)
	}
	if err != nil || refused == nil {
		return err
	}
	return a.refusedCommit(g, first, next, last.CommitLSN, refused)
}

// end is the position and the counts that a commit stores.
type end struct {
	Position
	transactions int
	changes      uint64
	last         plan.Transaction // zero if the position advances without a transaction
}

// endOf returns the end of a whole group.
func endOf(g *plan.Group) end {
	e := end{Position: Position{g.EndLSN, g.Time}, transactions: len(g.Transactions), changes: uint64(g.Len())}
	if n := len(g.Transactions); n > 0 {
		e.last = g.Transactions[n-1]
	}
	return e
}

// commit sends what begin writes, then the position and the commit, in one round trip. It returns a
// statement's error as refused; the caller must then roll back.
func (a *Applier) commit(ctx context.Context, l *lane, begin func(*pgwire.Batch), e end) (refused, err error) {
	if a.open && l != a.lane {
		// The caller has made a mistake that would lose the open transaction.
		return nil, errors.New("a transaction that was written in part cannot be overtaken")
	}
	b := l.s.conn.Batch(ctx)
	begin(b)
	counted := time.Since(a.counted) >= countEvery && len(a.counting) > 0
	if counted {
		a.writeCounts(b, l.s)
	}
	lsn := e.LSN
	if a.still {
		lsn, e.Time, e.last = a.applied, 0, plan.Transaction{}
	}
	b.Bind(l.s.name(b, progress.Advance), 10, nil)
	b.String(lsn.String())
	bindTime(b, e.Time)
	b.String(strconv.Itoa(e.transactions))
	b.String(strconv.FormatUint(e.changes, 10))
	b.String(strconv.Itoa(int(a.stream.ID)))
	b.String(a.applied.String())
	if t := &e.last; t.EndLSN == 0 {
		b.Null()
		b.Null()
		b.Null()
		b.Null()
	} else {
		b.String(strconv.FormatUint(uint64(t.XID), 10))
		b.String(t.CommitLSN.String())
		b.String(t.EndLSN.String())
		bindTime(b, t.Time)
	}
	b.Execute()
	b.Do("COMMIT")
	r, err := l.run(b)
	if err != nil || r.Err != nil {
		if r != nil {
			refused = r.Err
		}
		return refused, err
	}
	if counted {
		clear(a.counting)
		a.counted = time.Now()
	}
	a.applied = lsn
	a.committed(e.Position)
	return nil, nil
}

// bindTime binds a time, or NULL if the stream has none.
func bindTime(b *pgwire.Batch, t format.Time) {
	if t == 0 {
		b.Null()
	} else {
		b.String(t.Time().Format("2006-01-02 15:04:05.999999Z07:00"))
	}
}

// askWAL asks for the target's WAL positions, and whether the stream was ended.
func (a *Applier) askWAL(b *pgwire.Batch, s *session) {
	b.Bind(s.name(b, `SELECT pg_catalog.pg_current_wal_insert_lsn(), pg_catalog.pg_current_wal_flush_lsn(),
		(SELECT ended_at IS NOT NULL FROM pgsluice.streams WHERE stream_id = $1::pg_catalog.int4)`), 1, nil)
	b.String(strconv.Itoa(int(a.stream.ID)))
	b.Execute()
}

// committed records a commit. The next Poll gets one WAL position that covers all commits before
// it.
func (a *Applier) committed(p Position) {
	if n := len(a.commits); n > 0 && a.commits[n-1].wal == notAsked {
		a.commits[n-1].Position = p
		return
	}
	a.commits = append(a.commits, commit{wal: notAsked, Position: p})
}

// wal processes the answer to askWAL.
func (a *Applier) wal(r *pgwire.Result) error {
	if len(r.Row) != 3 {
		return errors.New("unexpected answer from the target")
	}
	a.ended.Store(r.Row[2] == "t")
	insert, err := format.ParseLSN(r.Row[0])
	if err != nil {
		return err
	}
	flushed, err := format.ParseLSN(r.Row[1])
	if err != nil {
		return err
	}
	a.walFlushed = max(a.walFlushed, flushed)
	if n := len(a.commits); n > 0 && a.commits[n-1].wal == notAsked {
		a.commits[n-1].wal, a.commits[n-1].asked = endOfRecord(insert), time.Now()
	}
	return nil
}

// endOfRecord converts the position where the next WAL record will begin to the position where the
// last record ended. The two differ by a page header if a page is full. The flush position then
// stays before the header until there is more to flush.
func endOfRecord(insert format.LSN) format.LSN {
	const page, shortHeader, longHeader = 8192, 24, 40
	if off := insert % page; off == shortHeader || off == longHeader {
		return insert - off
	}
	return insert
}

// Durable returns the newest position that the target has flushed. It returns false if an earlier
// call has already returned that position.
func (a *Applier) Durable() (Position, bool) {
	n := 0
	for n < len(a.commits) && a.commits[n].wal <= a.walFlushed {
		n++
	}
	if n == 0 {
		return Position{}, false
	}
	p := a.commits[n-1].Position
	a.commits = a.commits[:copy(a.commits, a.commits[n:])]
	return p, true
}

// Waiting reports whether some positions are not known to be durable. It also returns since when
// the target is known not to have flushed the oldest one, or zero if the target has not been asked.
func (a *Applier) Waiting() (since time.Time, some bool) {
	if len(a.commits) > 0 {
		since = a.commits[0].asked
	}
	return since, len(a.commits) > 0
}

// Lookup reads a table of the target as the open transaction sees it. If xid is not 0, Lookup uses
// the transaction that is written ahead with this XID. It returns nil if there is no such table.
func (a *Applier) Lookup(ctx context.Context, xid uint32, schema, table string) (*catalog.Relation, error) {
	l := a.lane
	if xid != 0 {
		l = a.ahead[xid]
	}
	b := l.s.conn.Batch(ctx)
	b.Bind(l.s.name(b, catalog.LookupStatement(l.s.version)), 2, nil)
	b.String(schema)
	b.String(table)
	b.Execute()
	r, err := l.run(b)
	if err == nil {
		err = l.s.server.Explain(r.Err)
	}
	if err != nil || len(r.Row) == 0 {
		return nil, err
	}
	return catalog.ParseRelation(r.Row[0])
}

// Poll asks the target how far its WAL is flushed.
func (a *Applier) Poll(ctx context.Context) error {
	b := a.s.conn.Batch(ctx)
	a.askWAL(b, a.s)
	r, err := a.run(b)
	if err == nil {
		err = a.s.server.Explain(r.Err)
	}
	if err != nil {
		return err
	}
	return a.wal(r)
}

// Sync makes all commits durable and writes the table counters. While a large transaction is open,
// Sync only polls, because the session must not commit that transaction.
func (a *Applier) Sync(ctx context.Context) error {
	if a.open {
		return a.Poll(ctx)
	}
	b := a.s.conn.Batch(ctx)
	b.Do("BEGIN")
	b.Do("SET LOCAL synchronous_commit = local")
	a.writeCounts(b, a.s)
	b.Do("UPDATE pgsluice.streams SET updated_at = pg_catalog.clock_timestamp() WHERE stream_id = " + strconv.Itoa(int(a.stream.ID)))
	b.Do("COMMIT")
	a.askWAL(b, a.s)
	r, err := a.run(b)
	if err == nil {
		err = a.s.server.Explain(r.Err)
	}
	if err != nil {
		return err
	}
	clear(a.counting)
	a.counted = time.Now()
	if err := a.wal(r); err != nil {
		return err
	}
	for i := range a.commits {
		a.commits[i].wal = 0 // a synchronous commit came after them
	}
	return nil
}

// refusedCommit returns the error for a transaction that fails at commit although each of its
// changes succeeds.
func (a *Applier) refusedCommit(g *plan.Group, first, next int32, lsn format.LSN, cause error) error {
	e := fault.New(fault.Failed, "could not commit the transaction with commit LSN %v: %w", lsn, cause)
	var pg *pgconn.PgError
	if !errors.As(cause, &pg) || pg.Code != "22012" {
		return withServer(e, cause)
	}
	var keys []string
	for i := first; i < next; i++ {
		if _, t := g.Op(i); t != nil {
			for _, k := range t.Deferrable {
				keys = append(keys, fmt.Sprintf("%s (%s) of %s", k.Name, strings.Join(k.Columns, ", "), t))
			}
		}
	}
	if len(keys) == 0 {
		return fault.New(fault.TryAgain, "the position of %v was moved by another process on the target", a.stream.Key).
			WithHint("Only one pgapply may apply a slot's changes. Stop the other one.")
	}
	e.Err = fmt.Errorf("could not commit the transaction with commit LSN %v: two rows would have the same values in a deferrable unique constraint", lsn)
	return e.WithDetail("Constraints of the tables that it changed: %s.", strings.Join(keys, "; ")).
		WithHint("Another session has written to the target. Compare the rows on both sides: pgcutover verify")
}
