package write

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// beatEvery is how often a load records on the target that it is running, and how far it has copied
// its tables. pgcutover status reads both.
const beatEvery = 2 * time.Second

// onTheWay counts the rows and bytes of a part that have arrived.
type onTheWay struct{ rows, bytes atomic.Uint64 }

// copies are the parts that are being copied and are not committed yet. The Loader's mu guards the
// map.
type copies map[*part]bool

func (l *Loader) begins(p *part) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.copies == nil {
		l.copies = make(copies)
	}
	l.copies[p] = true
}

func (l *Loader) ends(p *part) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.copies, p)
}

// beat records the progress until the load ends. It uses its own session and ignores errors,
// because nothing depends on it.
func (l *Loader) beat() {
	var c *pgx.Conn
	defer func() {
		if c != nil {
			_ = c.Close(context.WithoutCancel(l.ctx))
		}
	}()
	told := make(map[[2]string]bool)
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-time.After(beatEvery):
		}
		if c == nil || c.IsClosed() {
			var err error
			if c, err = l.Server.Connect(l.ctx); err == nil {
				_, err = c.Exec(l.ctx, "SET synchronous_commit = off")
			}
			if err != nil {
				c = nil
				continue
			}
		}
		_ = progress.Beat(l.ctx, c, l.Stream.ID, l.far(told))
	}
}

// far returns the progress of the tables with parts under way. A table that had parts at the last
// call and has none now gets zeros.
func (l *Loader) far(told map[[2]string]bool) (list []progress.Copying) {
	at := make(map[[2]string]*progress.Copying)
	for k := range told {
		at[k] = &progress.Copying{Schema: k[0], Name: k[1]}
	}
	clear(told)
	l.mu.Lock()
	for p := range l.copies {
		k := [2]string{p.table.schema, p.table.name}
		if at[k] == nil {
			at[k] = &progress.Copying{Schema: k[0], Name: k[1]}
		}
		at[k].Rows += p.far.rows.Load()
		at[k].Bytes += p.far.bytes.Load()
		told[k] = true
	}
	l.mu.Unlock()
	for _, c := range at {
		list = append(list, *c)
	}
	return list
}
