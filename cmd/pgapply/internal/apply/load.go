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
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/write"
	"github.com/pgsluice/pgsluice/format"
)

// A fullLoad applies one full load.
type fullLoad struct {
	*Run
	began  time.Time
	header *format.Header
	stream *progress.Stream
	loader *write.Loader
}

// load applies a full load. If the stream is torn, load returns the header of the stream that
// replaces it. Otherwise it returns the next record of the input.
func (r *Run) load(ctx context.Context, h *format.Header) (rec format.Record, err error) {
	l := &fullLoad{Run: r, began: time.Now(), header: h}
	if err := l.open(ctx); err != nil {
		return nil, err
	}
	l.prepare()
	defer r.Meter.Stop()
	r.loading = h
	if err := l.loader.Start(ctx); err != nil {
		return nil, err
	}
	defer l.loader.Close()
	defer func() { err = l.loader.Because(err) }()
	r.streamID = l.stream.ID
	if err := l.note(ctx); err != nil {
		return nil, err
	}
	for {
		rec, err := r.reader.Next()
		if err != nil {
			if failed := l.loader.Drop(); failed != nil { // complete parts are kept
				return nil, failed
			}
			return nil, err
		}
		switch x := rec.(type) {
		case *format.Header: // the stream was torn, and this one replaces it
			return x, l.loader.Drop()
		case *format.End:
			if err := l.end(ctx, x); err != nil {
				return nil, err
			}
			return r.reader.Next()
		}
		if err := l.take(rec); err != nil {
			return nil, err
		}
	}
}

// open reads the target's state of the stream, and checks whether the load fits.
func (l *fullLoad) open(ctx context.Context) (err error) {
	if l.stream, err = progress.Open(ctx, l.control, progress.KeyOf(l.header)); err != nil {
		return l.Server.Explain(err)
	}
	if l.stream.Ended {
		return fault.New(fault.Config, "the migration of %v was completed by a cutover on the target", l.stream.Key).
			WithHint("To start another migration, first run: pgcutover cleanup")
	}
	if err := l.representable(l.header); err != nil {
		return err
	}
	snapshots, err := progress.Snapshots(ctx, l.control, l.stream.ID)
	if err != nil {
		return l.Server.Explain(err)
	}
	reach := l.stream.Applied
	for _, lsn := range snapshots {
		reach = max(reach, lsn)
	}
	if _, err := timeline(l.stream, l.header, reach); err != nil {
		return err
	}
	return l.remember(ctx, l.stream, l.header)
}

// prepare creates the loader.
func (l *fullLoad) prepare() {
	h := l.header
	x := &write.Loader{Server: l.Server, Control: l.control, Stream: l.stream,
		Mapper: &write.Mapper{Lookup: l.lookup, Rename: l.Rename}, Jobs: l.Jobs, Log: l.Log, Waits: l.Waits}
	l.loader = x
	x.Meter = l.Meter
	x.Snapshot, x.SnapshotLSN = fmt.Sprintf("%v %d", h.StartLSN, h.Created), h.StartLSN
	if h.Load != nil {
		x.Reload, x.ByHand, x.RebuildIndexes = h.Load.Reload, h.Load.DataOnly, l.RebuildIndexes
		x.Whole = h.Load.Scope == format.ScopeAll
		x.Objects = h.Load.Part <= 1
		if h.Load.Snapshot != "" {
			x.Snapshot = h.Load.Snapshot
		}
		l.Meter.Start(h.Load.Tables, h.Load.Bytes)
	} else {
		l.Meter.Start(0, 0)
	}
	// Without a slot, no changes can follow, so there will be no cutover.
	x.Constraints = l.Constraints == "now" || l.Constraints == "" && h.Slot == ""
}

// note records on the target what the load contains.
func (l *fullLoad) note(ctx context.Context) error {
	h, s := l.header, l.stream
	if (h.Load == nil || h.Load.Scope != format.ScopeTables) && !s.Whole {
		if err := progress.SetWhole(ctx, l.control, s.ID); err != nil {
			return l.Server.Explain(err)
		}
	}
	if h.Load != nil && (s.LoadStatus == "none" || !s.ByHand && h.Load.DataOnly) {
		if err := progress.SetScope(ctx, l.control, s.ID, h.Load.DataOnly, h.Load.Without); err != nil {
			return l.Server.Explain(err)
		}
	}
	if s.LoadStatus != "loaded" {
		if err := progress.SetLoadStatus(ctx, l.control, s.ID, "loading", h.StartLSN); err != nil {
			return l.Server.Explain(err)
		}
	}
	return nil
}

// take gives the loader a record between header and end.
func (l *fullLoad) take(rec format.Record) error {
	switch x := rec.(type) {
	case *format.DDL:
		return l.loader.DDL(x)
	case *format.Relation:
		return l.loader.Relation(x)
	case *format.CopyBegin:
		c := *x
		return l.loader.CopyBegin(&c)
	case *format.CopyData:
		return l.loader.CopyData(x)
	case *format.CopyEnd:
		return l.loader.CopyEnd(x)
	case *format.LargeObject:
		return l.loader.LargeObject(x)
	case *format.Fingerprint:
		return l.loader.Fingerprint(x)
	case *format.Sequence:
		return l.loader.Sequence(x)
	case *format.Unknown:
		l.heard(x)
		return nil
	}
	return fault.New(fault.Data, "cannot apply a %v record", rec.Kind())
}

// end takes the end record. It finishes what is complete, and reports what is not.
func (l *fullLoad) end(ctx context.Context, e *format.End) error {
	if e.Reason != format.Complete {
		return fault.New(fault.Data, "the full load was stopped before its end").WithHint("Start it again with pgextract --resume.")
	}
	complete, err := l.loader.Finish()
	if err != nil {
		return err
	}
	if err := l.loaded(ctx, complete); err != nil {
		return err
	}
	l.loading = nil
	if err := l.loader.Refused(resume(l.stream)); err != nil {
		return err
	}
	l.lacking.ended(l.header, complete, l.loader.Missing())
	l.next(l.header, complete)
	return nil
}

// resume returns the command that continues a load.
func resume(stream *progress.Stream) string {
	if stream.Key.Slot == "" {
		return "pgextract --resume | pgapply"
	}
	return "pgextract --slot " + stream.Key.Slot + " --resume | pgapply"
}

// representable checks, before anything is written, that the target can store the stream's text.
// The bytes of an SQL_ASCII database have no known encoding.
func (r *Run) representable(h *format.Header) error {
	target := r.control.PgConn().ParameterStatus("server_encoding")
	if h.Encoding != "SQL_ASCII" || target == "SQL_ASCII" || r.Server.Encoding != "" {
		return nil
	}
	return fault.New(fault.Config, "cannot convert text from the source's encoding SQL_ASCII to the target's encoding %s", target).
		WithHint("To keep all bytes as they are, create the target with ENCODING 'SQL_ASCII' TEMPLATE template0. If all text has one encoding, name it: --encoding LATIN1, or --encoding UTF8.")
}

// loaded reports the result of a load.
func (l *fullLoad) loaded(ctx context.Context, complete bool) error {
	l.Meter.Stop()
	rows, bytes := l.loader.Loaded()
	l.Log.Info(fmt.Sprintf("loaded %s, %s in %v", count.Of(rows, "row"), humanize.Bytes(bytes),
		time.Since(l.began).Round(time.Millisecond)))
	failed, err := progress.Failed(ctx, l.control, l.stream.ID)
	if err != nil {
		return l.Server.Explain(err)
	}
	// Warnings were reported when their records arrived.
	failed = slices.DeleteFunc(failed, func(o progress.Object) bool { return o.Type == format.Warning })
	if len(failed) > 0 {
		causes, err := objects.Causes(ctx, l.control, failed)
		if err != nil {
			return l.Server.Explain(err)
		}
		each, remedies := objects.Text(causes)
		msg := count.Of(len(failed), "object") + " could not be created on the target"
		hint := "These commands try them again: pgcutover open, pgcutover finish, and " + resume(l.stream) +
			". Table pgsluice.deferred has their definitions."
		if slot := l.stream.Key.Slot; slot != "" {
			hint += " To print the statements: pgcutover missing --slot " + slot + " --sql"
		}
		if remedies != "" {
			hint = "On the target, as a role that may do so: " + remedies + " " + hint
		}
		if write.Serious(failed) && l.loader.Refused("") == nil {
			return fault.New(fault.Failed, "%s", msg).WithDetail("%s", each).WithHint("%s", hint)
		}
		l.Log.Warn(msg, "detail", each, "hint", hint)
	}
	if !complete && l.loader.Refused("") == nil {
		l.Log.Info("other parts of this load are not complete yet")
	}
	return nil
}
