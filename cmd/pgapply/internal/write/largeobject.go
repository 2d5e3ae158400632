package write

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/format"
)

// largeObjects writes the large objects of a load in one transaction. Schema pgsluice treats them
// as one more table, whose rows are the objects.
type largeObjects struct {
	l       *Loader
	records chan *format.LargeObject
	done    bool
	ended   bool            // all large objects have arrived
	empty   map[uint32]bool // objects that were created and have no bytes yet
}

// lobTable is the table that represents the large objects in schema pgsluice.
var lobTable = [2]string{"pg_catalog", "pg_largeobject"}

// LargeObject takes a chunk of a large object.
func (l *Loader) LargeObject(r *format.LargeObject) error {
	if l.lobs == nil {
		if err := l.startLargeObjects(); err != nil {
			return err
		}
	}
	if l.lobs.records == nil {
		return nil
	}
	for rest, more := *r, true; more; {
		c := rest
		c.Data = bytes.Clone(rest.Data[:min(len(rest.Data), lobPiece)])
		rest.Data = rest.Data[len(c.Data):]
		rest.Offset += uint64(len(c.Data))
		more = len(rest.Data) > 0
		select {
		case l.lobs.records <- &c:
		case <-l.ctx.Done():
			return l.failure()
		}
	}
	return nil
}

// lobPiece bounds how much of a large object one statement writes, because a record may have any
// size.
const lobPiece = 1 << 20

func (l *Loader) startLargeObjects() error {
	l.lobs = &largeObjects{l: l}
	if s := l.states[lobTable]; s != nil && s.Status == "loaded" {
		return nil
	}
	if err := l.flush(); err != nil {
		return err
	}
	if err := l.oneSnapshot(nil); err != nil {
		return err
	}
	s, err := l.acquire()
	if err != nil {
		return err
	}
	if err := progress.QueueTables(l.ctx, l.Control, l.Stream.ID,
		[]progress.LoadTable{{Schema: lobTable[0], Name: lobTable[1], SourceSchema: lobTable[0],
			SourceName: lobTable[1]}}); err != nil {
		return l.Server.Explain(err)
	}
	l.lobs.records = make(chan *format.LargeObject, queuedChunks)
	l.copying.Add(1)
	go func() {
		defer l.copying.Done()
		if err := l.lobs.write(s); err != nil {
			s.close()
			if errors.Is(err, errIncomplete) {
				return
			}
			l.fail(fmt.Errorf("load large objects: %w", err))
			for range l.lobs.records { // the sender must not block forever
			}
			return
		}
		l.release(s)
	}()
	return nil
}

// end says that all large objects have arrived. close alone says only that no more will arrive.
func (o *largeObjects) end() {
	if o != nil {
		o.ended = true
		o.close()
	}
}

func (o *largeObjects) close() {
	if o != nil && o.records != nil && !o.done {
		o.done = true
		close(o.records)
	}
}

// write writes the large objects that arrive, and commits if all of them have arrived.
func (o *largeObjects) write(s *session) error {
	l := o.l
	if err := s.exec(l.ctx, "BEGIN"); err != nil {
		return err
	}
	where := fmt.Sprintf("stream_id = %d AND schema_name = '%s' AND table_name = '%s'", l.Stream.ID, lobTable[0], lobTable[1])
	var b strings.Builder
	var count, size int
	flush := func() error {
		err := l.Server.Explain(s.conn.Exec(l.ctx, b.String()))
		b.Reset()
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "23505" {
			return fault.New(fault.Config, "a large object of this load exists on the target already: %w", err).
				WithHint("Use a database without large objects. These are there: SELECT oid, lomowner::regrole FROM pg_largeobject_metadata;")
		}
		return err
	}
	o.empty = make(map[uint32]bool)
	for r := range o.records {
		if r.Offset == 0 && !o.empty[r.OID] {
			// One call creates the object and writes its first bytes.
			fmt.Fprintf(&b, "SELECT pg_catalog.lo_from_bytea(%d::oid, '\\x%x');\n", r.OID, r.Data)
			count++
		} else {
			fmt.Fprintf(&b, "SELECT pg_catalog.lo_put(%d::oid, %d, '\\x%x');\n", r.OID, r.Offset, r.Data)
		}
		if len(r.Data) == 0 {
			o.empty[r.OID] = true
		} else {
			delete(o.empty, r.OID)
		}
		size += len(r.Data)
		if b.Len() > 1<<20 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if !o.ended {
		return errIncomplete
	}
	fmt.Fprintf(&b, `UPDATE pgsluice.tables SET status = 'loaded', snapshot = %s, rows = %d, bytes = %d, copied_at = clock_timestamp(), loaded_at = clock_timestamp() WHERE %s; COMMIT`,
		progress.Literal(l.Snapshot), count, size, where)
	return flush()
}
