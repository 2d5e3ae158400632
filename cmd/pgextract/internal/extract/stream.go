package extract

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/lastword"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgextract/internal/copyout"
	"github.com/pgsluice/pgsluice/format"
)

// A stream is one stream of a load while it is written.
type stream struct {
	*Load
	began    time.Time
	source   *slot.Identity
	conn     *pgx.Conn // an ordinary session on the source
	snapshot *slot.Snapshot
	tables   []*catalog.Table
	parts    []*copyout.Part // of the tables, to be read
	header   *format.Header
	w        *format.Writer

	changed map[uint32]*catalog.Table // tables that could not be read, since they had changed
	read    totals
}

// totals are how much of each was read.
type totals struct{ rows, bytes, objects, objectBytes uint64 }

// run writes one stream. It returns the stream's tables, and those that could not be read because
// they had changed.
func (l *Load) run(ctx context.Context, out io.Writer) (tables []*catalog.Table, changed map[uint32]*catalog.Table, err error) {
	s := &stream{Load: l, began: time.Now(), w: format.NewWriter(out)}
	defer func() {
		if ctx.Err() == nil {
			whose := ""
			if l.Resume { // pgapply was there, at least
				whose = l.Slot
			}
			lastword.Write(s.w, format.Load, whose, "pgextract", err)
		}
	}()
	if s.conn, s.source, s.snapshot, err = l.begin(ctx); err != nil {
		return nil, nil, err
	}
	defer func() { _ = s.conn.Close(context.WithoutCancel(ctx)) }()
	defer s.snapshot.Release(context.WithoutCancel(ctx))
	if err := s.list(ctx); err != nil {
		return nil, nil, err
	}
	for _, step := range []func(context.Context) error{s.writeHeader, s.writeSchema, s.writeRelations,
		s.writeRows, s.writeSequences, s.end} {
		if err := step(ctx); err != nil {
			return nil, nil, err
		}
	}
	return s.tables, s.changed, nil
}

func (s *stream) write(rec format.Record) error { return writeError(s.w.Write(rec)) }

// flush lets pgapply prepare the target while the next step asks the source.
func (s *stream) flush() error { return writeError(s.w.Flush()) }

// list finds out what to read as of the snapshot, and what the target already has.
func (s *stream) list(ctx context.Context) error {
	tables, err := catalog.Tables(ctx, s.snapshot.Keep)
	if err != nil {
		return s.Server.Explain(err)
	}
	s.tables = s.chosen.filter(ordinary(tables))
	if s.parts, err = s.plan(ctx, s.snapshot, s.tables, s.source.Version); err != nil {
		return err
	}
	if s.Resume && !s.again {
		if s.have, err = s.loaded(ctx, s.source); err != nil {
			return err
		}
	}
	if s.have != nil {
		left := s.have.missing(s.parts, s.token.id())
		if err := s.oneSnapshot(left); err != nil {
			return err
		}
		s.sayMissing(s.parts, left)
		s.parts = left
	}
	return nil
}

// writeHeader says what the stream is.
func (s *stream) writeHeader(context.Context) error {
	h := s.source.Header(format.Load)
	h.Producer = "pgextract " + cli.Version()
	h.Created = format.TimeOf(s.began)
	h.Slot, h.StartLSN = s.Slot, s.snapshot.LSN
	h.Load = &format.LoadInfo{Snapshot: s.token.id(), Part: uint64(s.Part), Parts: uint64(s.Parts),
		DataOnly: s.DataOnly, Tables: uint64(len(s.tables)),
		Resumed: s.Resume || s.again, Reload: s.Reload, Scope: format.ScopeAll, Probe: uint64(s.probe)}
	h.Token = s.ours
	if len(s.counted) > 0 {
		h.Minor = 3
	}
	if s.NoOwner {
		h.Load.Without = append(h.Load.Without, format.WithoutOwners)
	}
	if s.NoACL {
		h.Load.Without = append(h.Load.Without, format.WithoutRights)
	}
	if !s.Select.all() || len(s.Select.ExcludeData) > 0 {
		h.Load.Scope = format.ScopeTables
	}
	for _, p := range s.parts {
		h.Load.Bytes += uint64(p.Bytes)
	}
	if s.Slot != "" {
		h.Publications = []string{s.Publication}
	}
	s.header = h
	if err := s.write(h); err != nil {
		return err
	}
	return s.flush()
}

// writeSchema writes the schema, and what the cutover will compare it with.
func (s *stream) writeSchema(ctx context.Context) (err error) {
	if !s.DataOnly && !s.again {
		if s.ddl, err = s.schema(ctx, s.snapshot.Keep, s.snapshot.Name, s.source.Version); err != nil {
			return err
		}
	}
	for _, d := range s.ddl {
		if err := s.write(d); err != nil {
			return err
		}
	}
	if err := s.flush(); s.again || err != nil {
		return err
	}
	if err := s.oids(ctx, s.snapshot.Keep, s.tables, s.writeDDL); err != nil {
		return err
	}
	if s.Part > 1 {
		return nil
	}
	return s.fingerprints(ctx, s.snapshot.Name, s.w)
}

func (s *stream) writeDDL(d *format.DDL) error { return s.write(d) }

// hasLargeObjects reports whether this stream has large objects.
func (s *stream) hasLargeObjects() bool {
	return s.Select.all() && s.Part <= 1 && !s.have.complete("pg_catalog", "pg_largeobject")
}

// writeRelations describes what the rows belong to.
func (s *stream) writeRelations(ctx context.Context) error {
	if s.hasLargeObjects() {
		if err := s.largeObjectDDL(ctx, s.snapshot.Keep, s.writeDDL); err != nil {
			return err
		}
	}
	for _, t := range s.tables {
		if c, ok := s.counted[t.ID]; ok {
			t.Counted = c.String()
		}
		if err := s.write(&t.Relation); err != nil {
			return err
		}
	}
	return s.flush()
}

// writeRows writes the rows of all tables and, at the same time, the large objects.
func (s *stream) writeRows(ctx context.Context) error {
	s.Meter.Start(s.header.Load.Tables, s.header.Load.Bytes)
	defer s.Meter.Stop()
	r := &copyout.Reader{Server: s.Server, Snapshot: s.snapshot.Name, LSN: s.snapshot.LSN, Jobs: s.Jobs,
		Rate: s.Rate, Out: copyout.NewOutput(s.w), Meter: s.Meter, Log: s.Log}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		s.read.rows, s.read.bytes, err = r.Read(gctx, s.parts)
		return err
	})
	if s.hasLargeObjects() {
		g.Go(func() (err error) {
			s.read.objects, s.read.objectBytes, err = s.largeObjects(gctx, s.snapshot.Name, r.Out)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return writeError(err)
	}
	s.changed = r.Changed
	switch {
	case len(s.changed) == 0:
	case s.Slot == "":
		return changedError(s.changed).
			WithHint("Without a slot, all tables must be read from one snapshot. Start again, into an empty database, when nothing changes tables in this way.")
	case s.Load.Snapshot != "":
		return changedError(s.changed).
			WithHint("After the other parts are loaded, read it from a new snapshot: pgextract --slot %s --resume | pgapply", s.Slot)
	}
	return nil
}

// writeSequences writes the state of the sequences that the snapshot has. Sequences that were
// created later are not part of this load.
func (s *stream) writeSequences(ctx context.Context) error {
	list, err := catalog.SequenceNames(ctx, s.snapshot.Keep)
	if err != nil {
		return s.Server.Explain(err)
	}
	s.snapshot.Release(ctx)
	return s.sequences(ctx, s.conn, list, s.w)
}

// end logs what was read, then ends the stream. It logs first, because pgapply reports the result
// and should have the last line.
func (s *stream) end(context.Context) error {
	text := fmt.Sprintf("extracted %s, %s, %s", count.Of(len(s.tables), "table"),
		count.Of(s.read.rows, "row"), humanize.Bytes(s.read.bytes+s.read.objectBytes))
	if s.read.objects > 0 {
		text += fmt.Sprintf(", %s", count.Of(s.read.objects, "large object"))
	}
	s.Log.Info(fmt.Sprintf("%s in %v", text, time.Since(s.began).Round(time.Millisecond)))
	_, err := s.w.End(format.Complete, s.snapshot.LSN)
	return writeError(err)
}
