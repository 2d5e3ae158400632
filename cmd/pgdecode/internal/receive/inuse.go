package receive

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
)

// reader returns the session that reads the slot, or nil if it is not known.
func (r *Receiver) reader(ctx context.Context) *slot.Reader {
	c, err := r.Server.Connect(ctx)
	if err != nil {
		return nil
	}
	defer c.Close(ctx)
	reader, err := slot.GetReader(ctx, c, r.Slot)
	if err != nil {
		return nil
	}
	return reader
}

// inUse returns the error for a slot that is not released. The slot's reader may be a session whose
// process is gone, which the server will notice: then trying again helps. If the reader is active,
// trying again does not help.
func (r *Receiver) inUse(ctx context.Context, before *slot.Reader, err error) error {
	now := r.reader(ctx)
	if !before.Lives(now) {
		e := fault.New(fault.TryAgain, "slot %q is in use by another session: %w", r.Slot, err).
			WithHint("Is another pgdecode running? On the source: SELECT * FROM pg_catalog.pg_replication_slots WHERE slot_name = '%s';", r.Slot)
		if now != nil {
			e.Detail = "The session is " + now.Text + "."
		}
		return e
	}
	return fault.New(fault.Config, "slot %q is being read by another running process: %w", r.Slot, err).
		WithDetail("The process is %s.", now.Text).
		WithHint("Only one process can read a slot. Let that one run, or stop it first. To find it on its host: pgrep -af 'pgdecode.*%s'", r.Slot)
}

// releaseTimeout is how long the server may take to notice that the slot's previous reader is gone.
const releaseTimeout = 2 * time.Second

func slotInUse(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "55006"
}
