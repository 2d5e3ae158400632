package steps

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/citus"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// snapshots are of the drained source and target. Their sessions hold them for a verification that
// begins when the target is open, so that the application does not wait for its start. The index is
// 0 for the source and 1 for the target.
type snapshots struct {
	sessions [2]*pgx.Conn // that exist already; take connects the others
	of       [2]*slot.Snapshot
}

// holdable refuses a target of which no snapshot can be held, if one is to be.
func holdable(s *session.Session, snapshot bool) error {
	if !snapshot || !s.Stream.Citus || citus.Snapshots {
		return nil
	}
	return fault.New(fault.Config, "rows of a Citus cluster cannot be compared behind the opening: there is no snapshot of all nodes").
		WithHint("Compare them before: scripts/cutover %s --verify first --no-reverse", s.Slot)
}

// take takes both snapshots.
func (s *snapshots) take(ctx context.Context, m *session.Migration) error {
	one := func(i int) (err error) {
		c, side := s.sessions[i], m.Source
		if i == 1 {
			side = m.Target
		}
		if s.sessions[i] = nil; c == nil {
			if c, err = m.Connect(ctx, side); err != nil {
				return err
			}
		}
		s.of[i], err = slot.Take(ctx, side, c, "")
		return err
	}
	return session.Beside(func() error { return one(0) }, func() error { return one(1) })
}

// String returns the names, as pgcutover verify --snapshots takes them. It is empty if there are no
// snapshots.
func (s *snapshots) String() string {
	if s.of[0] == nil || s.of[1] == nil {
		return ""
	}
	return s.of[0].Name + "," + s.of[1].Name
}

// release ends the sessions.
func (s *snapshots) release(ctx context.Context) {
	for i := range s.of {
		if c := s.sessions[i]; c != nil {
			_ = c.Close(ctx)
		}
		if x := s.of[i]; x != nil {
			x.Release(ctx)
		}
	}
	*s = snapshots{}
}
