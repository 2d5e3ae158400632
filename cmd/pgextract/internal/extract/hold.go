package extract

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/pgextract/internal/copyout"
)

// Hold creates slot and snapshot, prints both, and holds the snapshot until stop is closed. Any
// number of other processes can read parts of the snapshot.
func (l *Load) Hold(ctx context.Context, out io.Writer, stop <-chan struct{}) error {
	c, _, snapshot, err := l.begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	defer snapshot.Release(context.WithoutCancel(ctx))
	tables, err := catalog.Tables(ctx, snapshot.Keep)
	if err != nil {
		return l.Server.Explain(err)
	}
	for _, t := range l.chosen.filter(ordinary(tables)) {
		if t.Bytes >= copyout.MinPart {
			l.token.add(t.ID, t.Pages)
		}
	}
	if _, err := fmt.Fprintf(out, "slot\t%s\nsnapshot\t%v\n", l.Slot, l.token); err != nil {
		return writeError(err)
	}
	// If this connection is lost, no other process can import the snapshot any more.
	const every = 10 * time.Second
	for {
		select {
		case <-stop:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(every):
		}
		if _, err := snapshot.Keep.Exec(ctx, "SELECT 1"); err != nil {
			return l.Server.Explain(err)
		}
	}
}
