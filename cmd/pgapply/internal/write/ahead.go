package write

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
)

// MaxAhead is how many transactions in progress pgapply writes ahead of their commit at the same
// time. Each has its own session.
const MaxAhead = 4

// aheadLockTimeout bounds how long a session waits for a lock while transactions in progress hold
// locks.
const aheadLockTimeout = "3s"

// Ahead writes a piece of a transaction that is still in progress on the source, ahead of its
// commit, on the transaction's own session. It returns false if the target refuses the piece;
// earlier pieces stay.
//
// Writing ahead is safe because the source did the same. No other transaction changed a row that
// this transaction has changed until this one ended. Everything that the source committed before
// this change is already committed on the target. Another session can wait for a lock of this
// session only if the target has other constraints, triggers or users. A lock timeout ends such a
// wait: pgapply then rolls back all transactions in progress and returns a "try again" error. From
// then on the stream's transactions in progress are kept until they commit.
func (a *Applier) Ahead(ctx context.Context, xid uint32, g *plan.Group) (bool, error) {
	l, err := a.aheadLane(ctx, xid)
	if err != nil {
		return false, err
	}
	refused, err := l.piece(ctx, g)
	return refused == nil, err
}

// FlushAhead writes another piece of a transaction that Ahead has begun and that has now committed
// on the source.
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
		l = &lane{s: s, skipLocked: true, onConflict: a.onConflict, stream: a.stream.ID, slot: a.slot, conflicts: a.conflicts}
	}
	if err := l.s.exec(ctx, "SET lock_timeout = '"+aheadLockTimeout+"'"); err != nil {
		l.s.close()
		return nil, err
	}
	a.ahead[xid] = l
	a.skipLocked = true
	return l, nil
}

// SetAside turns the open transaction, which Flush has partly written, into one that is written
// ahead of its commit, because the source has prepared it. The session moves with the transaction
// and keeps the stream's lock.
func (a *Applier) SetAside(ctx context.Context, xid uint32) error {
	l, err := a.aheadLane(ctx, xid)
	if err != nil {
		return err
	}
	a.ahead[xid], a.lane = a.lane, l
	return nil
}

// put moves a transaction's lane to the spare lanes.
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

// AbortAhead rolls back a transaction that Ahead has begun, or only one of its subtransactions.
func (a *Applier) AbortAhead(ctx context.Context, xid, sub uint32) error {
	if sub != xid {
		return a.ahead[xid].rollbackTo(ctx, sub)
	}
	if err := a.ahead[xid].rollback(ctx); err != nil {
		return err
	}
	return a.put(ctx, xid)
}

// Abort rolls back everything written for incomplete transactions.
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

// renew replaces a session in which other people's code has run. If another process takes the
// stream's lock in between, that process keeps it.
func (a *Applier) renew(ctx context.Context, l *lane) error {
	if !l.tainted {
		return nil
	}
	// This frees the lock at once. Otherwise the lock is held until the server notices that the
	// session is gone.
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

// Flush writes a piece of a transaction that is complete on the source but too large to write at
// once.
func (a *Applier) Flush(ctx context.Context, g *plan.Group) error {
	err := a.flush(ctx, g)
	return or(a.blocked(ctx, err), err)
}

// blocked stops writing ahead if a transaction in progress may have caused a refusal.
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

// Spill stores pieces of transactions in progress on the target.
func (a *Applier) Spill(ctx context.Context, pieces ...Piece) error {
	return a.spill(ctx, func(b *pgwire.Batch) {
		for _, p := range pieces {
			a.spillRow(b, p.XID, p.Data)
		}
	})
}

// spilledAtOnce is how many bytes of a change go into one row.
const spilledAtOnce = 256 << 10

// SpillLent stores one change of a transaction in progress. The change comes in slices, and each
// slice takes as many rows as it needs.
func (a *Applier) SpillLent(ctx context.Context, xid uint32, slices [][]byte) error {
	return a.spill(ctx, func(b *pgwire.Batch) {
		for _, s := range slices {
			for len(s) > 0 {
				n := min(len(s), spilledAtOnce)
				a.spillRow(b, xid, s[:n])
				s = s[n:]
			}
		}
	})
}

// spill copies rows in the binary format.
func (a *Applier) spill(ctx context.Context, rows func(*pgwire.Batch)) error {
	b := a.s.conn.Batch(ctx)
	b.Do("COPY pgsluice.spill (stream_id, xid, data) FROM STDIN (FORMAT binary)")
	b.CloseCopyData(append(b.OpenCopyData(), "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"...))
	rows(b)
	b.CloseCopyData(append(b.OpenCopyData(), 0xff, 0xff))
	b.CopyDone()
	r, err := a.run(b)
	if err == nil {
		err = a.s.server.Explain(r.Err)
	}
	return err
}

func (a *Applier) spillRow(b *pgwire.Batch, xid uint32, data []byte) {
	buf := append(b.OpenCopyData(), 0, 3, 0, 0, 0, 4) // three values; the length of the first
	buf = binary.BigEndian.AppendUint32(buf, uint32(a.stream.ID))
	buf = binary.BigEndian.AppendUint32(buf, 8)
	buf = binary.BigEndian.AppendUint64(buf, uint64(xid))
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(data)))
	b.CloseCopyData(append(buf, data...))
}

// A Piece is a part of a transaction in progress, in the form that package plan logs.
type Piece struct {
	XID  uint32
	Data []byte
}
