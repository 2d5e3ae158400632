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
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/format"
)

// admit refuses a stream that does not belong to this target, before anything changes there. If the
// stream belongs here, admit makes sure that schema pgsluice exists.
func (r *Run) admit(ctx context.Context, h *format.Header) error {
	if h.Slot != "" && slot.CheckName(h.Slot) != nil { // it becomes a part of commands in hints
		return fault.New(fault.Data, "the stream is of slot %q, and no slot can have that name", h.Slot).
			WithHint("Whoever writes the stream must name a slot in its header as PostgreSQL does: at most 63 lower-case letters, digits and underscores.")
	}
	if err := r.seesProbe(ctx, h); err != nil {
		return err
	}
	streams, err := progress.Streams(ctx, r.control, "")
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42703" {
		// An earlier version's state lacks columns, which Ensure adds.
		if err = progress.Ensure(ctx, r.control); err == nil {
			streams, err = progress.Streams(ctx, r.control, "")
		}
	}
	if err != nil {
		return r.Server.Explain(err)
	}
	key := progress.KeyOf(h)
	var known *progress.Stream // nil: the target has nothing of this source
	for _, s := range streams {
		switch {
		case s.Key == key:
			if s.Applied != 0 || s.LoadStatus != "none" {
				known = s
			}
		case s.Key.Slot == key.Slot && key.Slot != "":
			return fault.New(fault.Config,
				"the stream comes from %v of system %s, but the target has the state of %v of system %s", key,
				key.SystemID, s.Key, s.Key.SystemID).
				WithDetail("A slot name on the target stands for one source database; changes of two must not mix.").
				WithHint("Check --source and PGSLUICE_SOURCE of the program that writes the stream. To migrate both databases to this target, use another slot name. " +
					"pgcutover cleanup removes what a finished migration has left.")
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
		return fault.New(fault.Config, "%v was created again: the stream belongs to another migration than the target's state", key).
			WithHint("%s", slot.Anew(key.Slot))
	}
	return r.Server.Explain(progress.Ensure(ctx, r.control))
}

// seesProbe refuses a target that is also the source. While pgextract writes, it holds a lock on
// the source. If the target has that lock, it is the same database, unless the servers are known to
// differ.
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
	return fmt.Sprintf("Check --target and PGSLUICE_TARGET; this is %s.", identity.Name(r.control))
}

// notTheSource refuses a target that seems to be the source database, when there is no probe. The
// system identifier alone proves nothing: a physical copy of the source has the same identifier,
// and may be a valid target. If identifier and database name are the source's, notTheSource refuses
// a database that has the stream's slot, or the publication with its token. A copy that still has
// these looks like the source. They must be dropped on the copy before pgapply adopts it.
func (r *Run) notTheSource(ctx context.Context, h *format.Header) error {
	look := r.lookAtTarget()
	id, err := slot.Identify(ctx, r.control)
	if err != nil {
		return r.Server.Explain(err)
	}
	if h.Slot == "" || id.Database != h.Database || identity.Differ(id.SystemID, h.SystemID) {
		return nil
	}
	const copied = " If the target is a physical copy of the source, run on this copy, and only there: %s; then start again."
	info, err := slot.Get(ctx, r.control, h.Slot)
	if err != nil {
		return r.Server.Explain(err)
	}
	if info != nil && info.Database == id.Database {
		return fault.New(fault.Config,
			"the target has slot %q, from which the stream comes: source and target seem to be the same database", h.Slot).
			WithHint("%s"+copied, look, "SELECT pg_catalog.pg_drop_replication_slot('"+h.Slot+"')")
	}
	token, err := slot.Token(ctx, r.control, h.Slot, h.Publications)
	if err != nil {
		return r.Server.Explain(err)
	}
	if token != "" && token == h.Token {
		return fault.New(fault.Config, "the target has the stream's publication: source and target seem to be the same database").
			WithHint("%s"+copied, look, "DROP PUBLICATION "+text.Ident(h.Publications[0]))
	}
	return nil
}

// mayBegin decides whether to accept a stream whose source has left nothing on the target yet.
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
			return fault.New(fault.Config, "the target is the source of the migration with slot %q and was fenced by its cutover", name).
				WithHint("%s If not, first remove what that migration has left: pgcutover cleanup --slot %s, and pgcutover unfence.", look, name)
		}
	}
	reload := h.Load != nil && h.Load.Reload
	if reload || h.StreamKind == format.Changes && !r.Adopt {
		// The target may have state that was not read because it belongs to another role.
		if err := progress.Trust(ctx, r.control); err != nil {
			return r.Server.Explain(err)
		}
	}
	switch {
	case reload:
		return fault.New(fault.Config,
			"cannot load tables again: nothing has been loaded here from database %q of the stream",
			h.Database).
			WithHint("%s If the tables are empty, leave out --reload.", look)
	case h.StreamKind == format.Changes && !r.Adopt:
		return fault.New(fault.Config, "%v has neither been loaded nor applied here before", key).
			WithDetail("Its changes are right only on top of the rows that the source had at LSN %v.", h.StartLSN).
			WithHint("Load those rows first: pgextract --slot %s | pgapply. If the target has them already, copied by other means: pgapply --adopt", h.Slot)
	}
	return nil
}
