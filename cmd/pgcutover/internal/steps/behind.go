package steps

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/watch"
	"github.com/pgsluice/pgsluice/format"
)

// No fence holds every session: a superuser's, or one that asks for a read-write transaction,
// passes it. Until the stream is ended, sync carries what such a session writes, or would carry it
// if it were running. So open looks behind the drain's mark.

// A rest is the check that no row of the source was written since the drain.
type rest struct {
	*session.Session
	drain *progress.Step
	mark  format.LSN
	free  chan struct{} // closed when nobody else uses the session on the source
}

// begin writes a second mark.
func (r *rest) begin(ctx context.Context) (err error) {
	r.mark, err = slot.Mark(ctx, r.OnSource, "open "+r.Slot)
	return r.Source.Explain(err)
}

// wait waits until the target has the mark. If nobody reads the slot, it looks into the slot
// instead.
func (r *rest) wait(ctx context.Context, timeout time.Duration) error {
	reads := reader{Session: r.Session, looked: time.Now(), seen: time.Now(), patience: idleAfter, later: idleAfter}
	asked := time.Now()
	done, err := pollAt(ctx, pollSoon, timeout, func() (bool, error) {
		at, changes, err := appliedChanges(ctx, r.Session)
		switch {
		case err != nil:
			return false, err
		case changes == r.drain.Changes && at >= r.mark:
			return true, nil
		case changes == r.drain.Changes && time.Since(asked) < 200*time.Millisecond:
			return false, nil
		}
		<-r.free
		if changes != r.drain.Changes {
			return false, writtenBehind(ctx, r.Session, "")
		}
		asked = time.Now()
		info, err := slot.Get(ctx, r.OnSource, r.Slot)
		if err != nil {
			return false, r.Source.Explain(err)
		}
		if info.Usable(r.Slot, r.Stream.Key.Database) == nil && !info.Active {
			return atRestUnread(ctx, r.Session, at)
		}
		return false, reads.look(ctx)
	})
	if err == nil && !done {
		err = fault.New(fault.TryAgain, "the target did not reach LSN %v within %v", r.mark, timeout).
			WithHint("See the messages of pgdecode and pgapply, and: pgcutover status --slot %s", r.Slot)
	}
	return err
}

// largeObjects returns facts about the source's large objects, or warns if nobody can tell.
func largeObjects(ctx context.Context, s *session.Session) string {
	facts, err := watch.LargeObjects(ctx, s.OnSource)
	if err != nil {
		s.Log.Warn("large objects of the source are not watched: " + s.Source.Explain(err).Error())
	}
	return facts
}

// sameLargeObjects refuses to continue if large objects were created or removed since an earlier
// step. No slot carries them.
func sameLargeObjects(ctx context.Context, s *session.Session, before *progress.Step) error {
	changed, err := watch.ChangedLargeObjects(ctx, s.OnSource, before.LargeObjects)
	if err != nil {
		return s.Source.Explain(err)
	}
	if changed == "" {
		return nil
	}
	return fault.New(fault.Config, "large objects of the source were changed behind the fence, and are not carried: %s", changed).
		WithHint("Carry them over by hand, or remove them from the source. Then begin again: pgcutover fence --slot %[1]s. To give the source back instead: pgcutover unfence --slot %[1]s", s.Slot)
}

// atRestUnread looks into a slot that nobody reads. It reports false if somebody has begun to.
func atRestUnread(ctx context.Context, s *session.Session, from format.LSN) (bool, error) {
	w, err := watch.Look(ctx, s.OnSource, s.Slot, s.Stream.Key.Database, from)
	if fault.StatusOf(err) == fault.TryAgain {
		return false, nil
	}
	if err != nil {
		return false, s.Source.Explain(err)
	}
	if !w.Clean() {
		var says []string
		for i := range w.Tables {
			says = append(says, w.Tables[i].Text())
		}
		return false, writtenBehind(ctx, s, count.Some(says))
	}
	return true, nil
}

// appliedChanges returns the target's position and the number of changes up to there.
func appliedChanges(ctx context.Context, s *session.Session) (at format.LSN, changes int64, err error) {
	var lsn string
	if err := s.OnTarget.QueryRow(ctx, "SELECT applied_lsn::pg_catalog.text, changes FROM pgsluice.streams WHERE stream_id = $1", s.Stream.ID).
		Scan(&lsn, &changes); err != nil {
		return 0, 0, s.Target.Explain(err)
	}
	at, err = format.ParseLSN(lsn)
	return at, changes, err
}

// endStream ends the stream for good, if nothing was applied to the target since the drain, and
// records the position up to which the target has everything.
func endStream(ctx context.Context, s *session.Session, drain *progress.Step) error {
	ended, err := progress.EndStream(ctx, s.OnTarget, s.Stream.ID, drain.Changes)
	if err != nil {
		return s.Target.Explain(err)
	}
	if !ended {
		return writtenBehind(ctx, s, "")
	}
	return nil
}

// writtenBehind refuses to open, because somebody writes to the source. If it is not known what was
// written, it names the tables that sync has written to since.
func writtenBehind(ctx context.Context, s *session.Session, what string) error {
	if what == "" {
		tables, err := appliedSince(ctx, s)
		if err != nil {
			return err
		}
		what = count.Some(tables)
	}
	e := fault.New(fault.Config, "the source was written to behind the fence, after it was drained: %s", what).
		WithHint("End what writes to the source. Then: pgcutover drain --slot %[1]s, and pgcutover open --slot %[1]s. To give the source back instead: pgcutover unfence --slot %[1]s", s.Slot)
	if list := watch.Writers(ctx, s.OnSource); len(list) > 0 {
		return e.WithDetail("Sessions on the source now: %s.", strings.Join(list, "; "))
	}
	return e
}

// appliedSince returns the tables with changes that were applied since the drain. pgapply counts
// them once a second, so some may be from shortly before.
func appliedSince(ctx context.Context, s *session.Session) (tables []string, err error) {
	const counted = 1500 * time.Millisecond
	_, err = pollAt(ctx, 100*time.Millisecond, counted, func() (bool, error) {
		rows, err := s.OnTarget.Query(ctx, `SELECT pg_catalog.format('%s.%s', t.source_schema, t.source_table) FROM pgsluice.tables t JOIN pgsluice.cutover c ON c.stream_id = t.stream_id AND c.step = 'drain'
			WHERE t.stream_id = $1 AND t.changed_at > c.finished_at ORDER BY 1`, s.Stream.ID)
		if err != nil {
			return false, s.Target.Explain(err)
		}
		tables, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return len(tables) > 0, s.Target.Explain(err)
	})
	if err == nil && len(tables) == 0 {
		tables = []string{"changes were applied to the target; its counters in pgsluice.tables name the tables within seconds"}
	}
	return tables, err
}
