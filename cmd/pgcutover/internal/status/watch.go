package status

import (
	"context"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/screen"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Options choose how a status is printed.
type Options struct {
	JSON  bool
	Watch bool // repeatedly
	Every time.Duration
}

// Print prints the status, once or repeatedly.
func Print(ctx context.Context, m *session.Migration, o Options) error {
	var terminal *screen.Terminal
	if o.Watch && !o.JSON {
		terminal = screen.Of(m.Out)
	}
	var last *Status
	var beside comparer
	stay := func() { // keep the last status on the screen
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
		if o.Watch && st.look.stale {
			beside.compare(ctx, m)
		}
		switch {
		case terminal != nil:
			st.show(terminal)
		case o.JSON:
			err = st.printJSON(m.Out)
		default:
			err = st.printText(m.Out)
		}
		if cli.IsBrokenPipe(err) {
			return nil // the reader closed the pipe
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
