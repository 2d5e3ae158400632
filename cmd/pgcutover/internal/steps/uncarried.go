package steps

import (
	"context"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/coverage"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// watchCarried warns about tables that do not reach the target, and repeats the check at intervals.
type watchCarried struct {
	looked time.Time
	said   string
}

func (w *watchCarried) look(ctx context.Context, s *session.Session) error {
	if time.Since(w.looked) < watchEvery {
		return nil
	}
	w.looked = time.Now()
	tables, err := progress.Tables(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return s.Target.Explain(err)
	}
	list, err := coverage.Compare(ctx, s, tables)
	if err != nil {
		return err
	}
	_, uncarried, _ := coverage.Sort(list)
	if len(uncarried) == 0 {
		w.said = ""
		return nil
	}
	says, remedy := coverage.UncarriedText(s.Slot, uncarried)
	if says != w.said {
		s.Log.Warn("changes do not reach the target: "+says, "hint", remedy)
	}
	w.said = says
	return nil
}

// watchEvery is the interval at which a wait compares the published tables with the loaded ones.
const watchEvery = 5 * time.Second
