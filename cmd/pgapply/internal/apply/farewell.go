package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/format"
)

// patience is how long what is said at the end may take to be found out, or written down.
const patience = 3 * time.Second

// next says what comes after a load.
func (r *Run) next(h *format.Header, complete bool) {
	if complete && h.Slot != "" {
		r.Log.Info("next: scripts/sync " + text.Shell(h.Slot))
	}
}

// stopped is the error for a load that a signal has ended: how far it came, and how it goes on.
func (r *Run) stopped(ctx context.Context) error {
	h := r.loading
	if h == nil {
		if r.control == nil && r.Lines == nil { // scripts/sync speaks for itself
			return fault.New(fault.Interrupted, "%w before anything was applied", cli.ErrStopped).WithHint("Start the same commands again.")
		}
		return cli.ErrStopped
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	far := "what was complete is on the target"
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
	e := fault.New(fault.Interrupted, "%w: %s", cli.ErrStopped, far)
	switch {
	case h.Load != nil && h.Load.Reload:
		return e.WithHint("Start the same commands again.")
	case h.Slot == "":
		return e.WithHint("To go on, with the same options as before: pgextract --resume | pgapply")
	}
	return e.WithHint("To go on, with the same options as before: pgextract --slot %s --resume | pgapply", text.Shell(h.Slot))
}

// isStopped reports whether an error is only what a signal has made of the work.
func (r *Run) isStopped(ctx context.Context, err error) bool {
	select {
	case <-r.Stop:
		return err != nil && (errors.Is(err, cli.ErrStopped) || ctx.Err() != nil)
	default:
		return false
	}
}

// record writes down on the target why the program ends, for whoever looks at the status. It is
// not worth another failure: where it cannot be written, standard error has it.
func (r *Run) record(ctx context.Context, err error) {
	if r.streamID == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	f := progress.Failure{Program: "pgapply", Status: int(fault.StatusOf(err)), Message: err.Error()}
	var x *fault.Error
	if errors.As(err, &x) {
		f.Hint = x.Hint
	}
	if !r.control.IsClosed() && progress.RecordFailure(ctx, r.control, r.streamID, f) == nil {
		return
	}
	c, e := r.Server.Connect(ctx)
	if e != nil {
		return
	}
	defer c.Close(ctx)
	_ = progress.RecordFailure(ctx, c, r.streamID, f)
}
