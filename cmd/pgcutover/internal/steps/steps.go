// Package steps has the steps of a cutover. Each looks whether it has been done, does it, and makes
// sure that it is; each may be repeated. They read positions from both servers and know nothing of
// the stream.
package steps

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/identity"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
)

// A Migration is one slot's migration from a source to a target.
type Migration struct {
	Source pgdial.Server
	Target pgdial.Server
	Slot   string
	// Waits says, by side, whom sessions wait for.
	Waits map[string]*waiting.Watch
	// Reports says that the command's report on Out names both ends.
	Reports bool
	// AllowOrphans has the source closed although rows of it may violate foreign keys; OnlyLook has
	// Fence look whether it may be, and do nothing.
	AllowOrphans, OnlyLook bool

	Out io.Writer // reports
	Log *slog.Logger

	lastMissing *MissingStatus
	lacking     []TableName       // the tables among what is missing
	unwritten   error             // of what was to be printed
	ends        map[string]string // by side, what was connected to, as identity.Line prints it
}

// source opens a session on the source.
func (m *Migration) source(ctx context.Context) (*pgx.Conn, error) { return m.connect(ctx, m.Source) }

// target opens a session on the target, and makes sure that its state of migrations is ours alone.
func (m *Migration) target(ctx context.Context) (*pgx.Conn, error) {
	c, err := m.connect(ctx, m.Target)
	if err != nil {
		return nil, err
	}
	if err := progress.Trust(ctx, c); err != nil {
		_ = c.Close(ctx)
		return nil, m.Target.Explain(err)
	}
	return c, nil
}

// connect opens a session, which waits for no lock for long. The first one of each side says where
// it is: on standard error, unless the command's report has it.
func (m *Migration) connect(ctx context.Context, s pgdial.Server) (*pgx.Conn, error) {
	c, err := s.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := c.Exec(ctx, "SET lock_timeout = '"+waiting.LockTimeout+"'"); err != nil {
		_ = c.Close(ctx)
		return nil, s.Explain(err)
	}
	if m.ends == nil {
		m.ends = make(map[string]string)
	}
	if m.ends[s.Side] == "" {
		m.ends[s.Side] = identity.Line(s.Side, c)
		if !m.Reports {
			m.Log.Info(m.ends[s.Side])
		}
	}
	return c, nil
}

// end returns what the line that names a side says of it, empty if it has not been reached.
func (m *Migration) end(s pgdial.Server) string {
	return strings.TrimSpace(strings.TrimPrefix(m.ends[s.Side], s.Side))
}

// stream finds the migration's state on the target.
func (m *Migration) stream(ctx context.Context, t *pgx.Conn) (*progress.Stream, error) {
	list, err := progress.Streams(ctx, t, m.Slot)
	if err != nil {
		return nil, m.Target.Explain(err)
	}
	switch len(list) {
	case 0:
		if m.Slot == "" {
			return nil, fault.New(fault.Config, "nothing has been migrated to the target, %s", m.end(m.Target)).
				WithHint("Is that the right target? Then begin with: pgextract --slot NAME | pgapply")
		}
		return nil, fault.New(fault.Config, "the target, %s, knows nothing of slot %q", m.end(m.Target), m.Slot).
			WithHint("Is that the right target, and the right slot? Then load it first: pgextract --slot %s | pgapply", m.Slot)
	case 1:
		m.Slot = list[0].Key.Slot
		return list[0], nil
	}
	var keys []string
	for _, s := range list {
		keys = append(keys, s.Key.String())
	}
	return nil, fault.New(fault.Usage, "there are several migrations to the target: %s", strings.Join(keys, ", ")).
		WithHint("Name one with --slot. What is not meant any more can go: DELETE FROM pgsluice.streams WHERE stream_id = … on the target.")
}

// sourceOf opens a session on the source that a stream's target was loaded from. The caller closes
// it.
func (m *Migration) sourceOf(ctx context.Context, t *pgx.Conn, stream *progress.Stream) (*pgx.Conn, error) {
	c, err := m.source(ctx)
	if err != nil {
		return nil, err
	}
	if err := m.checkSource(ctx, c, t, stream); err != nil {
		_ = c.Close(ctx)
		return nil, err
	}
	return c, nil
}

// checkSource makes sure that the source is the one that the target was loaded from: positions of
// another mean nothing to it.
func (m *Migration) checkSource(ctx context.Context, c, t *pgx.Conn, stream *progress.Stream) error {
	if err := m.apart(ctx, c, t); err != nil {
		return err
	}
	id, err := slot.Identify(ctx, c)
	if err != nil {
		return m.Source.Explain(err)
	}
	// Not every role may ask for the system identifier, and a load without a slot does not.
	other := id.SystemID != stream.Key.SystemID && id.SystemID != "" && stream.Key.SystemID != ""
	if other || id.Database != stream.Key.Database {
		return fault.New(fault.Config, "the source is not the one that the target was loaded from").
			WithDetail("The target knows database %q of system %s, the source is database %q of system %s.",
				stream.Key.Database, stream.Key.SystemID, id.Database, id.SystemID).
			WithHint("Look at --source and PGSLUICE_SOURCE.")
	}
	return nil
}

// apart makes sure that source and target are two databases.
func (m *Migration) apart(ctx context.Context, c, t *pgx.Conn) error {
	same, err := identity.Same(ctx, c, t)
	if err != nil {
		return m.Source.Explain(err)
	}
	if same {
		return fault.New(fault.Config, "source and target are the same database: %s", identity.Name(c)).
			WithHint("Look at --source and --target, or PGSLUICE_SOURCE and PGSLUICE_TARGET.")
	}
	return nil
}

// step runs one step of the cutover and records its times on the target.
func (m *Migration) step(ctx context.Context, t *pgx.Conn, stream int32, name string, do func() (detail string, err error)) error {
	if err := progress.StepBegins(ctx, t, stream, name); err != nil {
		return m.Target.Explain(err)
	}
	began := time.Now()
	detail, err := do()
	if err != nil {
		return err
	}
	if err := progress.StepEnds(ctx, t, stream, name, detail); err != nil {
		return m.Target.Explain(err)
	}
	m.Log.Info(fmt.Sprintf("%s: %s (%v)", name, detail, time.Since(began).Round(time.Millisecond)))
	return nil
}

// pollEvery is how often a state on a server is looked at while waiting for it. It is part of the
// downtime.
const pollEvery = 20 * time.Millisecond

// poll waits until done returns true.
func poll(ctx context.Context, timeout time.Duration, done func() (bool, error)) (bool, error) {
	deadline := time.Now().Add(timeout)
	for {
		ok, err := done()
		if ok || err != nil {
			return ok, err
		}
		if timeout > 0 && time.Now().After(deadline) {
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}
