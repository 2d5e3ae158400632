package steps

import (
	"context"
	"fmt"
	"slices"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/fencing"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Unfence allows writes to the source's database again. Without the record of a fence it needs
// force: somebody else may have made the database read-only. It also needs force once the target is
// open: source and target would both take writes.
func Unfence(ctx context.Context, m *session.Migration, force bool) error {
	s, err := m.BeginSource(ctx)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	var db string
	if err := s.OnSource.QueryRow(ctx, "SELECT pg_catalog.current_database()").Scan(&db); err != nil {
		return m.Source.Explain(err)
	}
	record, fenced, err := slot.GetFence(ctx, s.OnSource)
	if err != nil {
		return m.Source.Explain(err)
	}
	// Unfence works without the target.
	known(ctx, s)
	if err := s.Exclusive(ctx); err != nil {
		return err
	}
	if !fenced && record == nil && !begun(ctx, s) {
		m.Log.Info(fmt.Sprintf("unfence: database %q of the source is not fenced", db))
		return dropUnused(ctx, s)
	}
	opened := wasOpened(ctx, s, record)
	if err := notOpened(s, record, opened); err != nil && !force {
		return err
	} else if err != nil {
		m.Log.Warn(err.Error() + "; it is opened nevertheless: source and target now diverge")
	}
	if record == nil && fenced && !force {
		return leaveClosed(ctx, s, db)
	}
	if err := haltBack(ctx, s); err != nil {
		return err
	}
	if opened {
		moveAhead(ctx, s)
	}
	if record != nil || fenced {
		if err := reopen(ctx, s, record); err != nil {
			return err
		}
	}
	if record != nil {
		left, err := endReadOnly(ctx, s, record.Began)
		if err != nil {
			return err
		}
		if len(left) > 0 {
			s.Log.Warn("only a superuser may end these sessions, which stay read-only until they connect again: " + fencing.Describe(left))
		}
	}
	if record != nil && record.WasClosed() {
		s.Log.Warn(fmt.Sprintf("database %q of the source is read-only, as it was before the fence", db), "hint", thaw(db))
	} else {
		m.Log.Info(fmt.Sprintf("unfence: database %q of the source can be written to again", db))
	}
	if s.Stream == nil {
		return nil
	}
	gone, err := s.OnTarget.Exec(ctx,
		"DELETE FROM pgsluice.cutover WHERE stream_id = $1 AND (step IN ('fence', 'drain') OR step = 'open' AND NOT $2)",
		s.Stream.ID, s.Stream.Ended)
	if err == nil && gone.RowsAffected() > 0 && !s.Stream.Ended {
		return holdAgain(ctx, s)
	}
	return m.Target.Explain(err)
}

// leaveClosed leaves a source alone that no fence has closed, as far as its record tells.
func leaveClosed(ctx context.Context, s *session.Session, db string) error {
	if begun(ctx, s) {
		return fault.New(fault.Config, "database %q of the source is read-only, and there is no record of a fence in its comment", db).
			WithHint("If the fence has closed it, column undo of pgsluice.cutover on the target has the statements that give the source back. To reset the setting alone: pgcutover unfence --slot %s --force", s.Slot)
	}
	s.Log.Warn(fmt.Sprintf("database %q of the source is read-only, but no fence has closed it; it is left as it is", db), "hint", thaw(db))
	return dropUnused(ctx, s)
}

// thaw is the hint for a database that somebody else has made read-only.
func thaw(db string) string {
	return "If the application is to write to it: ALTER DATABASE " + text.Ident(db) + " RESET default_transaction_read_only"
}

// notOpened refuses to undo the fence of another cutover, or if the target is open: what it has
// taken since is not on the source.
func notOpened(s *session.Session, record *slot.Fence, opened bool) error {
	if record != nil && s.Slot != "" && record.Slot != s.Slot {
		return fault.New(fault.Config, "the source was fenced by the cutover of slot %q, not of slot %q", record.Slot, s.Slot).
			WithHint("Check --slot. The way back has a slot that ends in _back; its source is the new primary: exchange PGSLUICE_SOURCE and PGSLUICE_TARGET.")
	}
	if !opened {
		return nil
	}
	if s.Stream == nil {
		// It is recorded before the last statement of open: the other way round, a target could be
		// open of which the source knows nothing.
		return fault.New(fault.Config, "the source stays closed: as far as it knows, the target is open").
			WithDetail("An open that failed at its last statement leaves the same record. The target could not be asked, or knows nothing of it.").
			WithHint("Run this again when the target can be reached. If you are certain that it is not open, or is lost: pgcutover unfence --slot %s --force", s.Slot)
	}
	return fault.New(fault.Config, "the target is open, so the source stays closed").
		WithDetail("The rows that were written to the target since are not on the source, and what is written to the source now never reaches the target.").
		WithHint("To give the source back nevertheless, and lose these rows for its application: pgcutover unfence --slot %s --force", s.Slot)
}

// wasOpened reports whether a target was opened since the fence. If the target cannot be asked, or
// is not the one of that fence, the source's record has to tell.
func wasOpened(ctx context.Context, s *session.Session, record *slot.Fence) bool {
	if s.Stream != nil && (s.Stream.Ended || record == nil) {
		return s.Stream.Ended
	}
	if record == nil || record.Opened == nil {
		return false
	}
	if s.Stream == nil {
		return true
	}
	done, err := progress.Steps(ctx, s.OnTarget, s.Stream.ID)
	return err != nil || !s.Owns(record, done)
}

// known adds the target and the migration's state there, if they can be reached.
func known(ctx context.Context, s *session.Session) {
	var err error
	if s.OnTarget, err = s.ConnectTarget(ctx); err != nil {
		s.Log.Warn(err.Error())
		return
	}
	_ = s.Find(ctx)
}

// begun reports whether the target has a record of a fence. If the source is no longer fenced, an
// earlier Unfence was interrupted.
func begun(ctx context.Context, s *session.Session) bool {
	if s.Stream == nil {
		return false
	}
	list, err := progress.Steps(ctx, s.OnTarget, s.Stream.ID)
	return err == nil && slices.ContainsFunc(list, func(s progress.Step) bool { return s.Name == "fence" })
}
