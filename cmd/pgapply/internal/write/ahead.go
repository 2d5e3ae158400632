package write

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
)

// MaxAhead is how many transactions in progress are written ahead of their commit at the same time,
// each on a session of its own.
const MaxAhead = 4

// aheadLockTimeout bounds how long a session waits for a lock while transactions in progress hold
// some.
const aheadLockTimeout = "3s"

// Ahead writes a piece of a transaction that is in progress on the source, ahead of its commit, on
// a session of its own. It returns false if the target refuses it; what was written before stays.
//
// That is safe because the source has done the same: a row that the transaction has changed was not
// changed by others until it ended, and everything that was committed there before it came to this
// change is committed here too. Only on a target that has other constraints, triggers or users may
// another session wait for a lock that this one holds. A timeout ends that: then all transactions
// in progress are rolled back, and the error says "try again": from then on the stream's
// transactions in progress are kept until they commit.
func (a *Applier) Ahead(ctx context.Context, xid uint32, g *plan.Group) (bool, error) {
	l, err := a.aheadLane(ctx, xid)
	if err != nil {
		return false, err
	}
	refused, err := l.piece(ctx, g)
	return refused == nil, err
}

// FlushAhead writes another piece when the transaction has committed on the source.
func (a *Applier) FlushAhead(ctx context.Context, xid uint32, g *plan.Group) error {
	return a.ahead[xid].flush(ctx, g)
}

func (a *Applier) aheadLane(ctx context.Context, xid uint32) (*lane, error) {
	if l := a.ahead[xid]; l != nil {
		return l, nil
	}
	if len(a.ahead) == 0 {
		if err := a.s.exec(ctx, "SET lock_timeout = '"+aheadLockTimeout+"'"); err != nil {
			return nil, err
		}
	}
	var l *lane
	if n := len(a.spare); n > 0 {
		l, a.spare = a.spare[n-1], a.spare[:n-1]
	} else {
		s, err := newSession(ctx, a.s.server, a.log, a.stream, progress.Ahead)
		if err != nil {
			return nil, err
		}
		l = &lane{s: s, skipLocked: true, onConflict: a.onConflict, stream: a.stream.ID, conflicts: a.conflicts}
	}
	if err := l.s.exec(ctx, "SET lock_timeout = '"+aheadLockTimeout+"'"); err != nil {
		l.s.close()
		return nil, err
	}
	a.ahead[xid] = l
	a.skipLocked = true
	return l, nil
}

// SetAside makes the open transaction, which Flush has written in part, one that is ahead of its
// commit: it was prepared. Its session goes with it, and keeps the stream's lock.
func (a *Applier) SetAside(ctx context.Context, xid uint32) error {
	l, err := a.aheadLane(ctx, xid)
	if err != nil {
		return err
	}
	a.ahead[xid], a.lane = a.lane, l
	return nil
}

// put takes a lane out of use.
func (a *Applier) put(ctx context.Context, xid uint32) error {
	if err := a.renew(ctx, a.ahead[xid]); err != nil {
		return err
	}
	a.spare = append(a.spare, a.ahead[xid])
	delete(a.ahead, xid)
	if len(a.ahead) > 0 {
		return nil
	}
	a.skipLocked = false
	return a.s.exec(ctx, "SET lock_timeout = 0")
}

// CommitAhead commits a transaction that Ahead has begun.
func (a *Applier) CommitAhead(ctx context.Context, t plan.Transaction) error {
	if err := a.finish(ctx, a.ahead[t.XID], t.CommitLSN, end{Position: Position{t.EndLSN, t.Time}, transactions: 1, last: t}); err != nil {
		return err
	}
	return a.put(ctx, t.XID)
}

// AbortAhead rolls a transaction that Ahead has begun back, or only one of its subtransactions.
func (a *Applier) AbortAhead(ctx context.Context, xid, sub uint32) error {
	if sub != xid {
		return a.ahead[xid].rollbackTo(ctx, sub)
	}
	if err := a.ahead[xid].rollback(ctx); err != nil {
		return err
	}
	return a.put(ctx, xid)
}

// Abort rolls back whatever has been written of transactions that are not complete.
func (a *Applier) Abort(ctx context.Context) error {
	for xid := range a.ahead {
		if err := a.AbortAhead(ctx, xid, xid); err != nil {
			return err
		}
	}
	if err := a.rollback(ctx); err != nil {
		return err
	}
	return a.renew(ctx, a.lane)
}

// renew replaces a session that has run code of others. If another process takes the stream in
// between, that process keeps it.
func (a *Applier) renew(ctx context.Context, l *lane) error {
	if !l.tainted {
		return nil
	}
	// The lock is free at once, and not when the server has noticed that the session is gone.
	if err := l.s.exec(ctx, "SELECT pg_catalog.pg_advisory_unlock_all()"); err != nil {
		return err
	}
	l.s.close()
	use := l.s.use
	if use == progress.Applying {
		use = progress.ApplyingAgain
	}
	s, err := newSession(ctx, a.s.server, a.log, a.stream, use)
	if err != nil {
		return err
	}
	l.s, l.tainted = s, false
	if len(a.ahead) > 0 {
		return s.exec(ctx, "SET lock_timeout = '"+aheadLockTimeout+"'")
	}
	return nil
}

// Flush writes a piece of a transaction that is complete on the source, but too large to be written
// in one go.
func (a *Applier) Flush(ctx context.Context, g *plan.Group) error {
	err := a.flush(ctx, g)
	return or(a.blocked(ctx, err), err)
}

// blocked ends the writing ahead of transactions if one of them may be the reason of a refusal.
func (a *Applier) blocked(ctx context.Context, refused error) error {
	if len(a.ahead) == 0 || !isLockTimeout(refused) {
		return nil
	}
	return a.giveUp(ctx, refused)
}

func (a *Applier) giveUp(ctx context.Context, cause error) error {
	for _, l := range a.ahead {
		l.s.close()
	}
	clear(a.ahead)
	// The main session may be in a failed transaction.
	if err := a.s.exec(ctx, fmt.Sprintf("ROLLBACK; UPDATE pgsluice.streams SET ahead = false WHERE stream_id = %d",
		a.stream.ID)); err != nil {
		return err
	}
	return fault.New(fault.TryAgain, "transactions in progress block others: %w", cause).
		WithDetail("The target has rolled them back. From now on pgapply keeps their changes until they commit.").
		WithHint("Start the same commands again.")
}

func isLockTimeout(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "55P03" || pg.Code == "40P01")
}

// Spill puts pieces of transactions in progress away on the target.
func (a *Applier) Spill(ctx context.Context, pieces ...Piece) error {
	b := a.s.conn.Batch(ctx)
	b.Do("COPY pgsluice.spill (stream_id, xid, data) FROM STDIN")
	for _, p := range pieces {
		buf := b.OpenCopyData()
		buf = fmt.Appendf(buf, "%d\t%d\t\\\\x%x\n", a.stream.ID, p.XID, p.Data)
		b.CloseCopyData(buf)
	}
	b.CopyDone()
	r, err := a.run(b)
	if err == nil {
		err = a.s.server.Explain(r.Err)
	}
	return err
}

// spilledAtOnce is how much of a change goes into one row.
const spilledAtOnce = 256 << 10

// SpillLent puts a change of a transaction in progress away, which comes in slices: each in as many
// rows as it needs.
func (a *Applier) SpillLent(ctx context.Context, xid uint32, slices [][]byte) error {
	b := a.s.conn.Batch(ctx)
	b.Do("COPY pgsluice.spill (stream_id, xid, data) FROM STDIN")
	for _, s := range slices {
		for len(s) > 0 {
			n := min(len(s), spilledAtOnce)
			buf := fmt.Appendf(b.OpenCopyData(), "%d\t%d\t\\\\x", a.stream.ID, xid)
			b.CloseCopyData(append(hex.AppendEncode(buf, s[:n]), '\n'))
			s = s[n:]
		}
	}
	b.CopyDone()
	r, err := a.run(b)
	if err == nil {
		err = a.s.server.Explain(r.Err)
	}
	return err
}

// A Piece is a part of a transaction in progress as package plan logs it.
type Piece struct {
	XID  uint32
	Data []byte
}
