package steps

import (
	"context"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
	"github.com/pgsluice/pgsluice/format"
)

// Wait waits for a state: "loaded", or "caught-up", which means that the target is at most lag
// bytes of WAL behind and applies changes.
func Wait(ctx context.Context, m *session.Migration, state string, lag int64, timeout time.Duration) error {
	s, err := m.BeginTarget(ctx)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	if state == "caught-up" {
		return waitCaughtUp(ctx, s, lag, timeout)
	}
	return waitLoaded(ctx, s, timeout)
}

// idleAfter is how long the slot may go unread before a wait gives up. idleLong replaces idleAfter
// while the source is in use and the slot has been read before: scripts/sync, which pauses for at
// most 30 s, may be about to start its programs again. soon allows for a sync that is just
// starting. gone applies after an error that scripts/sync does not retry.
const (
	idleAfter = 5 * time.Second
	soon      = 10 * time.Second
	idleLong  = 45 * time.Second
	gone      = 2 * time.Second
)

// waitCaughtUp waits until the target is at most lag bytes of WAL behind the source, and has moved.
// It writes a mark to make the target move. On a quiet source, a target that nobody writes to is
// not behind, and the cutover would close the source for nothing.
func waitCaughtUp(ctx context.Context, s *session.Session, lag int64, timeout time.Duration) error {
	if s.Stream.Ended {
		s.Log.Info("wait: the target is open; it has every change")
		return nil
	}
	if err := s.OpenSource(ctx); err != nil {
		return err
	}
	first, err := applied(ctx, s)
	if err != nil {
		return err
	}
	if _, err := slot.Now(ctx, s.OnSource); err != nil {
		return s.Source.Explain(err)
	}
	r := reader{Session: s, patience: soon, later: idleLong}
	if err := r.remember(ctx); err != nil {
		return err
	}
	var w watchCarried
	if err := w.look(ctx, s); err != nil {
		return err
	}
	behind, said := int64(-1), time.Now()
	r.seen = said
	done, err := poll(ctx, timeout, func() (bool, error) {
		// The end of a load moves the position as well, to the start of sync.
		at, start, err := position(ctx, s)
		if err != nil {
			return false, err
		}
		now, err := slot.FlushLSN(ctx, s.OnSource)
		if err != nil {
			return false, s.Source.Explain(err)
		}
		if behind = int64(now) - int64(at); behind <= lag && at > max(first, start) {
			return true, nil
		}
		if err := r.look(ctx); err != nil {
			return false, err
		}
		if err := w.look(ctx, s); err != nil {
			return false, err
		}
		if time.Since(said) > idleAfter {
			said = time.Now()
			s.Log.Info(fmt.Sprintf("the target is at LSN %v, %s of WAL behind; %s", at, humanize.Bytes(uint64(max(behind, 0))), r.who))
		}
		return false, nil
	})
	if err == nil && !done {
		err = fault.New(fault.TryAgain, "the target is still %d bytes of WAL behind after %v", behind, timeout).
			WithHint("To see whether the slot is being read: pgcutover status --slot %s. To read it: %s", s.Slot, s.Stream.Command("sync", "--reverse"))
	}
	return err
}

// applied returns the target's applied LSN.
func applied(ctx context.Context, s *session.Session) (format.LSN, error) {
	at, _, err := position(ctx, s)
	return at, err
}

// position returns the target's applied LSN, and the LSN at which sync starts after the load. That
// is 0 while no load has begun.
func position(ctx context.Context, s *session.Session) (at, start format.LSN, err error) {
	var a, b string
	if err := s.OnTarget.QueryRow(ctx,
		"SELECT applied_lsn::pg_catalog.text, coalesce(start_lsn, '0/0')::pg_catalog.text FROM pgsluice.streams WHERE stream_id = $1", s.Stream.ID).
		Scan(&a, &b); err != nil {
		return 0, 0, s.Target.Explain(err)
	}
	if at, err = format.ParseLSN(a); err == nil {
		start, err = format.ParseLSN(b)
	}
	return at, start, err
}

// await waits until the target has applied everything up to an LSN of the source.
func await(ctx context.Context, s *session.Session, lsn format.LSN, timeout time.Duration) error {
	var at format.LSN
	said := time.Now()
	r, asked := reader{Session: s, seen: said, patience: idleAfter, later: idleAfter}, false
	done, err := pollAt(ctx, pollSoon, timeout, func() (done bool, err error) {
		if at, err = applied(ctx, s); err != nil || at >= lsn {
			return err == nil, err
		}
		if !asked {
			asked = true
			if err := r.remember(ctx); err != nil {
				return false, err
			}
		}
		if err := r.look(ctx); err != nil {
			return false, err
		}
		if time.Since(said) > 2*time.Second {
			said = time.Now()
			s.Log.Info(fmt.Sprintf("the target is at LSN %v, %d bytes of WAL before %v", at, lsn-at, lsn))
		}
		return false, nil
	})
	if err == nil && !done {
		err = fault.New(fault.TryAgain, "the target did not reach LSN %v within %v; it is at %v", lsn, timeout, at).
			WithHint("See the messages of pgdecode and pgapply, and: pgcutover status --slot %s", s.Slot)
	}
	return err
}
