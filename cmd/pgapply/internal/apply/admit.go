package apply

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/identity"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/format"
)

// admit refuses a stream that is not this target's to take, before anything is changed there, and
// makes sure of schema pgsluice for one that is.
func (r *Run) admit(ctx context.Context, h *format.Header) error {
	if err := r.seesProbe(ctx, h); err != nil {
		return err
	}
	streams, err := progress.Streams(ctx, r.control, "")
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42703" {
		// state of an earlier version, which Ensure adds columns to
		if err = progress.Ensure(ctx, r.control); err == nil {
			streams, err = progress.Streams(ctx, r.control, "")
		}
	}
	if err != nil {
		return r.Server.Explain(err)
	}
	key := progress.KeyOf(h)
	var known *progress.Stream // nil: nothing of this source is here
	for _, s := range streams {
		switch {
		case s.Key == key:
			if s.Applied != 0 || s.LoadStatus != "none" {
				known = s
			}
		case s.Key.Slot == key.Slot && key.Slot != "":
			return fault.New(fault.Config,
				"the stream is of %v of system %s, and the target has the state of %v of system %s", key,
				key.SystemID, s.Key, s.Key.SystemID).
				WithDetail("A target is the copy of one database only as long as no other is mixed into it.").
				WithHint("Look at --source and PGSLUICE_SOURCE of the program that writes the stream. If both are wanted here, use another slot name; " +
					"what is left of a migration that is over goes with pgcutover cleanup.")
		}
	}
	if known == nil {
		if err := r.notTheSource(ctx, h); err != nil {
			return err
		}
		if err := r.mayBegin(ctx, h); err != nil {
			return err
		}
	} else if was := known.Source.Token; was != "" && h.Token != "" && was != h.Token {
		return fault.New(fault.Config, "%v was made anew: the stream is of another migration than the target's state", key).
			WithHint("%s", slot.Anew(key.Slot))
	}
	return r.Server.Explain(progress.Ensure(ctx, r.control))
}

// seesProbe refuses a target on which the lock stands that pgextract holds on the source while it
// writes: that is the same database, unless the servers are known to be two.
func (r *Run) seesProbe(ctx context.Context, h *format.Header) error {
	if h.Load == nil {
		return nil
	}
	system, err := identity.System(ctx, r.control)
	if err != nil || identity.Differ(system, h.SystemID) {
		return r.Server.Explain(err)
	}
	seen, err := identity.Probe(h.Load.Probe).Seen(ctx, r.control)
	if err != nil {
		return r.Server.Explain(err)
	}
	if seen {
		return fault.New(fault.Config, "source and target are the same database").WithHint("%s", r.lookAtTarget())
	}
	return nil
}

func (r *Run) lookAtTarget() string {
	return fmt.Sprintf("Look at --target and PGSLUICE_TARGET; this is %s.", identity.Name(r.control))
}

// notTheSource refuses a target that seems to be the database which the stream comes from, when
// there is no probe. A server's system identifier alone proves nothing: a physical copy of the
// source has the same, and may well become its target. What decides about a database that may be
// the same by identifier and name is whether it has the stream's slot, or the publication with its
// token. A copy that has brought those along is not told apart from the source, and has to be rid
// of them before it is adopted.
func (r *Run) notTheSource(ctx context.Context, h *format.Header) error {
	look := r.lookAtTarget()
	id, err := slot.Identify(ctx, r.control)
	if err != nil {
		return r.Server.Explain(err)
	}
	if h.Slot == "" || id.Database != h.Database || identity.Differ(id.SystemID, h.SystemID) {
		return nil
	}
	const copied = " If it is a copy of the source, made with its files, then on this copy, and only there: %s; then start again."
	info, err := slot.Get(ctx, r.control, h.Slot)
	if err != nil {
		return r.Server.Explain(err)
	}
	if info != nil && info.Database == id.Database {
		return fault.New(fault.Config,
			"the target has slot %q, which the stream comes from: source and target seem to be the same database", h.Slot).
			WithHint("%s"+copied, look, "SELECT pg_catalog.pg_drop_replication_slot('"+h.Slot+"')")
	}
	token, err := slot.Token(ctx, r.control, h.Slot, h.Publications)
	if err != nil {
		return r.Server.Explain(err)
	}
	if token != "" && token == h.Token {
		return fault.New(fault.Config, "the target has the publication of the stream: source and target seem to be the same database").
			WithHint("%s"+copied, look, "DROP PUBLICATION "+h.Publications[0])
	}
	return nil
}

// mayBegin decides about a stream of a source of which the target has nothing yet.
func (r *Run) mayBegin(ctx context.Context, h *format.Header) error {
	key := progress.KeyOf(h)
	look := fmt.Sprintf("Are source and target swapped? The target is %s.", identity.Name(r.control))
	sources, err := slot.Migrations(ctx, r.control)
	if err != nil {
		return r.Server.Explain(err)
	}
	fenced, err := identity.Fenced(ctx, r.control)
	if err != nil {
		return r.Server.Explain(err)
	}
	for _, name := range sources {
		switch {
		case name == h.Slot:
			return fault.New(fault.Config, "the target has slot %q itself: it is the source of that migration", name).
				WithHint("%s If not, use another slot name.", look)
		case fenced:
			return fault.New(fault.Config, "the target is the source of a migration, of slot %q, and was fenced by its cutover", name).
				WithHint("%s If not, remove first what is left there: pgcutover cleanup --slot %s, and pgcutover unfence.", look, name)
		}
	}
	reload := h.Load != nil && h.Load.Reload
	if reload || h.StreamKind == format.Changes && !r.Adopt {
		// It may be another role's state that has not been read.
		if err := progress.Trust(ctx, r.control); err != nil {
			return r.Server.Explain(err)
		}
	}
	switch {
	case reload:
		return fault.New(fault.Config,
			"nothing has been loaded here from database %q of the stream, so no table of it can be loaded again",
			h.Database).
			WithHint("%s If the tables are empty, leave out --reload.", look)
	case h.StreamKind == format.Changes && !r.Adopt:
		return fault.New(fault.Config, "%v has neither been loaded nor applied here before", key).
			WithDetail("Its changes belong onto the rows that the source had at LSN %v; onto others they would be wrong.", h.StartLSN).
			WithHint("Load it first: pgextract --slot %s | pgapply. If the target has those rows already, copied by other means: pgapply --adopt.", h.Slot)
	}
	return nil
}
