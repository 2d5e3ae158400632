package steps

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/format"
)

// Wait waits for a state: "loaded", or "caught-up", which is when the target is at most lag bytes
// of WAL behind and takes what comes.
func (m *Migration) Wait(ctx context.Context, state string, lag int64, timeout time.Duration) error {
	t, err := m.target(ctx)
	if err != nil {
		return err
	}
	defer t.Close(ctx)
	stream, err := m.stream(ctx, t)
	if err != nil {
		return err
	}
	if state == "caught-up" {
		return m.waitCaughtUp(ctx, t, stream, lag, timeout)
	}
	done, err := poll(ctx, timeout, func() (bool, error) {
		s, err := m.stream(ctx, t)
		if err != nil {
			return false, err
		}
		return s.LoadStatus == "loaded", nil
	})
	if err == nil && !done {
		err = fault.New(fault.TryAgain, "the full load was not complete within %v", timeout).
			WithHint("pgcutover status --slot %s shows how far it is.", m.Slot)
	}
	return err
}

// idleAfter is how long nobody may read the slot before waiting for the target makes no sense.
// idleLong is the same where the source is in use meanwhile and somebody has read it since:
// scripts/sync, which pauses for 30 s at most, may be about to start its programs again. soon is
// for a sync that is just being started, and gone for one that has ended with what it does not
// start again after.
const (
	idleAfter = 5 * time.Second
	soon      = 10 * time.Second
	idleLong  = 45 * time.Second
	gone      = 2 * time.Second
)

// waitCaughtUp waits until the target is at most lag bytes of WAL behind the source, and has moved.
// It writes a mark for that: on a source where little happens, a target that nobody writes to is
// not behind, and the cutover would close the source in vain.
func (m *Migration) waitCaughtUp(ctx context.Context, t *pgx.Conn, stream *progress.Stream, lag int64, timeout time.Duration) error {
	if stream.Ended {
		m.Log.Info("wait: the target is open, and has had everything since")
		return nil
	}
	c, err := m.sourceOf(ctx, t, stream)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	first, err := m.applied(ctx, t, stream.ID)
	if err != nil {
		return err
	}
	if _, err := slot.Now(ctx, c); err != nil {
		return m.Source.Explain(err)
	}
	r := reader{migration: m, source: c, target: t, stream: stream.ID, patience: soon, later: idleLong}
	if err := r.remember(ctx); err != nil {
		return err
	}
	var w watchCarried
	if err := w.look(ctx, m, c, t, stream); err != nil {
		return err
	}
	behind, said := int64(-1), time.Now()
	r.seen = said
	done, err := poll(ctx, timeout, func() (bool, error) {
		at, err := m.applied(ctx, t, stream.ID)
		if err != nil {
			return false, err
		}
		if stream.LoadStatus == "loading" { // the load moves the position, too
			if stream, err = m.stream(ctx, t); err != nil {
				return false, err
			}
			first = at
		}
		now, err := slot.FlushLSN(ctx, c)
		if err != nil {
			return false, m.Source.Explain(err)
		}
		if behind = int64(now) - int64(at); behind <= lag && at > first {
			return true, nil
		}
		if err := r.look(ctx); err != nil {
			return false, err
		}
		if err := w.look(ctx, m, c, t, stream); err != nil {
			return false, err
		}
		if time.Since(said) > idleAfter {
			said = time.Now()
			m.Log.Info(fmt.Sprintf("the target is at LSN %v, %s of WAL behind; %s", at, humanize.Bytes(uint64(max(behind, 0))), r.who))
		}
		return false, nil
	})
	if err == nil && !done {
		err = fault.New(fault.TryAgain, "the target is still %d bytes of WAL behind after %v", behind, timeout).
			WithHint("pgcutover status --slot %s shows whether the slot is being read; scripts/sync %[1]s reads it.", m.Slot)
	}
	return err
}

// applied returns the position of the target.
func (m *Migration) applied(ctx context.Context, t *pgx.Conn, stream int32) (format.LSN, error) {
	var s string
	if err := t.QueryRow(ctx,
		"SELECT applied_lsn::pg_catalog.text FROM pgsluice.streams WHERE stream_id = $1", stream).
		Scan(&s); err != nil {
		return 0, m.Target.Explain(err)
	}
	return format.ParseLSN(s)
}

// A reader is whoever reads the slot and applies what it gets, or nobody.
type reader struct {
	migration      *Migration
	source, target *pgx.Conn
	stream         int32
	looked         time.Time // when we last looked, and
	seen           time.Time // when somebody was at work then
	who            string    // what was seen, in words
	// patience is how long nobody may be at work, and later the same from when somebody has been
	// seen.
	patience, later time.Duration
	known           time.Time // of the last error that had been recorded when somebody was at work
}

// look looks once a second, and returns an error if nobody has been at work for too long.
func (r *reader) look(ctx context.Context) error {
	if time.Since(r.looked) < time.Second {
		return nil
	}
	r.looked = time.Now()
	info, err := slot.Get(ctx, r.source, r.migration.Slot)
	if err != nil {
		return r.migration.Source.Explain(err)
	}
	if info == nil {
		return fault.New(fault.Unavailable, "slot %q does not exist on the source", r.migration.Slot).
			WithHint("Is it the right source? If so, the target needs a new full load. %s", slot.Anew(r.migration.Slot))
	}
	if err := info.Lost(); err != nil {
		return err
	}
	applied, err := progress.IsApplied(ctx, r.target, r.stream)
	if err != nil {
		return r.migration.Target.Explain(err)
	}
	hint := fmt.Sprintf("Start continuous sync: scripts/sync %s", r.migration.Slot)
	switch {
	case info.Active && applied:
		r.who, r.seen, r.patience = "the slot is being read", r.looked, r.later
		return r.remember(ctx)
	case info.Active:
		r.who = fmt.Sprintf("slot %q is read, but nobody applies what is read", r.migration.Slot)
		hint = "Apply it: pgapply <FILE if pgdecode --output keeps it. Otherwise stop that pgdecode first. " + hint
	default:
		r.who = fmt.Sprintf("nobody reads slot %q", r.migration.Slot)
	}
	if !info.Active && r.patience > gone && time.Since(r.seen) > gone {
		f, err := r.ended(ctx)
		if err != nil {
			return err
		}
		if f != nil {
			return fault.New(fault.Config,
				"%s any more, so the target cannot catch up: %s has ended with status %d", r.who, f.Program,
				f.Status).
				WithDetail("It said: %s", f.Message).WithHint("%s",
				strings.TrimSpace(f.Hint+" When the cause is gone: scripts/sync "+r.migration.Slot))
		}
	}
	if time.Since(r.seen) > r.patience {
		return fault.New(fault.Config, "%s, so the target cannot catch up", r.who).WithHint("%s", hint)
	}
	return nil
}

// remember notes which errors are known.
func (r *reader) remember(ctx context.Context) error {
	list, err := progress.Failures(ctx, r.target, r.stream)
	if err == nil && len(list) > 0 {
		r.known = list[0].At
	}
	return r.migration.Target.Explain(err)
}

// ended returns what has ended continuous sync since somebody was at work, if scripts/sync does not
// start it again after that; nil: nothing is known of that kind.
func (r *reader) ended(ctx context.Context) (*progress.Failure, error) {
	list, err := progress.Failures(ctx, r.target, r.stream)
	if err != nil {
		return nil, r.migration.Target.Explain(err)
	}
	last := make(map[string]*progress.Failure)
	for i, f := range list {
		if f.At.After(r.known) {
			last[f.Program] = &list[i]
		}
	}
	f := last["pgapply"]
	if f == nil || f.Status == int(fault.Data) {
		// its stream has not begun, or was cut: by what has ended pgdecode
		f = last["pgdecode"]
	}
	if f == nil || f.Status == int(fault.TryAgain) {
		return nil, nil
	}
	return f, nil
}

// await waits until the target has applied everything up to an LSN of the source.
func (m *Migration) await(ctx context.Context, c, t *pgx.Conn, stream int32, lsn format.LSN, timeout time.Duration) error {
	var at format.LSN
	said := time.Now()
	r := reader{migration: m, source: c, target: t, stream: stream, seen: said, patience: idleAfter, later: idleAfter}
	if err := r.remember(ctx); err != nil {
		return err
	}
	done, err := poll(ctx, timeout, func() (done bool, err error) {
		if at, err = m.applied(ctx, t, stream); err != nil || at >= lsn {
			return err == nil, err
		}
		if err := r.look(ctx); err != nil {
			return false, err
		}
		if time.Since(said) > 2*time.Second {
			said = time.Now()
			m.Log.Info(fmt.Sprintf("the target is at LSN %v, %d bytes of WAL before %v", at, lsn-at, lsn))
		}
		return false, nil
	})
	if err == nil && !done {
		err = fault.New(fault.TryAgain, "the target did not reach LSN %v within %v; it is at %v", lsn, timeout, at).
			WithHint("Look at the messages of pgdecode and pgapply, and at: pgcutover status --slot %s", m.Slot)
	}
	return err
}
