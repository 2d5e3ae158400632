package steps

import (
	"context"
	"fmt"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// waitLoaded waits for the end of the full load. It says how far that is, and gives up if nobody
// loads.
func waitLoaded(ctx context.Context, s *session.Session, timeout time.Duration) error {
	w := loading{Session: s, seen: time.Now(), said: time.Now(), patience: soon}
	done, err := poll(ctx, timeout, func() (bool, error) {
		if err := s.Find(ctx); err != nil || s.Stream.LoadStatus == "loaded" {
			return err == nil, err
		}
		return false, w.look(ctx)
	})
	if err == nil && !done {
		err = fault.New(fault.TryAgain, "the full load was not complete within %v", timeout).
			WithHint("To see its progress: pgcutover status --slot %s", s.Slot)
	}
	return err
}

// loading watches whether somebody loads.
type loading struct {
	*session.Session
	looked, seen, said time.Time     // the last look; the last that saw somebody load; the last report
	patience           time.Duration // for a load that is about to start, or to start again
}

// look looks once a second, and returns an error if nobody has loaded for too long.
func (w *loading) look(ctx context.Context) error {
	if time.Since(w.looked) < time.Second {
		return nil
	}
	w.looked = time.Now()
	loads, _, err := progress.AtWork(ctx, w.OnTarget, w.Stream.ID)
	if err != nil {
		return w.Target.Explain(err)
	}
	who := "nobody loads"
	if loads {
		w.seen, w.patience, who = w.looked, idleLong, "it is being loaded"
	}
	if time.Since(w.seen) > w.patience {
		return fault.New(fault.Config, "the full load is not complete, and nobody loads").
			WithHint("To continue it: scripts/load %[1]s, or: pgextract --slot %[1]s --resume | pgapply", text.Shell(w.Slot))
	}
	if time.Since(w.said) < idleAfter {
		return nil
	}
	w.said = w.looked
	var n, ready int
	if err := w.OnTarget.QueryRow(ctx, "SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE status = 'loaded') FROM pgsluice.tables WHERE stream_id = $1", w.Stream.ID).
		Scan(&n, &ready); err != nil {
		return w.Target.Explain(err)
	}
	w.Log.Info(fmt.Sprintf("the target has %d of %s; %s", ready, count.Of(n, "table"), who))
	return nil
}
