package slot

import (
	"context"

	"github.com/jackc/pglogrepl"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
)

// Back is the name of the slot, and of the publication, that lead back from a migration.
func Back(slot string) string { return slot + "_back" }

// Create creates a slot without a snapshot, unless it exists. It identifies the server as the
// header of the slot's streams does.
func Create(ctx context.Context, server pgdial.Server, name string, exists bool) (id Identity, err error) {
	repl, _, err := server.ConnectRaw(ctx, true)
	if err != nil {
		return id, err
	}
	defer repl.Close(context.WithoutCancel(ctx))
	if err := id.IdentifySystem(ctx, repl); err != nil {
		return id, server.Explain(err)
	}
	if exists {
		return id, nil
	}
	if _, err = pglogrepl.CreateReplicationSlot(ctx, repl, quoteName(name), "pgoutput",
		pglogrepl.CreateReplicationSlotOptions{SnapshotAction: "NOEXPORT_SNAPSHOT", Mode: pglogrepl.LogicalReplication}); err != nil {
		return id, explainCreate(server, name, err)
	}
	return id, nil
}
