package write

import (
	"errors"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/meter"
	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/format"
)

// copyWork is what is under way, for each part of a table by a goroutine of its own. What other
// goroutines use stands behind mu.
type copyWork struct {
	parts   map[uint32]*part
	copying sync.WaitGroup
	// one for each part that has come to its end in the stream, but is not yet committed
	ended  chan struct{}
	chunks chan []byte         // empty ones
	room   *semaphore.Weighted // of maxQueued

	mu      sync.Mutex
	refused []*loadTable // that the load goes on without
	idle    []*session
	copies  copies
	rows    uint64
	bytes   uint64
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

// queuedChunks is how many chunks may wait for a session: enough to ride out its pauses, and little
// memory.
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

// past returns an error if the target is past a snapshot: the changes in between would never come
// again.
func (l *Loader) past(lsn format.LSN) error {
	if l.Stream.Key.Slot == "" || l.Stream.Applied <= lsn {
		return nil
	}
	return fault.New(fault.Config,
		"the snapshot of this load was taken at LSN %v, but changes up to LSN %v have been applied already",
		lsn, l.Stream.Applied).
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
