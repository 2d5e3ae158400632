package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/lastword"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/format"
)

// patience is how long the queries for the last messages may take.
const patience = 3 * time.Second

// next logs the next step after a load.
func (r *Run) next(h *format.Header, complete bool) {
	if complete && h.Slot != "" {
		r.Log.Info("next: scripts/sync " + text.Shell(h.Slot))
	}
}

// stopped returns the error for a run that a signal has stopped. For a load, the error says how far
// the load got and how to continue.
func (r *Run) stopped(ctx context.Context) error {
	h := r.loading
	if h == nil {
		if r.control == nil && r.Lines == nil { // scripts/sync prints its own message
			return fault.New(fault.Interrupted, "%w before anything was applied", cli.ErrStopped).WithHint("Start the same commands again.")
		}
		return cli.ErrStopped
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	far := "its complete parts are on the target"
	if tables, err := progress.Tables(ctx, r.control, r.streamID); err == nil {
		var done int
		var rows int64
		for _, t := range tables {
			s := progress.TableState{Status: t.Status}
			if s.Complete() {
				done++
				rows += t.Rows
			}
		}
		far = fmt.Sprintf("%d of %s and %s are on the target", done, count.Of(len(tables), "table"), count.Of(rows, "row"))
	}
	return fault.New(fault.Interrupted, "%w: %s", cli.ErrStopped, far).WithHint("%s", goOn(h))
}

// goOn returns the hint for continuing an incomplete load.
func goOn(h *format.Header) string {
	switch {
	case h.Load != nil && h.Load.Reload:
		return "Start the same commands again."
	case h.Slot == "" && h.Load != nil && h.Load.Parts > 0:
		return "To continue, while pgextract --hold holds the snapshot: start the same commands again."
	case h.Slot == "":
		return "Without a slot, all tables must be read from one snapshot. Start again, into an empty database."
	}
	return "To continue, with the same options as before: pgextract --slot " + text.Shell(h.Slot) + " --resume | pgapply"
}

// cut returns the error for a stream without an end.
func (r *Run) cut(err error) error {
	e := fault.New(fault.Data, "%w", err).
		WithDetail("All complete transactions and all complete parts of tables have been applied.").
		WithHint("Start the same commands again: they continue where they stopped.")
	if n := len(r.told); n > 0 {
		e.Detail = fmt.Sprintf("%s exited with: %s\n%s", r.told[n-1].Program, r.told[n-1].Message, e.Detail)
	}
	if r.loading != nil {
		e.Hint = goOn(r.loading)
	}
	return e
}

// together is how long after the end of a stream the signal that ended it may arrive. The other
// programs of the pipe get the same signal, and may react first.
const together = 500 * time.Millisecond

// stopping reports whether a signal is why a stream has no end.
func (r *Run) stopping() bool {
	wait := together
	if len(r.told) > 0 { // the program that writes the stream has reported its failure
		wait = 0
	}
	select {
	case <-r.Stop:
		return true
	case <-time.After(wait):
	}
	select {
	case <-r.Stop:
		return true
	default:
		return false
	}
}

// isStopped reports whether a signal caused err.
func (r *Run) isStopped(ctx context.Context, err error) bool {
	select {
	case <-r.Stop:
		return err != nil && (errors.Is(err, cli.ErrStopped) || ctx.Err() != nil)
	default:
		return false
	}
}

// heard records why the program that writes the stream exited.
func (r *Run) heard(rec *format.Unknown) {
	const most = 10 // many streams can follow one another
	if f, ok := lastword.Read(rec); ok && len(r.told) < most {
		f.Time = min(f.Time, format.TimeOf(time.Now())) // another host's clock may be ahead
		r.told = append(r.told, f)
	}
}

// neverBegun records why the stream of a slot has not begun. It returns the error for an empty
// input. It connects to the target only to store the reason there, if the target knows the slot.
func (r *Run) neverBegun(ctx context.Context, h *format.Header) error {
	r.unbegun = true
	for {
		rec, err := r.reader.Next()
		if err != nil {
			break
		}
		if x, ok := rec.(*format.Unknown); ok {
			r.heard(x)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if r.control == nil {
		c, err := r.Server.Connect(ctx)
		if err != nil {
			return format.ErrEmpty
		}
		r.control = c
	}
	if progress.Trust(ctx, r.control) == nil {
		list, err := progress.Streams(ctx, r.control, h.Slot)
		if err == nil && len(list) == 1 && list[0].Key.Slot == h.Slot {
			r.streamID = list[0].ID
		}
	}
	return format.ErrEmpty
}

// record stores on the target why programs exited, for pgcutover status. It ignores its own errors,
// because the reasons are also on standard error.
func (r *Run) record(ctx context.Context, err error) {
	list := r.told
	if err != nil && !r.unbegun {
		list = append(list, lastword.Of("pgapply", err))
	}
	if r.streamID == 0 || len(list) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	c := r.control
	if c.IsClosed() || c.Ping(ctx) != nil {
		var e error
		if c, e = r.Server.Connect(ctx); e != nil {
			return
		}
		defer c.Close(ctx)
	}
	for _, f := range list {
		_ = progress.RecordFailure(ctx, c, r.streamID,
			progress.Failure{Program: f.Program, At: f.Time.Time(), Status: f.Status, Message: f.Message,
				Hint: f.Hint})
	}
}
