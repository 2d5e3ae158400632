package steps

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// haltBack stops the way back before the source is given back to the application: what both sides
// write from then on must not mix.
func haltBack(ctx context.Context, s *session.Session) error {
	b, err := unused(ctx, s)
	if err != nil || b == nil || b.stream.Start == 0 {
		return err
	}
	// A cutover back may be at work, under a lock of its own.
	back := turned(s, b.stream)
	back.Under = ""
	if err := back.Exclusive(ctx); err != nil {
		return err
	}
	s.Log.Info("unfence: the way back is stopped; nothing is applied to the source any more")
	return s.Source.Explain(progress.HaltBack(ctx, s.OnSource, b.stream.ID))
}

// dropUnused drops what Reverse has made, if the target is not open: it has nothing to carry, and
// would only retain WAL on the target.
func dropUnused(ctx context.Context, s *session.Session) error {
	_, err := unused(ctx, s)
	return err
}

// unused finds the way back, if there is one that has not ended. If the target is not open, it
// drops the way back, and returns nil. A slot from an earlier cutover stays: the watch needs it.
func unused(ctx context.Context, s *session.Session) (*back, error) {
	b, err := findBack(ctx, s)
	if fault.StatusOf(err) == fault.Permission {
		return nil, nil // the state is that of another role's migration
	}
	if err != nil || b.stream == nil || !b.stream.LeadsBack() {
		return nil, err
	}
	if s.Stream == nil || s.Stream.Ended {
		return b, nil
	}
	if b.stream.Ended {
		return nil, s.Source.Explain(progress.HaltBack(ctx, s.OnSource, b.stream.ID))
	}
	info, err := slot.Get(ctx, s.OnTarget, b.name)
	if err != nil {
		return nil, s.Target.Explain(err)
	}
	if info != nil {
		if err := dropSlot(ctx, turned(s, nil)); err != nil {
			return nil, err
		}
		s.Log.Info(fmt.Sprintf("dropped slot %q of the target, which was made for the way back", b.name))
	}
	return nil, s.Source.Explain(progress.ForgetBack(ctx, s.OnSource, b.stream.ID))
}

// dropUnread drops the slot of an open target from which nobody will read: the target was left
// before, and has become the primary again without a way back.
func dropUnread(ctx context.Context, s *session.Session) error {
	if s.Stream.BackOf == "" || s.OnSource == nil {
		return nil
	}
	b, err := lookBack(ctx, s)
	if fault.StatusOf(err) == fault.Permission {
		return nil // the state is that of another role's migration
	}
	if err != nil || b.stream != nil && b.stream.LeadsBack() {
		return err
	}
	info, err := slot.Get(ctx, s.OnTarget, b.name)
	if err != nil || info == nil {
		return s.Target.Explain(err)
	}
	if b.own(ctx, info) != nil {
		return nil
	}
	if err := dropSlot(ctx, turned(s, nil)); err != nil {
		return err
	}
	s.Log.Info(fmt.Sprintf("finish: dropped slot %q of the target: there is no way back", b.name))
	return nil
}

// turned returns the session of the way back: source and target have changed places.
func turned(s *session.Session, stream *progress.Stream) *session.Session {
	m := *s.Migration
	m.Source, m.Target, m.Slot = s.Target, s.Source, slot.Back(s.Slot)
	return &session.Session{Migration: &m, OnSource: s.OnTarget, OnTarget: s.OnSource, Stream: stream}
}

// removeBack removes the way back from both sides: the slot and the publications on the target, and
// the state on the source. It gives the source back the foreign keys and triggers that waited.
func removeBack(ctx context.Context, s *session.Session) error {
	if _, err := s.OnSource.Exec(ctx, "SET default_transaction_read_only = off"); err != nil {
		return s.Source.Explain(err)
	}
	stream, err := progress.BackOf(ctx, s.OnSource, s.Slot)
	if err != nil {
		return onSource(s, err)
	}
	b := turned(s, stream)
	info, err := slot.Get(ctx, b.OnSource, b.Slot)
	if err != nil {
		return b.Source.Explain(err)
	}
	publications, err := slot.Publications(ctx, b.OnSource, []string{b.Slot})
	if err != nil {
		return b.Source.Explain(err)
	}
	token, err := slot.Token(ctx, b.OnSource, b.Slot, publications)
	if err != nil {
		return b.Source.Explain(err)
	}
	if stream == nil && (token == "" || len(publications) != 2) {
		return removeEmpty(ctx, b) // whatever has these names, reverse has not created it
	}
	if info != nil {
		if err := ours(ctx, b, info, true); err != nil {
			return err
		}
		if err := dropSlot(ctx, b); err != nil {
			return err
		}
	}
	for _, p := range publications {
		if _, err := b.OnSource.Exec(ctx, "DROP PUBLICATION IF EXISTS "+pgx.Identifier{p}.Sanitize()); err != nil {
			return b.Source.Explain(err)
		}
	}
	if err := removeBackState(ctx, b); err != nil {
		return err
	}
	s.Log.Info(fmt.Sprintf("cleanup: removed the way back: slot and publications %q from the target, and its state from the source", b.Slot))
	return nil
}

// removeBackState removes the state of the way back from the old primary.
func removeBackState(ctx context.Context, b *session.Session) error {
	if b.Stream != nil {
		if err := release(ctx, b); err != nil {
			return err
		}
		if _, err := b.OnTarget.Exec(ctx, "DELETE FROM pgsluice.streams WHERE stream_id = $1", b.Stream.ID); err != nil {
			return b.Target.Explain(err)
		}
	}
	return removeEmpty(ctx, b)
}

// removeEmpty removes the tables of schema pgsluice from the old primary if they are ours and hold
// no migration. A way back that was made and given up leaves them.
func removeEmpty(ctx context.Context, b *session.Session) error {
	var ours bool
	if err := b.OnTarget.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'pgsluice' AND c.relname = 'streams' AND pg_catalog.pg_has_role(c.relowner, 'USAGE'))").
		Scan(&ours); err != nil || !ours {
		return b.Target.Explain(err)
	}
	left, err := progress.Streams(ctx, b.OnTarget, "")
	if err != nil || len(left) > 0 {
		return b.Target.Explain(err)
	}
	return b.Target.Explain(progress.Remove(ctx, b.OnTarget))
}
