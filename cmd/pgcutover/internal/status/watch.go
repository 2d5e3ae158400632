package status

import (
	"context"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/screen"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Options say how a status is printed.
type Options struct {
	JSON  bool
	Watch bool // again and again
	Every time.Duration
}

// Print prints the status, once or again and again.
func Print(ctx context.Context, m *session.Migration, o Options) error {
	var terminal *screen.Terminal
	if o.Watch && !o.JSON {
		terminal = screen.Of(m.Out)
	}
	var last *Status
	stay := func() { // the last one, when it is not drawn any more
		if terminal != nil && last != nil {
			terminal.Erase()
			_ = last.printText(m.Out)
		}
	}
	for {
		st, err := find(ctx, m, last)
		if err != nil {
			stay()
			return err
		}
		last = st
		switch {
		case terminal != nil:
			st.show(terminal)
		case o.JSON:
			err = st.printJSON(m.Out)
		default:
			err = st.printText(m.Out)
		}
		if cli.IsBrokenPipe(err) {
			return nil // the reader has seen what it wanted
		}
		if err != nil || !o.Watch {
			return err
		}
		select {
		case <-ctx.Done():
			stay()
			return ctx.Err()
		case <-time.After(o.Every):
		}
	}
}
