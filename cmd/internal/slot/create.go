package slot

import (
	"context"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
)

const backSuffix = "_back"

// Back is the name of the slot, and of the publication, that lead back from a migration. The way
// back from a way back is the migration itself.
func Back(slot string) string {
	if base, is := strings.CutSuffix(slot, backSuffix); is {
		return base
	}
	return slot + backSuffix
}

// Create creates a slot without a snapshot, unless it exists. Before that, it calls record with the
// server's identity, as the header of the slot's streams has it.
func Create(ctx context.Context, server pgdial.Server, name string, exists bool, record func(Identity) error) error {
	repl, _, err := server.ConnectRaw(ctx, true)
	if err != nil {
		return err
	}
	defer repl.Close(context.WithoutCancel(ctx))
	var id Identity
	if err := id.IdentifySystem(ctx, repl); err != nil {
		return server.Explain(err)
	}
	if err := record(id); err != nil || exists {
		return err
	}
	if _, err = create(ctx, repl, name, PGOutput, "NOEXPORT_SNAPSHOT", false); err != nil {
		return explainCreate(server, name, err)
	}
	return nil
}
