package steps

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/objects"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// Prepare does what can be done before the fence, while sync continues, so that less is left for
// Open. It analyzes the tables, finds out which sequence takes the value of which one, and, if
// foreign keys and triggers do not act on applied changes, creates them. Nothing depends on it:
// Open does what Prepare has left. It waits at most timeout for locks of other sessions.
func Prepare(ctx context.Context, m *session.Migration, timeout time.Duration) error {
	s, err := m.Begin(ctx)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	if err := s.Exclusive(ctx); err != nil {
		return err
	}
	if s.Stream.Ended {
		m.Log.Info("prepare: the target is already open")
		return nil
	}
	if err := requireLoaded(s); err != nil {
		return err
	}
	stamp := ""
	if err := s.Step(ctx, "prepare", func(*pgx.Batch) (says string, err error) {
		says, stamp, err = prepare(ctx, s, timeout)
		return says, err
	}); err != nil {
		return err
	}
	return m.Target.Explain(progress.SetStamp(ctx, s.OnTarget, s.Stream.ID, "prepare", stamp, "", ""))
}

func prepare(ctx context.Context, s *session.Session, timeout time.Duration) (says, stamp string, err error) {
	if stamp, err = prepareSequences(ctx, s, timeout); err != nil {
		return "", "", err
	}
	created, left, err := prepareObjects(ctx, s, timeout)
	if err != nil {
		return "", "", err
	}
	analyzed, err := analyze(ctx, s, timeout)
	if err != nil {
		return "", "", err
	}
	says = fmt.Sprintf("%s and triggers created, %s analyzed", count.Of(created, "foreign key"), count.Of(analyzed, "table"))
	if left > 0 {
		says += fmt.Sprintf("; %s for open", count.Of(left, "object"))
	}
	return says, stamp, nil
}

// prepareSequences records the pairs of sequences, and sets those of the target, so that only the
// ones that are used meanwhile are left. It returns the state of both sides in which the pairs are
// right, or "" if Open has to find them.
func prepareSequences(ctx context.Context, s *session.Session, timeout time.Duration) (string, error) {
	stamp, err := sequenceStamp(ctx, s)
	if err != nil {
		return "", err
	}
	pairs, absent, err := pairSequences(ctx, s)
	var f *fault.Error
	if errors.As(err, &f) && (f.Status == fault.Config || f.Status == fault.Permission) || len(absent) > 0 {
		return "", nil // the ledger, or Open, says what to do about it
	}
	if err != nil {
		return "", err
	}
	if err := s.Patiently(ctx, s.Target, timeout, func() error {
		_, err := setSequences(ctx, s, pairs)
		return err
	}); err != nil {
		s.Log.Warn("could not set sequences yet: " + err.Error())
		return "", nil
	}
	return stamp, s.Target.Explain(progress.SetSequencePairs(ctx, s.OnTarget, s.Stream.ID, pairs))
}

// prepareObjects creates the foreign keys and triggers that do not act on applied changes. It
// returns how many it created, and how many objects wait for Open.
func prepareObjects(ctx context.Context, s *session.Session, timeout time.Duration) (created, left int, err error) {
	list, err := progress.Pending(ctx, s.OnTarget, s.Stream.ID, progress.PhaseCutover, "", "")
	if err != nil {
		return 0, 0, s.Target.Explain(err)
	}
	some, err := early(ctx, s, list)
	if err != nil {
		return 0, 0, err
	}
	// pgapply must not become the victim of a deadlock. So our statements give up before the server
	// looks for one, which it does after a second by default.
	deadline := time.Now().Add(timeout)
	c := &creator{Session: s, lockTimeout: "500ms",
		each: func(ctx context.Context, do func() error) error {
			return s.Patiently(ctx, s.Target, max(time.Until(deadline), time.Nanosecond), do)
		},
		locked: func(o *progress.Object, err error) error {
			s.Log.Warn(fmt.Sprintf("%v is left for open: %v", o, err))
			return nil
		}}
	err = c.create(ctx, some)
	if _, e := s.OnTarget.Exec(ctx, "SET lock_timeout = '"+waiting.LockTimeout+"'"); err == nil {
		err = s.Target.Explain(e)
	}
	if err != nil {
		return 0, 0, err
	}
	if c.created > 0 {
		if err := fingerprint(ctx, s); err != nil {
			return 0, 0, err
		}
	}
	// pgapply may have been started meanwhile by a role that cannot keep them from acting.
	if err := s.Find(ctx); err != nil {
		return 0, 0, err
	}
	if !s.Stream.Replica {
		return 0, len(list), holdAgain(ctx, s)
	}
	for _, o := range c.failed {
		s.Log.Warn(fmt.Sprintf("could not create %v: %s", &o, o.Error))
	}
	return c.created, len(list) - c.created, nil
}

// early returns the objects that can be created while changes are applied: foreign keys and
// ordinary triggers, with their comments. Rules, and triggers that act in a replica, wait for Open.
func early(ctx context.Context, s *session.Session, list []progress.Object) (some []progress.Object, err error) {
	if !s.Stream.Replica || len(list) == 0 {
		return nil, nil
	}
	// A recorded statement may alter a partitioned table so that its partitions' keys prevent it.
	recorder, err := slot.GetRecorder(ctx, s.OnSource)
	if err != nil {
		return nil, s.Source.Explain(err)
	}
	tables, err := progress.Tables(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return nil, s.Target.Explain(err)
	}
	carried := make(map[[2]string]bool, len(tables))
	for _, t := range tables {
		carried[[2]string{t.Schema, t.Table}] = true
	}
	parts, err := opener(s, 0).partitions(ctx, list)
	if err != nil {
		return nil, s.Target.Explain(err)
	}
	waits := make(map[int64]bool)
	for i := range list {
		o := &list[i]
		_, whole := parts[o.ID]
		ok := false
		switch o.Type {
		case "FK CONSTRAINT":
			ok = whole && !recorder.Installed && !objects.Unchecked(o.SQL) || !whole && carried[[2]string{o.Schema, o.Table}]
		case "TRIGGER":
			ok = !objects.ActsInReplica(o.SQL)
		case "COMMENT":
			ok = len(o.Needs) > 0
		}
		if !ok || slices.ContainsFunc(o.Needs, func(id int64) bool { return waits[id] }) {
			waits[o.ID] = true
			continue
		}
		if whole && len(parts[o.ID]) == 0 {
			continue // an earlier run has created all of it
		}
		some = append(some, *o)
	}
	return some, nil
}

// fingerprint stores what the created objects are on the target, so that Compare can tell whether
// they have changed on the source only.
func fingerprint(ctx context.Context, s *session.Session) error {
	all, err := inventory.Read(ctx, s.OnTarget)
	if err != nil {
		return s.Target.Explain(err)
	}
	var list []progress.Fingerprint
	for i := range all {
		if o := &all[i]; o.Class == inventory.Constraint || o.Class == inventory.Trigger {
			f := progress.Fingerprint{Class: o.Class, Schema: o.Schema, Table: o.Table, Name: o.Name}
			f.Definition, f.Facts = o.Fingerprint()
			list = append(list, f)
		}
	}
	return s.Target.Explain(progress.AddFingerprints(ctx, s.OnTarget, s.Stream.ID, "target", list))
}
