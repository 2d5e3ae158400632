package apply

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/objects"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/target"
	"github.com/pgsluice/pgsluice/format"
)

// load applies a full load. It returns the header of the stream that follows a torn one; a stream that comes to its end is followed by what
// the reader has next.
func (r *Run) load(ctx context.Context, h *format.Header) (rec format.Record, err error) {
	began := time.Now()
	stream, err := progress.Open(ctx, r.control, progress.KeyOf(h))
	if err != nil {
		return nil, r.Server.Explain(err)
	}
	if stream.Ended {
		return nil, fault.New(fault.Config, "the migration of %v was completed by a cutover on the target", stream.Key).
			WithHint("To start another one: pgcutover cleanup.")
	}
	if err := r.representable(h); err != nil {
		return nil, err
	}
	snapshots, err := progress.Snapshots(ctx, r.control, stream.ID)
	if err != nil {
		return nil, r.Server.Explain(err)
	}
	reach := stream.Applied
	for _, lsn := range snapshots {
		reach = max(reach, lsn)
	}
	if _, err := timeline(stream, h, reach); err != nil {
		return nil, err
	}
	if err := r.remember(ctx, stream, h); err != nil {
		return nil, err
	}
	l := &target.Loader{Server: r.Server, Control: r.control, Stream: stream, Mapper: &target.Mapper{Lookup: r.lookup, Rename: r.Rename}, Jobs: r.Jobs, Log: r.Log, Waits: r.Waits}
	l.Meter = r.Meter
	l.Snapshot, l.SnapshotLSN = fmt.Sprintf("%v %d", h.StartLSN, h.Created), h.StartLSN
	if h.Load != nil {
		l.Reload, l.ByHand, l.RebuildIndexes = h.Load.Reload, h.Load.DataOnly, r.RebuildIndexes
		l.Whole = h.Load.Scope == format.ScopeAll
		l.Objects = h.Load.Part <= 1
		if h.Load.Snapshot != "" {
			l.Snapshot = h.Load.Snapshot
		}
		r.Meter.Start(h.Load.Tables, h.Load.Bytes)
	} else {
		r.Meter.Start(0, 0)
	}
	defer r.Meter.Stop()
	// What no changes can follow has no cutover either.
	l.Constraints = r.Constraints == "now" || r.Constraints == "" && h.Slot == ""
	r.loading = h
	if err := l.Start(ctx); err != nil {
		return nil, err
	}
	defer l.Close()
	defer func() { err = l.Because(err) }()
	r.streamID = stream.ID
	if (h.Load == nil || h.Load.Scope != format.ScopeTables) && !stream.Whole {
		if err := progress.SetWhole(ctx, r.control, stream.ID); err != nil {
			return nil, r.Server.Explain(err)
		}
	}
	if h.Load != nil && (stream.LoadStatus == "none" || !stream.ByHand && h.Load.DataOnly) {
		if err := progress.SetScope(ctx, r.control, stream.ID, h.Load.DataOnly, h.Load.Without); err != nil {
			return nil, r.Server.Explain(err)
		}
	}
	if stream.LoadStatus != "loaded" {
		if err := progress.SetLoadStatus(ctx, r.control, stream.ID, "loading", h.StartLSN); err != nil {
			return nil, r.Server.Explain(err)
		}
	}
	for {
		rec, err := r.reader.Next()
		if err != nil {
			if failed := l.Drop(); failed != nil { // what was complete is kept
				return nil, failed
			}
			return nil, err
		}
		switch x := rec.(type) {
		case *format.DDL:
			err = l.DDL(x)
		case *format.Relation:
			err = l.Relation(x)
		case *format.CopyBegin:
			c := *x
			err = l.CopyBegin(&c)
		case *format.CopyData:
			err = l.CopyData(x)
		case *format.CopyEnd:
			err = l.CopyEnd(x)
		case *format.LargeObject:
			err = l.LargeObject(x)
		case *format.Fingerprint:
			err = l.Fingerprint(x)
		case *format.Sequence:
			err = l.Sequence(x)
		case *format.Unknown:
			r.heard(x)
		case *format.Header: // the stream was torn, and this one takes its place
			return x, l.Drop()
		case *format.End:
			if x.Reason != format.Complete {
				return nil, fault.New(fault.Data, "the full load was stopped before its end").WithHint("Start it again with pgextract --resume.")
			}
			complete, err := l.Finish()
			if err != nil {
				return nil, err
			}
			if err := r.loaded(ctx, l, stream, complete, time.Since(began)); err != nil {
				return nil, err
			}
			r.loading = nil
			if err := l.Refused(resume(stream)); err != nil {
				return nil, err
			}
			r.lacking.ended(h, complete, l.Missing())
			r.next(h, complete)
			return r.reader.Next()
		default:
			err = fault.New(fault.Data, "cannot apply a %v record", rec.Kind())
		}
		if err != nil {
			return nil, err
		}
	}
}

// resume is the command that goes on with a load.
func resume(stream *progress.Stream) string {
	if stream.Key.Slot == "" {
		return "pgextract --resume | pgapply"
	}
	return "pgextract --slot " + stream.Key.Slot + " --resume | pgapply"
}

// representable checks, before anything is written, that the target can take the stream's text: nobody knows what the bytes of an SQL_ASCII database
// mean.
func (r *Run) representable(h *format.Header) error {
	target := r.control.PgConn().ParameterStatus("server_encoding")
	if h.Encoding != "SQL_ASCII" || target == "SQL_ASCII" || r.Server.Encoding != "" {
		return nil
	}
	return fault.New(fault.Config, "the source's encoding is SQL_ASCII, which says nothing about its text, and the target's is %s", target).
		WithHint("To keep all bytes as they are, create the target with ENCODING 'SQL_ASCII' TEMPLATE template0. If they are all of one encoding, name it: --encoding LATIN1, or --encoding UTF8.")
}

// loaded says what a load has come to.
func (r *Run) loaded(ctx context.Context, l *target.Loader, stream *progress.Stream, complete bool, took time.Duration) error {
	r.Meter.Stop()
	rows, bytes := l.Loaded()
	r.Log.Info(fmt.Sprintf("loaded %s, %s in %v", count.Of(rows, "row"), humanize.Bytes(bytes), took.Round(time.Millisecond)))
	failed, err := progress.Failed(ctx, r.control, stream.ID)
	if err != nil {
		return r.Server.Explain(err)
	}
	// What can never be created was told when it came.
	failed = slices.DeleteFunc(failed, func(o progress.Object) bool { return o.Type == format.Warning })
	if len(failed) > 0 {
		causes, err := objects.Causes(ctx, r.control, failed)
		if err != nil {
			return r.Server.Explain(err)
		}
		each, remedies := objects.Text(causes)
		msg := count.Of(len(failed), "object") + " could not be created on the target"
		hint := "They are tried again by pgcutover open and finish, and by: " + resume(stream) + ". They are listed in pgsluice.deferred, with their definitions."
		if remedies != "" {
			hint = "On the target, as a role that may: " + remedies + " " + hint
		}
		if target.Serious(failed) && l.Refused("") == nil {
			return fault.New(fault.Failed, "%s", msg).WithDetail("%s", each).WithHint("%s", hint)
		}
		r.Log.Warn(msg, "detail", each, "hint", hint)
	}
	if !complete && l.Refused("") == nil {
		r.Log.Info("other parts of this load are not complete yet")
	}
	return nil
}
