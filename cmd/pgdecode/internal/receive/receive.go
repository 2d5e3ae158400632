// Package receive holds the replication session: it starts it, keeps it alive, tells the server
// what the target has made durable, and starts it again when it breaks. What the messages mean is
// pgoutput's business.
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

// A Receiver reads a slot's changes into a stream.
type Receiver struct {
	Server       pgdial.Server
	Slot         string
	Publications []string
	// end at the first transaction boundary at or after it; 0: never
	Until format.LSN
	// Confirm is called with what the target has; without it nothing is acknowledged
	Confirms bool
	Stop     <-chan struct{} // come to an end at the next transaction boundary
	// if the stream is kept rather than passed on; then Confirm is not called
	Keeper Keeper
	// what an earlier run has written up to here is not to be written again; 0: go on where the
	// slot is
	Resume format.LSN
	// the newest transaction that was written, whichever way it was sent; zero: none was
	Last format.StreamCommit
	// of the source, that it was written of; 0 if that is not known
	Timeline uint64
	Named    bool // the source has been named on standard error
	Log      *slog.Logger

	source
	bound    bound
	reached  reached
	position format.LSN     // everything up to here has been written
	header   *format.Header // the newest one that was written, nil: none was
}

// A source is what a look at the server has found, before the newest session.
type source struct {
	identity slot.Identity
	clock    time.Time  // before the server was asked where its WAL is; zero when a header has told
	token    string     // of the migration, that the slot was made with
	start    format.LSN // of the slot
}

// Run writes a stream to w until Until is reached (the end record then says complete), Stop is
// closed (it says stopped, and the error is cli.ErrStopped), or something fails for good. A session
// that breaks is started again, with a new header in the stream.
func (r *Receiver) Run(ctx context.Context, w *format.Writer) error {
	const firstDelay, lastDelay = 200 * time.Millisecond, 30 * time.Second
	delay := firstDelay
	r.position = r.Resume
	var down time.Time // since when there has been no session
	for {
		began := r.position
		err := r.session(ctx, w, func() {
			if !down.IsZero() {
				r.Log.Info(fmt.Sprintf("connected to the source again after %v, going on after LSN %v",
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
			// The reader may have gone already, and does not care for the end record.
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

// awaitLastLine gives the last line of a reader that has gone the time to be read: pgapply prints
// that a cutover has ended the stream, and then closes the pipe. We may see the second first.
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

// giveUpAfter is when a source that stays away becomes the supervisor's problem: longer than a
// managed service's failover takes.
const giveUpAfter = 5 * time.Minute

// retryable reports whether a new session may cure err. Before the first header the caller is told
// at once.
func (r *Receiver) retryable(err error) bool {
	if fault.StatusOf(err) != fault.TryAgain || cli.IsBrokenPipe(err) {
		return false
	}
	return r.header != nil
}
