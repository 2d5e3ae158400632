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

// copyWork is the state of the parts under way. Each part has its own goroutine. mu guards the
// fields below it, which other goroutines use.
type copyWork struct {
	parts   map[uint32]*part
	copying sync.WaitGroup
	// one element for each part that has ended in the stream, but is not committed yet
	ended  chan struct{}
	chunks chan []byte         // free buffers
	room   *semaphore.Weighted // maxQueued bytes

	mu      sync.Mutex
	refused []*loadTable // tables that the load continues without
	idle    []*session
	copies  copies
	rows    uint64
	bytes   uint64
}

// A part is a part of a table. Its own goroutine copies it.
type part struct {
	*format.CopyBegin
	table  *loadTable
	meter  *meter.Part
	skip   bool // the target already has the part
	chunks chan chunk
	end    *format.CopyEnd
	far    onTheWay
}

// queuedChunks is how many chunks may wait for a session: enough to bridge the session's pauses,
// and little memory.
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
	if err := l.oneSnapshot(t.rel); err != nil {
		return err
	}
	l.begins(p)
	l.copying.Add(1)
	go func() {
		defer l.copying.Done()
		err := l.copyPart(p)
		l.ends(p)
		if err != nil && !errors.Is(err, errIncomplete) {
			if !l.without(t, err) {
				l.fail(err)
			}
			for c := range p.chunks { // the sender must not block forever
				l.drop(c)
			}
		}
		if p.end == nil {
			return // Drop or Close has closed the part, and CopyEnd never comes
		}
		select {
		case <-l.ended:
		case <-l.ctx.Done():
		}
	}()
	return nil
}

// past returns an error if the target is past a snapshot, because the changes in between would
// never be sent again.
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

// A chunk is data on its way to a part's goroutine.
type chunk struct {
	b    []byte        // begins with room for pgwire's head, unless the chunk is lent
	lent chan struct{} // set if b is not a copy; closed when b is no longer needed
}

const (
	// lentChunk is the size from which a chunk is not copied. A chunk of that size is one huge row.
	lentChunk = 4 << 20
	// maxQueued bounds the bytes of the chunks of all parts that wait for their sessions.
	maxQueued = 16 << 20
	// chunkKept is the size below which a chunk's memory is used again.
	chunkKept = 1 << 20
)

// lend hands over a chunk without copying it, and waits until the chunk is written. Therefore only
// one chunk is lent at a time.
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

// write sends a chunk to the server and releases its memory.
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

// drop discards a chunk that can no longer be written.
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
		// Small tables may arrive faster than they are committed, and each has a session. Wait here
		// to bound the number of sessions.
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
