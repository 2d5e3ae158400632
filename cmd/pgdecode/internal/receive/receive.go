// Package receive runs the replication session: it starts the session, keeps it alive, tells the
// server what the target has made durable, and restarts the session when it breaks. Package
// pgoutput decodes the messages.
package receive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/format"
)

// A Receiver writes a slot's changes to a stream.
type Receiver struct {
	Server       pgdial.Server
	Slot         string
	Publications []string
	// Until ends the stream at the first transaction boundary at or after it; 0: never.
	Until format.LSN
	// Confirms says that Confirm is called with the target's positions. Without it, nothing is
	// acknowledged.
	Confirms bool
	Stop     <-chan struct{} // closed: end the stream at the next transaction boundary
	// Keeper is set if the stream goes to files. Confirm is then not called.
	Keeper Keeper
	// Resume is the position up to which an earlier run has written the stream; 0: start where the
	// slot is.
	Resume format.LSN
	// Last is the newest transaction written, whether sent in blocks or not; zero: none.
	Last format.StreamCommit
	// Timeline is the source's timeline when Last was written; 0 if unknown.
	Timeline uint64
	Named    bool // the source's address has been logged
	Log      *slog.Logger

	source
	bound    bound
	reached  reached
	position format.LSN     // everything up to here has been written
	header   *format.Header // the newest one written; nil: none
}

// A source is what inspect found on the server before the newest session.
type source struct {
	identity slot.Identity
	clock    time.Time  // the server's, taken before its WAL position; zero once a header has it
	plugin   string     // of the slot
	token    string     // of the migration; made together with the slot
	start    format.LSN // of the slot
}

// Run writes a stream to w until it reaches Until (the end record says complete), Stop is closed
// (the end record says stopped, and the error is cli.ErrStopped), or an error remains that a new
// session cannot cure. When a session breaks, Run starts a new one and writes a new header.
func (r *Receiver) Run(ctx context.Context, w *format.Writer) error {
	const firstDelay, lastDelay = 200 * time.Millisecond, 30 * time.Second
	delay := firstDelay
	r.position = r.Resume
	var down time.Time // since when the source has been unreachable
	for {
		began := r.position
		err := r.session(ctx, w, func() {
			if !down.IsZero() {
				r.Log.Info(fmt.Sprintf("connected to the source again after %v, continuing after LSN %v",
					time.Since(down).Round(time.Millisecond), r.position))
				down = time.Time{}
			}
		})
		if cli.IsBrokenPipe(err) {
			r.awaitLastLine(ctx)
		}
		if foreign := r.bound.foreign.Load(); foreign != nil {
			return foreign
		}
		if r.bound.ended.Load() {
			// The reader may have exited already, and does not need the end record.
			_ = r.end(w, format.Complete)
			return nil
		}
		if err == nil || errors.Is(err, cli.ErrStopped) || ctx.Err() != nil || !r.retryable(err) {
			return err
		}
		if r.position > began {
			delay = firstDelay
		}
		if down.IsZero() {
			down = time.Now()
			r.Log.Warn(err.Error() + "; trying again")
		}
		if time.Since(down) > giveUpAfter {
			return err
		}
		select {
		case <-time.After(delay):
		case <-r.Stop:
			return r.end(w, format.Stopped)
		case <-ctx.Done():
			return ctx.Err()
		}
		delay = min(2*delay, lastDelay)
	}
}

// awaitLastLine waits for the last line of a reader that has exited. At a cutover, pgapply prints
// that the stream has ended and then closes the pipe. We may notice the closed pipe first.
func (r *Receiver) awaitLastLine(ctx context.Context) {
	if !r.Confirms {
		return
	}
	const patience = time.Second
	for began := time.Now(); time.Since(began) < patience; {
		if r.bound.ended.Load() || r.bound.foreign.Load() != nil || ctx.Err() != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// giveUpAfter is how long an unreachable source is retried before the process exits and leaves it
// to its supervisor. It is longer than the failover of a managed service.
const giveUpAfter = 5 * time.Minute

// retryable reports whether a new session may cure err. Before the first header, every error is
// reported at once.
func (r *Receiver) retryable(err error) bool {
	if fault.StatusOf(err) != fault.TryAgain || cli.IsBrokenPipe(err) {
		return false
	}
	return r.header != nil
}
