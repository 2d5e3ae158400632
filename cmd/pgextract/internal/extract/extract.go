// Package extract makes the stream of a full load: slot and snapshot first, then the schema, then the rows, then what is no part of either.
package extract

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/identity"
	"github.com/pgsluice/pgsluice/cmd/internal/lastword"
	"github.com/pgsluice/pgsluice/cmd/internal/meter"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
	"github.com/pgsluice/pgsluice/cmd/pgextract/internal/copyout"
	"github.com/pgsluice/pgsluice/cmd/pgextract/internal/dump"
	"github.com/pgsluice/pgsluice/format"
)

// A Load says what to extract.
type Load struct {
	Server      pgdial.Server
	Slot        string // empty: a full load only, which nothing can follow
	Publication string // empty: the slot's name
	Failover    bool   // the slot is to survive a failover of the source
	Jobs        int
	DataOnly    bool
	NoOwner     bool
	NoACL       bool
	Format      string // of COPY; empty: chosen for each table
	Select      Selection
	Reload      bool           // tables that the target has are to be emptied and loaded again
	Resume      bool           // leave out what Target has
	Target      pgdial.Server  // for Resume
	Snapshot    string         // a token, of a process that holds the snapshot
	Part, Parts int            // of those that read it; 0 if this is the only one
	Waits       *waiting.Watch // of Server
	Meter       *meter.Meter
	Log         *slog.Logger

	probe  identity.Probe // held on the source while the stream is written
	ours   string         // the token of the slot, empty if it has none
	chosen *chosen
	token  *token
	have   loaded
	made   string        // what this load has made on the source and leaves there if it fails
	again  bool          // this is not the first stream
	ddl    []*format.DDL // the schema
}

// Run writes the stream of the load to out. Tables that were changed before they could be read follow in streams of their own, each with a new snapshot.
func (l *Load) Run(ctx context.Context, out io.Writer) error {
	err := l.streams(ctx, out)
	if err != nil && l.made != "" {
		l.Log.Warn(l.made+" on the source, and there it stays", "hint", fmt.Sprintf("To go on, with the same options as before: pgextract --slot %[1]s --resume | pgapply. "+
			"To give up: pgcutover cleanup --slot %[1]s --force", l.Slot))
	}
	return err
}

func (l *Load) streams(ctx context.Context, out io.Writer) error {
	const most = 10
	for round := 1; ; round++ {
		tables, changed, err := l.run(ctx, out)
		if err != nil || len(changed) == 0 {
			return err
		}
		e := changedError(changed)
		if round == most {
			return e.WithDetail("%d snapshots were tried.", most).WithHint("Have the application leave it alone for a moment; then start again with --resume, which leaves out what has been loaded.")
		}
		l.Log.Info(e.Error() + "; reading a new snapshot")
		l.leaveOut(tables, changed)
		l.token, l.again = nil, true
	}
}

func changedError(changed map[uint32]*catalog.Table) *fault.Error {
	var names []string
	for _, t := range changed {
		names = append(names, t.Schema+"."+t.Name)
	}
	slices.Sort(names)
	return fault.New(fault.TryAgain, "%s: truncated, rewritten, renamed or dropped after the snapshot was taken, and cannot be read as it was then", strings.Join(names, ", "))
}

// run writes one stream. It returns its tables, and those that could not be read because they had changed.
func (l *Load) run(ctx context.Context, out io.Writer) (tables []*catalog.Table, changed map[uint32]*catalog.Table, err error) {
	began := time.Now()
	w := format.NewWriter(out)
	defer func() {
		if ctx.Err() == nil {
			whose := ""
			if l.Resume { // pgapply was there, at least
				whose = l.Slot
			}
			lastword.Write(w, format.Load, whose, "pgextract", err)
		}
	}()
	c, id, snapshot, err := l.begin(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	defer snapshot.Release(context.WithoutCancel(ctx))

	// Everything that follows is read as of the snapshot.
	if tables, err = catalog.Tables(ctx, snapshot.Keep); err != nil {
		return nil, nil, l.Server.Explain(err)
	}
	tables = l.chosen.filter(ordinary(tables))
	parts, err := l.plan(ctx, snapshot, tables, id.Version)
	if err != nil {
		return nil, nil, err
	}
	if l.Resume && !l.again {
		if l.have, err = l.loaded(ctx, id); err != nil {
			return nil, nil, err
		}
	}
	if l.have != nil {
		left := l.have.missing(parts, l.token.id())
		l.sayMissing(parts, left)
		parts = left
	}
	header := l.header(id, snapshot, tables, parts, began)
	if err := writeError(w.Write(header)); err != nil {
		return nil, nil, err
	}
	write := func(d *format.DDL) error { return writeError(w.Write(d)) }
	if !l.DataOnly && !l.again {
		if l.ddl, err = l.schema(ctx, snapshot.Keep, snapshot.Name, id.Version); err != nil {
			return nil, nil, err
		}
	}
	for _, d := range l.ddl {
		if err := write(d); err != nil {
			return nil, nil, err
		}
	}
	if !l.again {
		if err := l.oids(ctx, snapshot.Keep, tables, write); err != nil {
			return nil, nil, err
		}
	}
	if l.Part <= 1 && !l.again {
		if err := l.fingerprints(ctx, snapshot.Name, w); err != nil {
			return nil, nil, err
		}
	}
	lobs := l.Select.all() && l.Part <= 1 && !l.have.complete("pg_catalog", "pg_largeobject")
	if lobs {
		if err := l.largeObjectDDL(ctx, snapshot.Keep, write); err != nil {
			return nil, nil, err
		}
	}
	for _, t := range tables {
		if err := writeError(w.Write(&t.Relation)); err != nil {
			return nil, nil, err
		}
	}
	r := &copyout.Reader{Server: l.Server, Snapshot: snapshot.Name, LSN: snapshot.LSN, Jobs: l.Jobs, Out: copyout.NewOutput(w), Meter: l.Meter, Log: l.Log}
	l.Meter.Start(header.Load.Tables, header.Load.Bytes)
	defer l.Meter.Stop()
	g, gctx := errgroup.WithContext(ctx)
	var rows, bytes, objects, objectBytes uint64
	g.Go(func() (err error) {
		rows, bytes, err = r.Read(gctx, parts)
		return err
	})
	if lobs {
		g.Go(func() (err error) {
			objects, objectBytes, err = l.largeObjects(gctx, snapshot.Name, r.Out)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, writeError(err)
	}
	l.Meter.Stop()
	switch {
	case len(r.Changed) == 0:
	case l.Slot == "":
		return nil, nil, changedError(r.Changed).WithHint("Without a slot all tables must be of one snapshot: start again, into an empty database, when nothing changes tables in this way.")
	case l.Snapshot != "":
		return nil, nil, changedError(r.Changed).WithHint("When the other parts are loaded: pgextract --slot %s --resume reads it with a new snapshot.", l.Slot)
	}
	// Those that were made since the snapshot are not part of this load.
	sequences, err := catalog.SequenceNames(ctx, snapshot.Keep)
	if err != nil {
		return nil, nil, l.Server.Explain(err)
	}
	snapshot.Release(ctx)
	if err := l.sequences(ctx, c, sequences, w); err != nil {
		return nil, nil, err
	}
	text := fmt.Sprintf("extracted %s, %s, %s", count.Of(len(tables), "table"), count.Of(rows, "row"), humanize.Bytes(bytes+objectBytes))
	if objects > 0 {
		text += fmt.Sprintf(", %s", count.Of(objects, "large object"))
	}
	// Before the end: what comes of it, pgapply says last.
	l.Log.Info(fmt.Sprintf("%s in %v", text, time.Since(began).Round(time.Millisecond)))
	if _, err := w.End(format.Complete, snapshot.LSN); err != nil {
		return nil, nil, writeError(err)
	}
	return tables, r.Changed, nil
}

// leaveOut has the next stream leave out what this one had.
func (l *Load) leaveOut(tables []*catalog.Table, changed map[uint32]*catalog.Table) {
	if l.have == nil {
		l.have = make(loaded)
	}
	done := &progress.TableState{Status: "copied"}
	l.have[catalog.Name{Schema: "pg_catalog", Name: "pg_largeobject"}] = done
	for _, t := range tables {
		if changed[t.ID] == nil {
			l.have[catalog.Name{Schema: t.Schema, Name: t.Name}] = done
		}
	}
}

// begin connects, finds out what is wanted, and gets the snapshot.
func (l *Load) begin(ctx context.Context) (c *pgx.Conn, id *slot.Identity, snapshot *slot.Snapshot, err error) {
	if l.Publication == "" {
		l.Publication = l.Slot
	}
	if l.Snapshot != "" {
		if l.token, err = parseToken(l.Snapshot); err != nil {
			return nil, nil, nil, err
		}
	}
	conn, err := l.Server.Connect(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}()
	if !l.again {
		l.Log.Info(identity.Line("source", conn))
		if err := l.apart(ctx, conn); err != nil {
			return nil, nil, nil, err
		}
	}
	// As long as this session lives: it is asked last, for the sequences.
	if l.probe, err = identity.Hold(ctx, conn); err != nil {
		return nil, nil, nil, l.Server.Explain(err)
	}
	if l.chosen, err = l.choose(ctx, conn); err != nil {
		return nil, nil, nil, err
	}
	if err := l.readable(ctx, conn); err != nil {
		return nil, nil, nil, err
	}
	source, err := slot.Identify(ctx, conn)
	if err != nil {
		return nil, nil, nil, l.Server.Explain(err)
	}
	if err := l.detaching(ctx, conn); err != nil {
		return nil, nil, nil, err
	}
	if l.again && !l.DataOnly {
		// Before the snapshot: what is changed all the time must be read as soon as there is one.
		if l.ddl, err = l.schema(ctx, conn, "", source.Version); err != nil {
			return nil, nil, nil, err
		}
	}
	if snapshot, err = l.snapshot(ctx, conn, &source); err != nil {
		return nil, nil, nil, err
	}
	if l.Slot != "" {
		if l.ours, err = slot.Token(ctx, conn, l.Slot, []string{l.Publication}); err != nil {
			snapshot.Release(context.WithoutCancel(ctx))
			return nil, nil, nil, l.Server.Explain(err)
		}
	}
	if l.token == nil {
		l.token = &token{name: snapshot.Name, lsn: snapshot.At, xmin: snapshot.XMin}
	}
	return conn, &source, snapshot, nil
}

func (l *Load) header(id *slot.Identity, snapshot *slot.Snapshot, tables []*catalog.Table, parts []*copyout.Part, began time.Time) *format.Header {
	h := id.Header(format.Load)
	h.Producer = "pgextract " + cli.Version()
	h.Created = format.TimeOf(began)
	h.Slot, h.StartLSN = l.Slot, snapshot.LSN
	h.Load = &format.LoadInfo{Snapshot: l.token.id(), Part: uint64(l.Part), Parts: uint64(l.Parts), DataOnly: l.DataOnly, Tables: uint64(len(tables)),
		Resumed: l.Resume || l.again, Reload: l.Reload, Scope: format.ScopeAll, Probe: uint64(l.probe)}
	h.Token = l.ours
	if l.NoOwner {
		h.Load.Without = append(h.Load.Without, format.WithoutOwners)
	}
	if l.NoACL {
		h.Load.Without = append(h.Load.Without, format.WithoutRights)
	}
	if !l.Select.all() || len(l.Select.ExcludeData) > 0 {
		h.Load.Scope = format.ScopeTables
	}
	for _, p := range parts {
		h.Load.Bytes += uint64(p.Bytes)
	}
	if l.Slot != "" {
		h.Publications = []string{l.Publication}
	}
	return h
}

// plan cuts the tables into parts, and returns those that this process reads.
func (l *Load) plan(ctx context.Context, snapshot *slot.Snapshot, tables []*catalog.Table, version int) ([]*copyout.Part, error) {
	jobs := l.Jobs
	if l.Parts > 0 {
		// All processes must come to the same plan, whatever has grown meanwhile: what is not in the token is small.
		jobs = l.Parts
		for _, t := range tables {
			t.Pages = l.token.pages[t.ID]
			t.Bytes = t.Pages * copyout.PageSize
		}
		slices.SortFunc(tables, func(a, b *catalog.Table) int {
			return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.ID, b.ID))
		})
	}
	parts, err := copyout.Plan(ctx, snapshot.Keep, tables, jobs, version, l.Format)
	if err != nil {
		return nil, l.Server.Explain(err)
	}
	if l.Parts > 0 {
		var mine []*copyout.Part
		for i, p := range parts {
			if i%l.Parts == l.Part-1 {
				mine = append(mine, p)
			}
		}
		parts = mine
	}
	return parts, nil
}

// Hold makes slot and snapshot, prints both, and holds the snapshot until stop is closed, so that any number of others can read parts of it.
func (l *Load) Hold(ctx context.Context, out io.Writer, stop <-chan struct{}) error {
	c, _, snapshot, err := l.begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	defer snapshot.Release(context.WithoutCancel(ctx))
	tables, err := catalog.Tables(ctx, snapshot.Keep)
	if err != nil {
		return l.Server.Explain(err)
	}
	for _, t := range l.chosen.filter(ordinary(tables)) {
		if t.Bytes >= copyout.MinPart {
			l.token.add(t.ID, t.Pages)
		}
	}
	if _, err := fmt.Fprintf(out, "slot\t%s\nsnapshot\t%v\n", l.Slot, l.token); err != nil {
		return writeError(err)
	}
	// A lost connection must be noticed by somebody: nobody else can have the snapshot then.
	const every = 10 * time.Second
	for {
		select {
		case <-stop:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(every):
		}
		if _, err := snapshot.Keep.Exec(ctx, "SELECT 1"); err != nil {
			return l.Server.Explain(err)
		}
	}
}

func writeError(err error) error {
	if err == nil || fault.StatusOf(err) != fault.Failed {
		return err
	}
	if cli.IsBrokenPipe(err) {
		return fault.New(fault.TryAgain, "could not write the stream: %w", err).WithDetail("The program that reads it has gone; its own message says why.")
	}
	return err
}

func ordinary(tables []*catalog.Table) []*catalog.Table {
	var list []*catalog.Table
	for _, t := range tables {
		if t.Kind == "r" {
			list = append(list, t)
		}
	}
	return list
}

// snapshot gets a snapshot whose LSN is known: with a new slot, or for one that exists. Without a slot the LSN does not matter.
func (l *Load) snapshot(ctx context.Context, c *pgx.Conn, id *slot.Identity) (*slot.Snapshot, error) {
	if l.Slot != "" {
		if err := l.identify(ctx, id); err != nil {
			return nil, err
		}
	}
	switch {
	case l.token != nil:
		return slot.Import(ctx, l.Server, l.token.name, l.token.lsn, l.Slot != "")
	case l.Slot == "":
		return slot.Hold(ctx, l.Server)
	}
	if l.Failover && id.Version < 170000 {
		return nil, fault.New(fault.Config, "slots survive a failover of the source from PostgreSQL 17 on; this is %d", id.Version/10000).
			WithHint("Leave out --failover. Should the source fail over before the cutover, start again with a new slot.")
	}
	// Before anything is created.
	if err := slot.RequireLogical(ctx, c); err != nil {
		return nil, l.Server.Explain(err)
	}
	info, err := slot.Get(ctx, c, l.Slot)
	if err != nil {
		return nil, l.Server.Explain(err)
	}
	if info != nil {
		if err := info.Usable(l.Slot, id.Database); err != nil {
			return nil, err
		}
	}
	// The publication comes first: changes from before it could never be decoded.
	if err := l.retry(ctx, c, func() error { return l.publish(ctx, c, info) }); err != nil {
		return nil, err
	}
	if info == nil {
		l.made = fmt.Sprintf("publication %q has been made", l.Publication)
		// In place of the one of an earlier slot of that name, if there was one.
		var set bool
		err := l.retry(ctx, c, func() (err error) {
			set, err = slot.SetBinding(ctx, c, l.Slot, []string{l.Publication}, slot.Binding{Token: slot.NewToken()})
			return err
		})
		if err != nil {
			return nil, l.Server.Explain(err)
		}
		if !set {
			l.Log.Info(fmt.Sprintf("the comment of publication %q cannot be written, so that nothing says whose slot %s is", l.Publication, l.Slot))
		}
	}
	name, temporary := l.Slot, info != nil
	if temporary {
		name = fmt.Sprintf("pgsluice_%d", time.Now().UnixNano())
	}
	snapshot, altered, err := slot.Export(ctx, l.Server, name, temporary)
	if err != nil {
		return nil, err
	}
	if info == nil {
		l.made = fmt.Sprintf("slot %q, which holds back WAL, has been made with its publications", l.Slot)
	}
	if len(altered) > 0 {
		l.Log.Warn(fmt.Sprintf("%s changed its schema, or was truncated, whenever slot %s was being made; changes that were open then may be decoded wrongly: verify tells, or begin again when that is quiet", altered[0], l.Slot))
	}
	if l.Failover {
		if err := slot.EnableFailover(ctx, l.Server, l.Slot); err != nil {
			snapshot.Release(context.WithoutCancel(ctx))
			return nil, err
		}
	}
	if temporary {
		l.Log.Info(fmt.Sprintf("slot %s exists already; reading a new snapshot at LSN %v", l.Slot, snapshot.LSN))
	} else {
		l.Log.Info(fmt.Sprintf("created slot %s at LSN %v; it keeps the source's WAL until pgdecode acknowledges it or the slot is dropped", l.Slot, snapshot.LSN))
	}
	return snapshot, nil
}

// identify asks a replication session for the system identifier.
func (l *Load) identify(ctx context.Context, id *slot.Identity) error {
	repl, _, err := l.Server.ConnectRaw(ctx, true)
	if err != nil {
		return err
	}
	defer repl.Close(ctx)
	return l.Server.Explain(id.IdentifySystem(ctx, repl))
}

// schema returns the schema as records, as it was in a snapshot, or is now if that is empty.
func (l *Load) schema(ctx context.Context, c *pgx.Conn, snapshot string, version int) ([]*format.DDL, error) {
	keys, err := catalog.KeyIndexes(ctx, c)
	if err != nil {
		return nil, l.Server.Explain(err)
	}
	x := dump.Extra{Constraints: make(map[uint32]dump.ConstraintIndex), NoOwner: l.NoOwner}
	for _, k := range keys {
		i := dump.ConstraintIndex{Create: k.Create, Kind: "UNIQUE", Index: k.Name}
		if k.Primary {
			i.Kind = "PRIMARY KEY"
		}
		if k.Deferrable {
			i.Suffix = " DEFERRABLE"
		}
		if k.Deferred {
			i.Suffix += " INITIALLY DEFERRED"
		}
		x.Constraints[k.Constraint] = i
	}
	if x.Populated, err = catalog.Populated(ctx, c); err != nil {
		return nil, l.Server.Explain(err)
	}
	if l.Publication != "" {
		x.Without = []string{l.Publication, slot.InsertOnly(l.Publication)}
	}
	settings, err := l.Server.Options()
	if err != nil {
		return nil, err
	}
	app, done := l.Server.Sessions.Program("pg_dump")
	defer done()
	o := dump.Options{DSN: l.Server.DSN, Password: c.Config().Password, Settings: settings, App: app, Version: version, Snapshot: snapshot,
		Args: []string{"--exclude-schema=pgsluice", "--no-subscriptions", "--encoding=" + pgdial.ClientEncoding(c.PgConn())}}
	if l.NoACL {
		o.Args = append(o.Args, "--no-privileges")
	}
	o.Args = append(o.Args, l.chosen.args()...)
	entries, warnings, err := dump.Schema(ctx, o)
	if err != nil {
		return nil, err
	}
	list := dump.DDL(entries, x)
	for _, w := range warnings {
		list = append(list, l.warn("", "", "pg_dump: "+w))
	}
	return list, nil
}

// sequences writes the state that sequences have now, under the names that they had in the snapshot.
func (l *Load) sequences(ctx context.Context, c *pgx.Conn, list []catalog.Sequence, w *format.Writer) error {
	now, err := catalog.Sequences(ctx, c)
	if err != nil {
		return l.Server.Explain(err)
	}
	byOID := make(map[uint32]*catalog.Sequence, len(now))
	for i := range now {
		byOID[now[i].OID] = &now[i]
	}
	for i := range list {
		s, known := byOID[list[i].OID]
		if !known || !l.chosen.sequence(&list[i]) {
			continue // it was dropped, or is not wanted
		}
		s.Schema, s.Name = list[i].Schema, list[i].Name
		if !s.Known {
			return fault.New(fault.Permission, "could not read the state of sequence %s.%s on the source", s.Schema, s.Name).
				WithHint("GRANT SELECT ON ALL SEQUENCES IN SCHEMA %s TO …", text.Ident(s.Schema))
		}
		if err := writeError(w.Write(&s.Sequence)); err != nil {
			return err
		}
	}
	return nil
}
