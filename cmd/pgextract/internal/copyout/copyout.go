// Package copyout reads the rows of tables by COPY and writes them to the stream. Several
// connections share one snapshot.
package copyout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/meter"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/format"
)

// chunkSize is about how many bytes go into one record: enough to make the cost per record
// negligible.
const chunkSize = 256 << 10

// An Output is the stream. Several connections can write to it at the same time.
type Output struct {
	mu   sync.Mutex
	w    *format.Writer
	torn error // why a record was not written to its end
}

// NewOutput returns an Output that writes to w.
func NewOutput(w *format.Writer) *Output { return &Output{w: w} }

// Write writes records with no other record between them.
func (o *Output) Write(records ...format.Record) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.torn != nil {
		return o.torn
	}
	for _, r := range records {
		if err := o.w.Write(r); err != nil {
			return err
		}
	}
	return nil
}

// WriteFrom writes a record whose data is the next size bytes of r. Until it returns, all other
// writes wait.
func (o *Output) WriteFrom(rec format.Record, size int, r io.Reader) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.torn == nil {
		o.torn = o.w.WriteFrom(rec, size, r)
	}
	return o.torn
}

// step is how many bytes a connection waits for at once under a rate, and the burst of a limiter.
const step = 16 << 10

// NewLimiter returns a limiter for bytes in a second.
func NewLimiter(limit rate.Limit) *rate.Limiter { return rate.NewLimiter(limit, step) }

// Wait waits until n more bytes may have been read. It takes small steps, so that a new limit has
// an effect at once.
func Wait(ctx context.Context, limiter *rate.Limiter, n int) error {
	for ; n > 0; n -= step {
		if err := limiter.WaitN(ctx, min(n, step)); err != nil {
			return err
		}
	}
	return nil
}

// A Reader reads parts over several connections that see one snapshot.
type Reader struct {
	Server   pgdial.Server
	Snapshot string // to import
	LSN      format.LSN
	Jobs     int
	Rate     *rate.Limiter // of all connections together
	Out      *Output
	Meter    *meter.Meter
	Log      *slog.Logger
	Changed  map[uint32]*catalog.Table // by OID
}

// Read reads all parts and returns how many rows and bytes it has read. If a table can no longer be
// read as of the snapshot, Read adds it to r.Changed, and writes nothing of that part.
func (r *Reader) Read(ctx context.Context, parts []*Part) (rows, bytes uint64, err error) {
	queue := make(chan int)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(queue)
		for i := range parts {
			select {
			case queue <- i:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	r.Changed = make(map[uint32]*catalog.Table)
	var mu sync.Mutex
	for range min(r.Jobs, len(parts)) {
		g.Go(func() error {
			conn, gulp, err := r.connect(ctx)
			if err != nil {
				return err
			}
			defer conn.Close()
			c := &copier{Reader: r, conn: conn, gulp: gulp, chunk: make([]byte, 0, chunkSize+chunkSize/4)}
			for i := range queue {
				there, err := c.part(ctx, uint32(i)+1, parts[i])
				if err != nil {
					return err
				}
				if !there {
					mu.Lock()
					r.Changed[parts[i].Table.ID] = parts[i].Table
					mu.Unlock()
				}
			}
			mu.Lock()
			defer mu.Unlock()
			rows += c.totalRows
			bytes += c.totalBytes
			return nil
		})
	}
	return rows, bytes, g.Wait()
}

func (r *Reader) connect(ctx context.Context) (*pgwire.Conn, *pgdial.Gulp, error) {
	pg, gulp, err := r.Server.ConnectRaw(ctx, false)
	if err != nil {
		return nil, nil, err
	}
	conn, err := pgwire.Hijack(pg)
	if err != nil {
		return nil, nil, err
	}
	if err := conn.Exec(ctx, r.begin()); err != nil {
		_ = conn.Close()
		return nil, nil, slot.Ended(r.Server.Explain(err))
	}
	if err := r.prepare(ctx, conn); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return conn, gulp, nil
}

// transaction returns the statements that begin a transaction which reads the snapshot.
func (r *Reader) transaction() []string {
	return []string{"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "SET TRANSACTION SNAPSHOT '" + r.Snapshot + "'"}
}

// begin returns the statements with which a session begins to read the snapshot.
func (r *Reader) begin() string {
	return strings.Join(r.transaction(), "; ") + "; " +
		// Otherwise a scan may start in the middle of a table that another session is reading, and
		// parallel workers may read a range of pages.
		"SET synchronize_seqscans = off; SET max_parallel_workers_per_gather = 0; " + pgdial.TablesOnly("source")
}

// A copier reads parts over one connection.
type copier struct {
	*Reader
	conn       *pgwire.Conn
	gulp       *pgdial.Gulp
	chunk      []byte
	rows       uint64 // in the chunk
	data       format.CopyData
	meter      *meter.Part
	locked     uint32 // OID of the table that the transaction has locked; 0: none
	byKey      bool   // sequential scans are off
	totalRows  uint64
	totalBytes uint64
	bases      map[uint32]uint32 // the types below domains
}

// part reads a part, and reports whether it could be read as of the snapshot.
func (c *copier) part(ctx context.Context, number uint32, p *Part) (there bool, err error) {
	columns, there, err := c.lock(ctx, p)
	if !there || err != nil {
		return false, err
	}
	if p.ByKey != c.byKey {
		// A range of a key that looks large to the planner would be read by looking at the whole
		// table.
		set := map[bool]string{true: "off", false: "on"}[p.ByKey]
		if err := c.conn.Exec(ctx, "SET enable_seqscan = "+set); err != nil {
			return false, c.Server.Explain(err)
		}
		c.byKey = p.ByKey
	}
	begun := false
	begin := func() error {
		if begun {
			return nil
		}
		begun = true
		c.meter = c.Meter.Part(p.Table.Schema+"."+p.Table.Name, uint64(p.Bytes))
		return c.Out.Write(&format.CopyBegin{Part: number, Relation: p.Table.ID, Columns: p.Columns,
			Format: p.Format, Index: uint64(p.Index), Of: uint64(p.Of),
			SnapshotLSN: c.LSN, Rows: uint64(p.Rows), Bytes: uint64(p.Bytes)})
	}
	c.data.Part = number
	end := format.CopyEnd{Part: number}
	binary, first := p.Format == format.CopyBinary, true
	var failed error // to write the stream, which is not the source's fault
	counted, err := c.conn.CopyOut(ctx, p.SQL(columns), func(row []byte) error {
		if failed = begin(); failed != nil {
			return failed
		}
		c.chunk = append(c.chunk, row...)
		if !binary || isBinaryRow(row, first) {
			c.rows++
		}
		first = false
		switch {
		case c.conn.Rest() > 0:
			return c.passOn(ctx, &end, &failed)
		case len(c.chunk) >= chunkSize:
			failed = c.flush(ctx, &end)
		}
		return failed
	})
	if failed != nil {
		return false, failed
	}
	if err != nil {
		return false, fmt.Errorf("copy %s.%s: %w", p.Table.Schema, p.Table.Name, mayRead(p.Table, c.Server.Explain(err)))
	}
	if err := begin(); err != nil {
		return false, err
	}
	if err := c.flush(ctx, &end); err != nil {
		return false, err
	}
	if end.Rows != counted {
		return false, fmt.Errorf("copy %s.%s: received %d rows, but the server counted %d", p.Table.Schema,
			p.Table.Name, end.Rows, counted)
	}
	c.meter.Done()
	c.totalRows += end.Rows
	c.totalBytes += end.Bytes
	return true, c.Out.Write(&end)
}

// again starts a new transaction on the same snapshot, after an error.
func (c *copier) again(ctx context.Context) error {
	c.byKey, c.locked = false, 0
	return slot.Ended(c.Server.Explain(c.conn.Exec(ctx, "ROLLBACK; "+c.begin())))
}

// isBinaryRow reports whether a message of binary COPY data has a row. The first message begins
// with the header. The last one has only the trailer, or the header and the trailer.
func isBinaryRow(msg []byte, first bool) bool {
	const header = 19
	if first {
		msg = msg[min(header, len(msg)):]
	}
	return len(msg) > 0 && !(len(msg) == 2 && msg[0] == 0xff && msg[1] == 0xff)
}

// passOn writes a row whose beginning is in the chunk, and whose rest it reads from the connection.
// If the stream cannot be written, passOn sets failed to the reason.
func (c *copier) passOn(ctx context.Context, end *format.CopyEnd, failed *error) error {
	begin := c.chunk
	size := len(begin) + c.conn.Rest()
	c.data.Rows, c.data.Data = c.rows, nil
	c.chunk, c.rows = c.chunk[:0], 0
	rest := &rest{copier: c, ctx: ctx}
	err := c.Out.WriteFrom(&c.data, size, io.MultiReader(bytes.NewReader(begin), rest))
	if err != nil {
		if rest.err == nil {
			*failed = err
		}
		return err
	}
	c.meter.Add(c.data.Rows, uint64(size))
	end.Rows += c.data.Rows
	end.Bytes += uint64(size)
	return nil
}

// A rest reads the rest of a row. It keeps the connection's errors apart from the stream's.
type rest struct {
	*copier
	ctx context.Context
	err error
}

func (r *rest) Read(p []byte) (n int, err error) {
	n, err = r.conn.Read(p)
	if err == nil {
		err = Wait(r.ctx, r.Rate, n)
	}
	if err != nil && err != io.EOF {
		err = r.Server.Explain(err)
		r.err = err
	}
	return n, err
}

func (c *copier) flush(ctx context.Context, end *format.CopyEnd) error {
	if len(c.chunk) == 0 {
		return nil
	}
	if err := Wait(ctx, c.Rate, len(c.chunk)); err != nil {
		return err
	}
	c.data.Rows, c.data.Data = c.rows, c.chunk
	err := c.Out.Write(&c.data)
	c.meter.Add(c.rows, uint64(len(c.chunk)))
	end.Rows += c.rows
	end.Bytes += uint64(len(c.chunk))
	c.rows = 0
	if cap(c.chunk) > 4*chunkSize {
		c.chunk = make([]byte, 0, chunkSize+chunkSize/4) // one huge row must not stay in memory
	}
	c.chunk = c.chunk[:0]
	return err
}

// mayRead says what to do about a table that may not be read.
func mayRead(t *catalog.Table, err error) error {
	var f *fault.Error
	if errors.As(err, &f) && f.Status == fault.Permission && f.Hint == "" {
		return f.WithHint("On the source: GRANT SELECT ON %s TO …; a table with row-level security also needs ALTER ROLE … BYPASSRLS.",
			text.Ident(t.Schema, t.Name))
	}
	return err
}
