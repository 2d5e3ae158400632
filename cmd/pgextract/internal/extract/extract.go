// Package extract makes the stream of a full load: slot and snapshot first, then the schema, then the rows, then what is no part of either.
package extract

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
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
	Log         *slog.Logger
}

// Run writes the stream of the load to out.
func (l *Load) Run(ctx context.Context, out io.Writer) error {
	if l.Publication == "" {
		l.Publication = l.Slot
	}
	began := time.Now()
	c, err := l.Server.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	id, err := slot.Identify(ctx, c)
	if err != nil {
		return l.Server.Explain(err)
	}
	snapshot, err := l.snapshot(ctx, c, &id)
	if err != nil {
		return err
	}
	defer snapshot.Release(context.WithoutCancel(ctx))

	// Everything that follows is read as of the snapshot.
	tables, err := catalog.Tables(ctx, snapshot.Keep)
	if err != nil {
		return l.Server.Explain(err)
	}
	tables = ordinary(tables)
	header := id.Header(format.Load)
	header.Producer = "pgextract " + cli.Version()
	header.Created = format.TimeOf(began)
	header.Slot, header.StartLSN = l.Slot, snapshot.LSN
	header.Load = &format.LoadInfo{Snapshot: snapshot.Name, DataOnly: l.DataOnly, Tables: uint64(len(tables)), Scope: format.ScopeAll}
	for _, t := range tables {
		header.Load.Bytes += uint64(t.Bytes)
	}
	if l.Slot != "" {
		header.Publications = []string{l.Publication}
	}
	w := format.NewWriter(out)
	if err := writeError(w.Write(header)); err != nil {
		return err
	}
	if !l.DataOnly {
		if err := l.schema(ctx, snapshot, id.Version, w); err != nil {
			return err
		}
	}
	for _, t := range tables {
		if err := writeError(w.Write(&t.Relation)); err != nil {
			return err
		}
	}
	parts := copyout.Plan(tables, l.Jobs, id.Version, l.Format)
	r := &copyout.Reader{Server: l.Server, Snapshot: snapshot.Name, LSN: snapshot.LSN, Jobs: l.Jobs, Out: copyout.NewOutput(w)}
	rows, bytes, err := r.Read(ctx, parts)
	if err != nil {
		return writeError(err)
	}
	snapshot.Release(ctx)
	if err := l.sequences(ctx, c, w); err != nil {
		return err
	}
	if _, err := w.End(format.Complete, snapshot.LSN); err != nil {
		return writeError(err)
	}
	l.Log.Info(fmt.Sprintf("extracted %d tables, %s rows, %s in %v", len(tables), humanize.Comma(int64(rows)), humanize.Bytes(bytes), time.Since(began).Round(time.Millisecond)))
	return nil
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
	if l.Slot == "" {
		return slot.Hold(ctx, l.Server)
	}
	if err := l.identify(ctx, id); err != nil {
		return nil, err
	}
	if l.Failover && id.Version < 170000 {
		return nil, fault.New(fault.Config, "slots survive a failover of the source from PostgreSQL 17 on; this is %d", id.Version/10000).
			WithHint("Leave out --failover. Should the source fail over before the cutover, start again with a new slot.")
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
	if err := l.publish(ctx, c, id.Version, info); err != nil {
		return nil, err
	}
	name, temporary := l.Slot, info != nil
	if temporary {
		name = fmt.Sprintf("pgsluice_%d", time.Now().UnixNano())
	}
	stop := l.watchBlockers(ctx, c)
	snapshot, err := slot.Export(ctx, l.Server, name, temporary)
	stop()
	if err != nil {
		return nil, err
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

// publish makes sure that the tables are published.
func (l *Load) publish(ctx context.Context, c *pgx.Conn, version int, info *slot.Info) error {
	tables, err := catalog.Tables(ctx, c)
	if err != nil {
		return l.Server.Explain(err)
	}
	if info != nil {
		if _, err := slot.RequirePublications(ctx, c, []string{l.Publication}); err != nil {
			return l.Server.Explain(err)
		}
	}
	names, insertOnly, err := slot.EnsurePublications(ctx, c, l.Publication, published(tables, version, l.Log))
	if err != nil {
		return l.Server.Explain(err)
	}
	_ = names
	if len(insertOnly) > 0 {
		l.Log.Warn(fmt.Sprintf("%d tables have no replica identity; only their inserts and truncates are carried: %s", len(insertOnly), listed(insertOnly)),
			"hint", "If rows of them are updated or deleted while the migration runs: give them a primary key, or ALTER TABLE … REPLICA IDENTITY FULL, before pgextract.")
	}
	return nil
}

// published returns what is to be put into the publication: partitioned tables as a whole where the server can, so that partitions that are
// made later are in it too.
func published(tables []*catalog.Table, version int, log *slog.Logger) []slot.Published {
	asRoot := version >= 130000
	keyless := make(map[uint32]bool) // partitioned tables with a partition that has no key
	for _, t := range tables {
		if t.Root != 0 && t.Kind == "r" && !t.HasKey {
			keyless[t.Root] = true
		}
	}
	var list []slot.Published
	var unlogged []string
	for _, t := range tables {
		switch {
		case t.Unlogged:
			unlogged = append(unlogged, t.Schema+"."+t.Name)
		case t.Kind == "p" && (!asRoot || t.Root != 0), t.Kind == "r" && asRoot && t.Root != 0:
		case t.Kind == "p":
			list = append(list, slot.Published{OID: t.ID, Schema: t.Schema, Name: t.Name, HasKey: !keyless[t.ID]})
		default:
			list = append(list, slot.Published{OID: t.ID, Schema: t.Schema, Name: t.Name, HasKey: t.HasKey})
		}
	}
	if len(unlogged) > 0 {
		log.Warn("unlogged tables are copied, but changes of them are in no WAL and cannot follow: " + strings.Join(unlogged, ", "))
	}
	return list
}

func listed(tables []slot.Published) string {
	const most = 10
	var names []string
	for i, t := range tables {
		if i == most {
			names = append(names, fmt.Sprintf("and %d more", len(tables)-most))
			break
		}
		names = append(names, t.String())
	}
	return strings.Join(names, ", ")
}

// watchBlockers says what the creation of a slot waits for, if it does.
func (l *Load) watchBlockers(ctx context.Context, c *pgx.Conn) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for wait := 3 * time.Second; ; wait = 30 * time.Second {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			list, err := slot.Blockers(ctx, c)
			if err != nil || len(list) == 0 {
				continue
			}
			l.Log.Info(fmt.Sprintf("waiting for %d transactions to end, without which there is no consistent snapshot; the oldest: %s", len(list), list[0]))
		}
	}()
	return func() { cancel(); <-done }
}

// schema writes the schema as records.
func (l *Load) schema(ctx context.Context, s *slot.Snapshot, version int, w *format.Writer) error {
	keys, err := catalog.KeyIndexes(ctx, s.Keep)
	if err != nil {
		return l.Server.Explain(err)
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
	if x.Populated, err = catalog.Populated(ctx, s.Keep); err != nil {
		return l.Server.Explain(err)
	}
	if l.Publication != "" {
		x.Without = []string{l.Publication, slot.InsertOnly(l.Publication)}
	}
	o := dump.Options{DSN: l.Server.DSN, Password: s.Keep.Config().Password, Version: version, Snapshot: s.Name,
		Args: []string{"--exclude-schema=pgsluice", "--no-subscriptions", "--encoding=" + pgdial.ClientEncoding(s.Keep.PgConn())}}
	if l.NoACL {
		o.Args = append(o.Args, "--no-privileges")
	}
	entries, err := dump.Schema(ctx, o)
	if err != nil {
		return err
	}
	for _, d := range dump.DDL(entries, x) {
		if err := writeError(w.Write(d)); err != nil {
			return err
		}
	}
	return nil
}

func (l *Load) sequences(ctx context.Context, c *pgx.Conn, w *format.Writer) error {
	list, err := catalog.Sequences(ctx, c)
	if err != nil {
		return l.Server.Explain(err)
	}
	for i := range list {
		s := &list[i]
		if !s.Known {
			return fault.New(fault.Permission, "could not read the state of sequence %s.%s on the source", s.Schema, s.Name).
				WithHint("GRANT SELECT ON ALL SEQUENCES IN SCHEMA %s TO …", s.Schema)
		}
		if err := writeError(w.Write(&s.Sequence)); err != nil {
			return err
		}
	}
	return nil
}
