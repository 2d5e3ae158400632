package steps

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/objects"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/waiting"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/fencing"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/missing"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// RehearseOptions choose the steps of the cutover that is rehearsed, and the form of the report.
type RehearseOptions struct {
	JSON, AllowOrphans bool
	Snapshot           bool     // the cutover takes snapshots, for a verification
	Allow              []string // ids of ledger lines to accept
	Trust              []string // superusers whose idle sessions do not write
}

// A Rehearsal is what a cutover would do now.
type Rehearsal struct {
	Sessions  []SessionGroup `json:"sessions"`  // that the fence would end
	Objects   int            `json:"objects"`   // that open would create
	Sequences int            `json:"sequences"` // that open would set
	Failing   []string       `json:"failing"`   // objects that the target refuses, with its error
	Steps     []StepTime     `json:"steps"`
	Downtime  int64          `json:"downtime_ms"`

	allow, trust []string
	snapshot     bool
	held         snapshots
}

// A SessionGroup is sessions of one application and role.
type SessionGroup struct {
	Role        string `json:"role"`
	Application string `json:"application"`
	Sessions    int    `json:"sessions"`
	Idle        int    `json:"idle"`
}

// A StepTime is how long a step would take, in milliseconds.
type StepTime struct {
	Step string `json:"step"`
	Time int64  `json:"ms"`
}

// Rehearse does what the steps between fence and open do, as far as it changes nothing, and
// measures it. What would change something runs in a transaction that is rolled back. Sequences are
// not set, because that cannot be rolled back. It fails if a step would refuse.
func Rehearse(ctx context.Context, m *session.Migration, o RehearseOptions) error {
	r := &Rehearsal{Sessions: []SessionGroup{}, Failing: []string{}, allow: o.Allow, trust: o.Trust, snapshot: o.Snapshot}
	if err := orphanless(ctx, m, o); err != nil {
		return err
	}
	s, err := m.Begin(ctx)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	if err := holdable(s, o.Snapshot); err != nil {
		return err
	}
	if err := readOnly(ctx, s); err != nil {
		return err
	}
	if err := r.judge(ctx, s); err != nil {
		return err
	}
	defer r.held.release(context.WithoutCancel(ctx))
	if r.held.sessions[1], err = m.Connect(ctx, m.Target); err != nil {
		return err
	}
	var total time.Duration
	for _, x := range []struct {
		name string
		do   func(context.Context, *session.Session) error
	}{{"fence", r.fence}, {"drain", r.drain}, {"open", r.open}} {
		began := time.Now()
		if err := x.do(ctx, s); err != nil {
			return err
		}
		took := time.Since(began)
		total += took
		r.Steps = append(r.Steps, StepTime{x.name, took.Milliseconds()})
	}
	r.Downtime = total.Milliseconds()
	if o.JSON {
		e := json.NewEncoder(m.Out)
		e.SetIndent("", "  ")
		m.Wrote(0, e.Encode(r))
	} else {
		r.print(m)
	}
	return nil
}

// readOnly makes the sessions refuse to write, except in a transaction that asks for it.
func readOnly(ctx context.Context, s *session.Session) error {
	const set = "SET default_transaction_read_only = on"
	if _, err := s.OnSource.Exec(ctx, set); err != nil {
		return s.Source.Explain(err)
	}
	_, err := s.OnTarget.Exec(ctx, set)
	return s.Target.Explain(err)
}

// orphanless refuses what fence --check refuses. The cutover asks before the downtime.
func orphanless(ctx context.Context, m *session.Migration, o RehearseOptions) error {
	s, err := m.Begin(ctx)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	return missing.RequireParents(ctx, s, o.AllowOrphans, o.Allow)
}

// judge checks what Fence checks, before the application waits. Rehearse has looked for orphans
// already, as scripts/cutover does.
func (r *Rehearsal) judge(ctx context.Context, s *session.Session) error {
	_, err := requireAll(ctx, s, FenceOptions{Rehearse: true, AllowOrphans: true, Allow: r.allow, Trust: r.trust})
	return err
}

// fence does what Fence does, without closing the source.
func (r *Rehearsal) fence(ctx context.Context, s *session.Session) (err error) {
	if err := tryClose(ctx, s); err != nil {
		return err
	}
	if err := r.sessions(ctx, s); err != nil {
		return err
	}
	r.held.sessions[0], err = s.Connect(ctx, s.Source) // as the proof of the fence does
	return err
}

// tryClose closes the source in a transaction that it rolls back.
func tryClose(ctx context.Context, s *session.Session) error {
	_, sql, err := closing(ctx, s)
	if err != nil {
		return s.Source.Explain(err)
	}
	tx, err := s.OnSource.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadWrite})
	if err != nil {
		return s.Source.Explain(err)
	}
	defer func() { _ = tx.Rollback(ctx) }()
	_, err = tx.Exec(ctx, strings.Join(sql, "; "))
	return session.Denied(s.Source.Explain(err), "The role must own the source's database.")
}

// sessions counts the sessions that the fence would end.
func (r *Rehearsal) sessions(ctx context.Context, s *session.Session) error {
	list, err := fencing.Clients(ctx, s.OnSource)
	if err != nil {
		return s.Source.Explain(err)
	}
	for _, x := range list {
		i := slices.IndexFunc(r.Sessions, func(g SessionGroup) bool { return g.Role == x.Role && g.Application == x.Application })
		if i < 0 {
			i = len(r.Sessions)
			r.Sessions = append(r.Sessions, SessionGroup{Role: x.Role, Application: x.Application})
		}
		r.Sessions[i].Sessions++
		if x.Idle {
			r.Sessions[i].Idle++
		}
	}
	slices.SortStableFunc(r.Sessions, func(a, b SessionGroup) int { return cmp.Compare(b.Sessions, a.Sessions) })
	return nil
}

// drain asks what Drain asks. It does not know how long the mark will take to the target, which
// nothing can tell without writing one.
func (r *Rehearsal) drain(ctx context.Context, s *session.Session) error {
	done, err := progress.Steps(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return s.Target.Explain(err)
	}
	if _, err := s.FenceInForce(ctx, done); err != nil {
		return err
	}
	if _, err = applied(ctx, s); err != nil || !r.snapshot {
		return err
	}
	return r.held.take(ctx, s.Migration)
}

// open does what Open does, without setting sequences and without ending sync.
func (r *Rehearsal) open(ctx context.Context, s *session.Session) error {
	done, err := progress.Steps(ctx, s.OnTarget, s.Stream.ID)
	if err != nil {
		return s.Target.Explain(err)
	}
	if _, err := inventory.Stamp(ctx, s.OnSource); err != nil {
		return s.Source.Explain(err)
	}
	pairs, err := recordedPairs(ctx, s, done)
	if err == nil && pairs == nil {
		pairs, _, err = pairSequences(ctx, s)
	}
	if err != nil {
		return err
	}
	list, err := different(ctx, s, pairs)
	if err != nil {
		return err
	}
	r.Sequences = len(list)
	return r.objects(ctx, s)
}

// objects creates what prepare leaves for open, in transactions that are rolled back.
func (r *Rehearsal) objects(ctx context.Context, s *session.Session) error {
	list, err := progress.Pending(ctx, s.OnTarget, s.Stream.ID, progress.PhaseCutover, "", "")
	if err != nil {
		return s.Target.Explain(err)
	}
	before, err := early(ctx, s, list)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(o progress.Object) bool {
		return slices.ContainsFunc(before, func(b progress.Object) bool { return b.ID == o.ID })
	})
	r.Objects = len(list)
	parts, err := opener(s, 0).partitions(ctx, list)
	if err != nil {
		return s.Target.Explain(err)
	}
	for i := range list {
		var sql []string
		for _, x := range creations(&list[i], parts) {
			if x.sql != "" {
				sql = append(sql, x.sql)
			}
		}
		if len(sql) == 0 || len(list[i].Needs) > 0 { // it needs an object that does not exist yet
			continue
		}
		// Sync waits behind these locks, so each transaction has few of them.
		_, err := s.OnTarget.Exec(ctx, "BEGIN READ WRITE; SET LOCAL lock_timeout = '500ms'; SET LOCAL check_function_bodies = off; "+strings.Join(sql, "\n;")+"\n; ROLLBACK", pgx.QueryExecModeSimpleProtocol)
		if err == nil {
			continue
		}
		if _, e := s.OnTarget.Exec(ctx, "ROLLBACK"); e != nil {
			return s.Target.Explain(e)
		}
		var pg *pgconn.PgError
		switch {
		case waiting.IsLockTimeout(err):
			s.Log.Warn(fmt.Sprintf("could not try to create %v: another session locks its table", &list[i]))
		case errors.As(err, &pg) && objects.Refused(err):
			r.Failing = append(r.Failing, fmt.Sprintf("%v: %s", &list[i], pg.Message))
		default:
			return s.Target.Explain(err)
		}
	}
	return nil
}

// print prints the report for people.
func (r *Rehearsal) print(m *session.Migration) {
	if len(r.Sessions) == 0 {
		m.Printf("the fence would end no session\n")
	} else {
		m.Printf("the fence would end:\n")
	}
	for _, g := range r.Sessions {
		m.Printf("  %s of role %s, application \"%s\", %d of them idle\n", count.Of(g.Sessions, "session"), g.Role, g.Application, g.Idle)
	}
	m.Printf("open would set %s and create %s\n", count.Of(r.Sequences, "sequence"), count.Of(r.Objects, "object"))
	for _, f := range r.Failing {
		m.Printf("  the target refuses %s\n", f)
	}
	m.Printf("downtime, if the cutover began now:\n")
	for _, x := range r.Steps {
		m.Printf("  %-8s %6d ms\n", x.Step, x.Time)
	}
	m.Printf("  %-8s %6d ms\n", "all", r.Downtime)
}
