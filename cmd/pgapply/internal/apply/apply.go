// Package apply reads one or more streams of any kind from standard input, and writes them to the
// target.
package apply

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/huge"
	"github.com/pgsluice/pgsluice/cmd/internal/identity"
	"github.com/pgsluice/pgsluice/cmd/internal/lastword"
	"github.com/pgsluice/pgsluice/cmd/internal/meter"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/write"
	"github.com/pgsluice/pgsluice/format"
)

// A Run is one run of pgapply.
type Run struct {
	Server    pgdial.Server
	Rename    map[string]string
	Jobs      int // how many indexes are built at the same time
	ApplyJobs int // how many groups of changes are written at the same time
	// Meter shows the progress of a full load.
	Meter *meter.Meter
	// Waits finds the sessions that block others.
	Waits *waiting.Watch
	// RebuildIndexes drops the indexes of tables that were created by hand, and builds them again
	// after the rows are loaded.
	RebuildIndexes bool
	// Constraints says when foreign keys and triggers are created: "now" (at the end of the load)
	// or "cutover". If it is empty, they are created at the cutover if there will be one, otherwise
	// at the end of the load.
	Constraints string
	OnConflict  string       // write.StopOnConflict, Skip or Overwrite
	SkipLSN     []format.LSN // commit LSNs of transactions to skip
	Adopt       bool         // the target has the rows although nothing was loaded
	Lines       io.Writer    // where to print positions; nil: nowhere
	Stop        <-chan struct{}
	Log         *slog.Logger

	control *pgx.Conn // for queries and small updates
	in      *input
	reader  *format.Reader
	report  *reporter
	giveUp  chan struct{} // closed some time after Stop
	lacking incomplete

	// What the messages at the end of the run need.
	streamID int32              // on the target; 0: none
	loading  *format.Header     // header of the load in progress
	told     []lastword.Failure // failures of the programs that write the streams
	unbegun  bool               // a program failed before its stream began
}

// grace is the time that the program that writes the input has to end it after a signal to stop.
// The target then has the same time to answer.
const grace = 5 * time.Second

var (
	errGiveUp = errors.New("the input did not end in time")
	errSilent = errors.New("the target did not answer in time")
)

// Do applies all streams of in. It returns nil if every stream was complete.
func (r *Run) Do(ctx context.Context, in io.Reader) error {
	r.giveUp = make(chan struct{})
	r.in = newInput(in, r.giveUp)
	r.reader = format.NewReader(r.in)
	r.reader.LongRecords(huge.Reserve, huge.Free)
	r.reader.DropMessages() // messages do not change the target
	r.report = &reporter{out: r.Lines}
	r.lacking = make(incomplete)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-r.Stop:
			time.Sleep(grace)
			close(r.giveUp)
			time.Sleep(grace)
			cancel(errSilent)
		case <-ctx.Done():
		}
	}()
	err := r.explain(r.streams(ctx))
	if r.control != nil {
		defer r.control.Close(context.WithoutCancel(ctx))
	}
	if err != nil && errors.Is(context.Cause(ctx), errSilent) && r.loading == nil {
		r.Log.Warn(fmt.Sprintf("stopped after waiting %v for an answer from the target; the next run applies again what the target has not committed", 2*grace))
		return cli.ErrStopped
	}
	if r.isStopped(ctx, err) {
		r.record(ctx, nil)
		return r.stopped(ctx)
	}
	r.record(ctx, err)
	return err
}

// streams applies one stream after the other.
func (r *Run) streams(ctx context.Context) error {
	// Read before connecting: an error in the input needs no target.
	rec, err := r.reader.Next()
	for err == nil {
		h, ok := rec.(*format.Header)
		if !ok {
			return fmt.Errorf("unexpected %v record", rec.Kind())
		}
		if lastword.Only(h) {
			return r.neverBegun(ctx, h)
		}
		if r.control == nil {
			if err := r.connect(ctx); err != nil {
				return err
			}
		}
		if err := r.admit(ctx, h); err != nil {
			return err
		}
		switch h.StreamKind {
		case format.Load:
			rec, err = r.load(ctx, h)
		case format.Changes, format.Repair:
			rec, err = r.changes(ctx, h)
		default:
			return fault.New(fault.Data, "cannot apply a stream of kind %q", h.StreamKind)
		}
	}
	if err == io.EOF {
		return r.lacking.check()
	}
	return err
}

func (r *Run) connect(ctx context.Context) (err error) {
	if r.control, err = r.Server.Connect(ctx); err != nil {
		return err
	}
	r.Log.Info(identity.Line("target", r.control))
	return nil
}

// lookup reads the definition of a table on the target.
func (r *Run) lookup(ctx context.Context, schema, table string) (*catalog.Relation, error) {
	return catalog.Lookup(ctx, r.control, schema, table)
}

// changes applies consecutive streams of one slot. It returns the header of the next stream that is
// of another slot or kind.
func (r *Run) changes(ctx context.Context, h *format.Header) (rec format.Record, err error) {
	f, err := r.follow(ctx, h)
	if err != nil {
		return nil, err
	}
	r.in.next = func() ([]byte, bool, error) { return f.next(ctx) }
	defer func() {
		r.in.next = r.in.plain
		f.close()
		err = f.onOldPrimary(err)
	}()
	if err := f.begin(ctx, h); err != nil {
		return nil, err
	}
	for {
		rec, err := f.nextRecord()
		if err == nil {
			switch x := rec.(type) {
			case *format.End:
				if err = f.progress.sweep(ctx); err == nil {
					err = f.meetPosition(x.LSN)
				}
				if err == nil {
					err = f.drain()
				}
			case *format.Header:
				if err = f.progress.sweep(ctx); err != nil {
					break
				}
				if progress.KeyOf(x) != f.stream.Key || x.StreamKind != h.StreamKind {
					return rec, f.drain()
				}
				err = f.begin(ctx, x)
			default:
				if f.repair != nil {
					f.repair.number(rec)
				}
				err = f.record(ctx, rec)
			}
		}
		if err == nil {
			continue
		}
		select {
		case <-f.writer.failed: // its error is the cause, even if err is about the input
			return nil, f.writer.err
		default:
		}
		// Complete transactions before the end, or before the damage, are valid.
		if errors.Is(err, io.EOF) || errors.Is(err, format.ErrTruncated) || errors.Is(err, format.ErrCorrupt) || errors.Is(err, errGiveUp) {
			if e := f.progress.catchUp(ctx); e != nil && !errors.Is(e, errGiveUp) {
				return nil, e
			}
			if e := f.drop(ctx); e != nil {
				return nil, e
			}
			if e := f.drain(); e != nil {
				return nil, e
			}
		}
		return nil, err
	}
}

// explain turns errors into errors for users.
func (r *Run) explain(err error) error {
	var f *fault.Error
	var version *format.VersionError
	var unknown *format.UnknownKindError
	switch {
	case err == nil, errors.As(err, &f):
		return err
	case errors.Is(err, write.ErrEnded):
		r.Log.Info("the cutover has ended the stream; there is nothing more to apply")
		r.report.ended()
		return nil
	case errors.Is(err, errGiveUp):
		return cli.ErrStopped
	case errors.Is(err, format.ErrTruncated) && r.stopping():
		return cli.ErrStopped
	case errors.Is(err, format.ErrEmpty):
		return fault.New(fault.Data, "the input is empty").WithHint("The program that writes it has failed; its own message says why.")
	case errors.Is(err, format.ErrTruncated):
		return r.cut(err)
	case errors.Is(err, format.ErrNotStream):
		return fault.New(fault.Data, "the input is %w", format.ErrNotStream).
			WithHint("pgextract and pgdecode write one. Is the input compressed or encrypted?")
	case errors.As(err, &version), errors.As(err, &unknown):
		return fault.New(fault.Data, "%w", err).WithHint("Use a newer pgapply.")
	case errors.Is(err, format.ErrCorrupt):
		return fault.New(fault.Data, "%w", err).
			WithDetail("Everything before the damage has been applied, and nothing after it.").
			WithHint("Get the stream again, from its source or from another copy, and apply it: changes that are on the target already are skipped.")
	}
	return r.Server.Explain(err)
}
