// Package session opens what the verbs of a cutover need: the source, the target, and the target's
// record of the migration. It reports once which servers it is connected to and checks that source
// and target belong together.
package session

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/identity"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
)

// A Migration is one slot's migration from a source to a target, as the command line describes it.
type Migration struct {
	Source pgdial.Server
	Target pgdial.Server
	Slot   string // if not given, empty until a Session has found it
	// Waits records, by side, which sessions ours wait for.
	Waits map[string]*waiting.Watch
	// Reports is set if the command's report on Out names both servers.
	Reports bool
	// Under is the server process that holds the lock of the cutover of which this program is a
	// step. It is empty if the program was not started by a cutover.
	Under string

	Out io.Writer // reports
	Log *slog.Logger

	unwritten error             // the error that Unwritten reports
	ends      map[string]string // by side, the server connected to, as identity.Line prints it
}

// A Session is a migration with its connections. OnSource or OnTarget is nil if the verb does not
// need that side. Stream is nil if the verb does not ask the target for it.
type Session struct {
	*Migration
	OnSource, OnTarget *pgx.Conn
	Stream             *progress.Stream // the target's record of the migration
	Warm               *Sequences       // those that both connections have read; nil: none
	// Asking is held by whoever uses OnTarget while another goroutine may.
	Asking sync.Mutex
}

// Sequences are pairs of sequences, and the state of both sides in which they are right.
type Sequences struct {
	Stamp string
	Pairs []progress.SequencePair
}

// Begin connects to both sides, at once, and finds the migration.
func (m *Migration) Begin(ctx context.Context) (*Session, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var source *pgx.Conn
	var failed error
	connected := make(chan struct{})
	go func() {
		defer close(connected)
		source, failed = m.dial(ctx, m.Source)
	}()
	s, err := m.BeginTarget(ctx)
	if err != nil {
		cancel()
	}
	<-connected
	if err != nil {
		if source != nil {
			_ = source.Close(context.WithoutCancel(ctx))
		}
		return nil, err
	}
	if s.OnSource, err = source, failed; err == nil {
		m.name(m.Source, source)
		err = s.CheckSource(ctx)
	}
	if err != nil {
		s.Close(ctx)
		return nil, err
	}
	return s, nil
}

// BeginTarget connects to the target and finds the migration there.
func (m *Migration) BeginTarget(ctx context.Context) (*Session, error) {
	s := &Session{Migration: m}
	var err error
	if s.OnTarget, err = m.ConnectTarget(ctx); err != nil {
		return nil, err
	}
	if err := s.Find(ctx); err != nil {
		s.Close(ctx)
		return nil, err
	}
	return s, nil
}

// BeginSource connects to the source only.
func (m *Migration) BeginSource(ctx context.Context) (*Session, error) {
	c, err := m.Connect(ctx, m.Source)
	if err != nil {
		return nil, err
	}
	return &Session{Migration: m, OnSource: c}, nil
}

// OpenSource connects to the source and checks that the target was loaded from it.
func (s *Session) OpenSource(ctx context.Context) (err error) {
	if s.OnSource, err = s.Connect(ctx, s.Source); err != nil {
		return err
	}
	return s.CheckSource(ctx)
}

// Close closes the open connections.
func (s *Session) Close(ctx context.Context) {
	for _, c := range []*pgx.Conn{s.OnSource, s.OnTarget} {
		if c != nil {
			_ = c.Close(ctx)
		}
	}
}

// Of returns the session for another migration between the same two servers.
func (s *Session) Of(stream *progress.Stream) *Session {
	m := &Migration{Source: s.Source, Target: s.Target, Slot: stream.Key.Slot, Waits: s.Waits,
		Reports: s.Reports, Out: s.Out, Log: s.Log, ends: s.ends}
	return &Session{Migration: m, OnSource: s.OnSource, OnTarget: s.OnTarget, Stream: stream}
}

// ConnectTarget opens a session on the target and checks that only our role can write the state of
// migrations there.
func (m *Migration) ConnectTarget(ctx context.Context) (*pgx.Conn, error) {
	c, err := m.Connect(ctx, m.Target)
	if err != nil {
		return nil, err
	}
	if err := progress.Trust(ctx, c); err != nil {
		_ = c.Close(ctx)
		return nil, m.Target.Explain(err)
	}
	return c, nil
}

// naming guards Migration.ends, which migrations between the same servers share.
var naming sync.Mutex

// Connect opens a session that waits for no lock for long. The first session on each side reports
// the server: on standard error, unless the command's report names it.
func (m *Migration) Connect(ctx context.Context, s pgdial.Server) (*pgx.Conn, error) {
	c, err := m.dial(ctx, s)
	if err == nil {
		m.name(s, c)
	}
	return c, err
}

func (m *Migration) dial(ctx context.Context, s pgdial.Server) (*pgx.Conn, error) {
	s.LockTimeout, s.Once = waiting.LockTimeout, true
	return s.Connect(ctx)
}

// name reports the server of a session, unless it has been reported before.
func (m *Migration) name(s pgdial.Server, c *pgx.Conn) {
	naming.Lock()
	defer naming.Unlock()
	if m.ends == nil {
		m.ends = make(map[string]string)
	}
	if m.ends[s.Side] == "" {
		m.ends[s.Side] = identity.Line(s.Side, c)
		if !m.Reports {
			m.Log.Info(m.ends[s.Side])
		}
	}
}

// Line returns the name of a side and its server. It is empty before the first connection.
func (m *Migration) Line(s pgdial.Server) string { return m.ends[s.Side] }

// End is Line without the name of the side.
func (m *Migration) End(s pgdial.Server) string {
	return strings.TrimSpace(strings.TrimPrefix(m.ends[s.Side], s.Side))
}

// Find reads the target's current record of the migration.
func (s *Session) Find(ctx context.Context) error {
	list, err := progress.Streams(ctx, s.OnTarget, s.Slot)
	if err != nil {
		return s.Target.Explain(err)
	}
	switch len(list) {
	case 0:
		if s.Slot == "" {
			return fault.New(fault.Config, "nothing has been migrated to the target, %s", s.End(s.Target)).
				WithHint("Check --target and PGSLUICE_TARGET. If they are right, begin with: pgextract --slot NAME | pgapply")
		}
		return fault.New(fault.Config, "the target, %s, has no migration with slot %q", s.End(s.Target), s.Slot).
			WithHint("Check --target and --slot. If they are right, load first: pgextract --slot %s | pgapply", s.Slot)
	case 1:
		s.Stream, s.Slot = list[0], list[0].Key.Slot
		return nil
	}
	var keys []string
	for _, x := range list {
		keys = append(keys, x.Key.String())
	}
	return fault.New(fault.Usage, "there are several migrations to the target: %s", strings.Join(keys, ", ")).
		WithHint("Choose one with --slot. To remove one that you no longer need, on the target: DELETE FROM pgsluice.streams WHERE stream_id = …")
}

// CheckSource checks that the target was loaded from this source. On any other server, the
// migration's LSNs mean nothing.
func (s *Session) CheckSource(ctx context.Context) error {
	if err := s.Apart(ctx); err != nil {
		return err
	}
	id, err := slot.Identify(ctx, s.OnSource)
	if err != nil {
		return s.Source.Explain(err)
	}
	// Some roles may not read the system identifier, and a load without a slot does not read it.
	key := s.Stream.Key
	other := id.SystemID != key.SystemID && id.SystemID != "" && key.SystemID != ""
	if other || id.Database != key.Database {
		return fault.New(fault.Config, "the source is not the one that the target was loaded from").
			WithDetail("The target was loaded from database %q of system %s. The source is database %q of system %s.",
				key.Database, key.SystemID, id.Database, id.SystemID).
			WithHint("Check --source and PGSLUICE_SOURCE.")
	}
	return nil
}

// Apart checks that source and target are two different databases.
func (s *Session) Apart(ctx context.Context) error {
	same, err := identity.Same(ctx, s.OnSource, s.OnTarget)
	if err != nil {
		return s.Source.Explain(err)
	}
	if same {
		return fault.New(fault.Config, "source and target are the same database: %s", identity.Name(s.OnSource)).
			WithHint("Check --source and --target, or PGSLUICE_SOURCE and PGSLUICE_TARGET.")
	}
	return nil
}
