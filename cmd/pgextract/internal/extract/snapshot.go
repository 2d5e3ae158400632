package extract

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/citus"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
)

// snapshot gets a snapshot whose LSN is known, with a new slot or for an existing one. Without a
// slot, the LSN does not matter.
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
	// Before anything is created.
	info, err := l.slot(ctx, c, id)
	if err != nil {
		return nil, err
	}
	// The publication comes first: changes from before it could never be decoded.
	if err := l.retry(ctx, c, func() error { return l.publish(ctx, c, info) }); err != nil {
		return nil, err
	}
	if info != nil {
		return l.adopt(ctx)
	}
	l.made = fmt.Sprintf("publication %q has been made", l.Publication)
	if err := l.bind(ctx, c); err != nil {
		return nil, err
	}
	return l.create(ctx)
}

// slot looks for the slot, and checks what decoding needs. It returns nil if the slot has to be
// created.
func (l *Load) slot(ctx context.Context, c *pgx.Conn, id *slot.Identity) (*slot.Info, error) {
	if l.Failover && id.Version < 170000 {
		return nil, fault.New(fault.Config, "--failover needs PostgreSQL 17 or newer, but the source is PostgreSQL %d", id.Version/10000).
			WithHint("Leave out --failover. If the source fails over before the cutover, start again with a new slot.")
	}
	if err := l.findable(ctx, c); err != nil {
		return nil, err
	}
	if err := slot.RequireLogical(ctx, c); err != nil {
		return nil, l.Server.Explain(err)
	}
	info, err := slot.Get(ctx, c, l.Slot)
	if err != nil {
		return nil, l.Server.Explain(err)
	}
	if l.Plugin, err = slot.Plugin(l.Plugin, id.Version); err != nil {
		return nil, err
	}
	if info == nil {
		return nil, slot.RequireCarries(ctx, c, l.Plugin, []string{l.Publication})
	}
	return info, info.Usable(l.Slot, id.Database)
}

// findable refuses tables whose changes the slot would not find.
func (l *Load) findable(ctx context.Context, c *pgx.Conn) error {
	list, err := citus.InShards(ctx, c)
	if err != nil {
		return l.Server.Explain(err)
	}
	var names []string
	for _, t := range list {
		if l.chosen.has(t.OID, t.Schema) {
			names = append(names, t.Schema+"."+t.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fault.New(fault.Config, "the source is a Citus cluster, and no slot finds changes of its distributed tables: %s", count.Some(names)).
		WithHint("Leave these tables out with --exclude-table, or load without --slot, which carries no changes.")
}

// bind gives the slot a token before it is created. The token replaces that of an earlier slot of
// the same name.
func (l *Load) bind(ctx context.Context, c *pgx.Conn) error {
	var set bool
	err := l.retry(ctx, c, func() (err error) {
		set, err = slot.SetBinding(ctx, c, l.Slot, []string{l.Publication}, slot.Binding{Token: slot.NewToken()})
		return err
	})
	if err != nil {
		return l.Server.Explain(err)
	}
	if !set {
		l.Log.Info(fmt.Sprintf("could not write the comment of publication %q, which identifies the migration of slot %s",
			l.Publication, l.Slot))
	}
	return nil
}

// create creates the slot.
func (l *Load) create(ctx context.Context) (*slot.Snapshot, error) {
	snapshot, err := l.export(ctx, l.Slot, false)
	if err != nil {
		return nil, err
	}
	l.Log.Info(fmt.Sprintf("created slot %s at LSN %v; it keeps the source's WAL until pgdecode acknowledges it or the slot is dropped",
		l.Slot, snapshot.LSN))
	return snapshot, nil
}

// adopt leaves the existing slot unchanged, and gets the snapshot from a temporary one.
func (l *Load) adopt(ctx context.Context) (*slot.Snapshot, error) {
	snapshot, err := l.export(ctx, fmt.Sprintf("pgsluice_%d", time.Now().UnixNano()), true)
	if err != nil {
		return nil, err
	}
	l.Log.Info(fmt.Sprintf("slot %s exists already; reading a new snapshot at LSN %v", l.Slot, snapshot.LSN))
	return snapshot, nil
}

func (l *Load) export(ctx context.Context, name string, temporary bool) (*slot.Snapshot, error) {
	snapshot, altered, err := slot.Export(ctx, l.Server, name, l.Plugin, temporary)
	if err != nil {
		return nil, err
	}
	if !temporary {
		l.made = fmt.Sprintf("slot %q, which holds back WAL, and its publications were created", l.Slot)
	}
	if len(altered) > 0 {
		l.Log.Warn(fmt.Sprintf("every attempt to create slot %[2]s met a schema change or truncation of %[1]s; the slot may decode transactions that were open then wrongly: compare the rows with pgcutover verify, or start again when the source is quiet",
			altered[0], l.Slot))
	}
	if l.Failover {
		if err := slot.EnableFailover(ctx, l.Server, l.Slot); err != nil {
			snapshot.Release(context.WithoutCancel(ctx))
			return nil, err
		}
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
