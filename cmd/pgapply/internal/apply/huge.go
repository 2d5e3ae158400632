package apply

import (
	"context"

	"github.com/pgsluice/pgsluice/cmd/internal/huge"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/write"
	"github.com/pgsluice/pgsluice/format"
)

// A change with a huge record is written by itself, directly from the reader's memory. Nothing else
// happens until the writer is done with that memory.

// hugeRecord is the size from which a record is huge: such a record would fill a group.
const hugeRecord = maxGroups / 2

// nextRecord reads the next record, and notes whether it is huge.
func (f *follower) nextRecord() (format.Record, error) {
	before := f.reader.N()
	rec, err := f.reader.Next()
	f.huge = f.reader.N()-before >= hugeRecord
	return rec, err
}

// alone writes a change of the open transaction by itself, after all earlier changes, and waits for
// it.
func (f *follower) alone(add func(*plan.Group) error) error {
	if err := f.settle(); err != nil {
		return err
	}
	if f.cur.Pending() > 0 {
		if err := f.writePart(); err != nil {
			return err
		}
	}
	f.cur.Lend = true
	err := add(f.cur)
	f.cur.Lend = false
	if err != nil || f.cur.Pending() == 0 { // the change may be skipped
		return err
	}
	return f.writePart()
}

// writePart writes the open transaction as far as it has been read, and waits for the writer.
func (f *follower) writePart() error {
	if err := f.flush(); err != nil {
		return err
	}
	return f.await()
}

// alone writes a change of the open block by itself, ahead of the commit, or spills it.
func (p *inProgress) alone(ctx context.Context, rec format.Record) error {
	if err := p.catchUp(ctx); err != nil {
		return err
	}
	if err := p.settle(); err != nil { // the writer is idle from here on
		return err
	}
	t := p.block
	if t.log.Size() > 0 {
		var err error
		if t.ahead || p.mayAhead() {
			err = p.write(t)
		} else {
			err = p.spill(t)
		}
		if err == nil {
			err = p.await()
		}
		if err != nil {
			return err
		}
	}
	t.bytes += hugeRecord
	log := plan.Log{Lend: true}
	sub, tab := logChange(&log, rec, p.tables)
	putAway := func(ctx context.Context, _ *plan.Group) error {
		t.spilled = true
		t.held = t.held || t.ahead
		return p.applier.SpillLent(ctx, t.xid, log.TakeLent())
	}
	if t.held || tab.Problem != nil || !t.ahead && !p.mayAhead() {
		if err := p.do(putAway); err != nil {
			return err
		}
		return p.await()
	}
	g := p.take()
	if !p.savepoints(t, g).Sub(sub) {
		p.idle = append(p.idle, g)
		return nil
	}
	g.Lend = true
	addChange(g, rec, tab)
	g.Fold()
	if !t.ahead {
		t.ahead = true
		p.ahead++
	}
	if err := p.send(job{group: g, do: func(ctx context.Context, g *plan.Group) error {
		done, err := p.applier.Ahead(ctx, t.xid, g)
		if err != nil || done {
			return err
		}
		return putAway(ctx, g)
	}}); err != nil {
		return err
	}
	return p.await()
}

// spill stores a transaction's log in a table on the target.
func (p *inProgress) spill(t *transaction) error {
	piece := p.putAway(t)
	return p.do(func(ctx context.Context, _ *plan.Group) error { return p.applier.Spill(ctx, piece) })
}

// putAway empties a transaction's log into a piece to spill.
func (p *inProgress) putAway(t *transaction) write.Piece {
	t.spilled, p.spilling = true, true
	t.bytes += t.log.Len()
	return write.Piece{XID: t.xid, Data: p.unlog(t)}
}

// logChange logs a change of a row. It returns its subtransaction and its table.
func logChange(l *plan.Log, rec format.Record, tables map[uint32]*plan.Table) (sub uint32, t *plan.Table) {
	switch r := rec.(type) {
	case *format.Insert:
		t = tables[r.Relation]
		l.Insert(r.XID, t, r.New)
		return r.XID, t
	case *format.Update:
		t = tables[r.Relation]
		l.Update(r.XID, t, r.Old, r.New)
		return r.XID, t
	case *format.Delete:
		t = tables[r.Relation]
		l.Delete(r.XID, t, r.Old)
		return r.XID, t
	}
	return 0, nil
}

// addChange adds a change of a row to a group.
func addChange(g *plan.Group, rec format.Record, t *plan.Table) {
	switch r := rec.(type) {
	case *format.Insert:
		g.Insert(t, r.New)
	case *format.Update:
		g.Update(t, r.Old, r.New)
	case *format.Delete:
		g.Delete(t, r.Old)
	}
}

// A joiner joins what was spilled in slices.
type joiner struct {
	buf  []byte
	got  int
	do   func(piece []byte, lent bool) error
	open bool
}

// add takes what was spilled, in order, and passes it on piece by piece. A lent piece is valid only
// until do returns.
func (j *joiner) add(piece []byte) error {
	if !j.open {
		size, ok := plan.Lent(piece)
		if !ok {
			return j.do(piece, false)
		}
		j.buf, j.got, j.open = huge.Alloc(size), 0, true
		return nil
	}
	j.got += copy(j.buf[j.got:], piece)
	if j.got < len(j.buf) {
		return nil
	}
	j.open = false
	err := j.do(j.buf, true)
	huge.Free(j.buf)
	j.buf = nil
	return err
}
