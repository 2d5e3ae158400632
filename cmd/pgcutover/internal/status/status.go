// Package status finds out how a migration stands, and prints that: for people, for programs, or
// again and again.
package status

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/identity"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/coverage"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
	"github.com/pgsluice/pgsluice/format"
)

// A Status is what is known of a migration at one moment. Fields that could not be found out are
// null, and Problems says why. Those with the tag "ask" are known to the source only; the target
// knows all others.
type Status struct {
	At time.Time `json:"at"`
	// role, host, port, database, version
	Source   *string `json:"source" ask:"source"`
	Target   string  `json:"target"`
	Slot     string  `json:"slot"`
	Database string  `json:"database"`
	// loading, interrupted, syncing, stopped, fenced, drained, complete
	State *string `json:"state" ask:"source"`
	// none, loading (somebody does), interrupted (nobody does, and it is not complete), loaded
	Load        string      `json:"load"`
	AppliedLSN  format.LSN  `json:"applied_lsn"`
	AppliedTime *time.Time  `json:"applied_time"`
	SourceLSN   *format.LSN `json:"source_lsn" ask:"source"`
	LagBytes    *int64      `json:"lag_bytes" ask:"source"`
	LagSeconds  *float64    `json:"lag_seconds" ask:"source"`
	Slots       *SlotStatus `json:"source_slot" ask:"source"`
	// a session on the target applies changes
	Applying bool `json:"applying"`
	// when somebody was last seen loading or applying changes
	Active       time.Time            `json:"last_active"`
	Transactions int64                `json:"transactions"`
	Changes      int64                `json:"changes"`
	Tables       []progress.TableInfo `json:"tables"`
	// of the source, which the target does not have, or not their rows
	Missing []coverage.TableName `json:"missing_tables" ask:"source"`
	// of the source, of which not all that was promised is published, or has been
	Uncarried []coverage.Uncarried `json:"uncarried_tables" ask:"source"`
	// what pgcutover missing has
	NotThere *MissingStatus `json:"missing" ask:"source"`
	// of the source, which have no replica identity: updates and deletes are not carried
	InsertOnly []coverage.TableName `json:"insert_only_tables" ask:"source"`
	Failed     int                  `json:"failed_objects"`
	// that the programs have ended with, the latest first
	Failures []progress.Failure `json:"last_errors"`
	// changes that pgapply has skipped or forced
	Conflicts int64           `json:"conflicts"`
	Cutover   []progress.Step `json:"cutover"`
	// what the last verification has found: equal, differs; none if there was none
	Verified string `json:"verified"`
	// nothing more is applied: the target is the primary
	Open     bool     `json:"target_open"`
	Problems []string `json:"problems"`

	asked error // why the source could not be asked, or not for all
}

// SlotStatus is the slot on the source.
type SlotStatus struct {
	Active    bool       `json:"active"`
	Confirmed format.LSN `json:"confirmed_flush_lsn"`
	Retained  int64      `json:"retained_wal_bytes"`
	WALStatus string     `json:"wal_status"`
}

// find finds out how a migration stands. A source that cannot be reached is a problem to report,
// not a reason to report nothing. last is what was found before, or nil.
func find(ctx context.Context, m *session.Migration, last *Status) (*Status, error) {
	s, err := m.BeginTarget(ctx)
	if err != nil {
		return nil, err
	}
	defer s.Close(ctx)
	st, err := askTarget(ctx, s)
	if err != nil {
		return nil, err
	}
	var before *MissingStatus
	if last != nil {
		before = last.NotThere
	}
	st.askSource(ctx, s, "", before)
	return st, nil
}

// askTarget finds out what the target knows, without the source.
func askTarget(ctx context.Context, s *session.Session) (st *Status, err error) {
	stream := s.Stream
	st = &Status{At: time.Now().UTC(), Slot: stream.Key.Slot, Database: stream.Key.Database,
		Load: stream.LoadStatus, AppliedLSN: stream.Applied,
		Target: s.End(s.Target), Transactions: stream.Transactions, Changes: stream.Changes,
		Open: stream.Ended, Active: stream.Active.UTC(), Verified: "none", Problems: []string{}}
	if stream.AppliedTime.Unix() > 0 {
		st.AppliedTime = &stream.AppliedTime
	}
	if st.Tables, err = progress.Tables(ctx, s.OnTarget, stream.ID); err != nil {
		return nil, s.Target.Explain(err)
	}
	failed, err := progress.Failed(ctx, s.OnTarget, stream.ID)
	if err != nil {
		return nil, s.Target.Explain(err)
	}
	st.Failed = len(failed)
	if st.Conflicts, err = progress.Conflicts(ctx, s.OnTarget, stream.ID); err != nil {
		return nil, s.Target.Explain(err)
	}
	if st.Cutover, err = progress.Steps(ctx, s.OnTarget, stream.ID); err != nil {
		return nil, s.Target.Explain(err)
	}
	for _, step := range st.Cutover {
		if step.Name == "verify" && step.Finished != nil {
			st.Verified = step.Result
		}
	}
	if err := st.atWork(ctx, s); err != nil {
		return nil, err
	}
	if stream.Ended || st.Slot == "" && stream.LoadStatus == "loaded" {
		st.is("complete")
	}
	return st, nil
}

func (st *Status) is(state string) { st.State = &state }

// askSource adds what the source knows. To compare all tables, or all objects, takes long where
// there are many, and is left out if only one field is wanted that does not need it.
func (st *Status) askSource(ctx context.Context, s *session.Session, field string, last *MissingStatus) {
	var err error
	if s.OnSource, err = s.Connect(ctx, s.Source); err == nil {
		end := s.End(s.Source)
		st.Source = &end
		var fenced bool
		fenced, err = st.position(ctx, s)
		st.judge(s.Stream, fenced, err)
	}
	field, _, _ = strings.Cut(field, ".")
	if err == nil && (field == "" || strings.HasSuffix(field, "_tables")) {
		err = st.findTables(ctx, s)
	}
	if err == nil && (field == "" || field == "missing") {
		st.NotThere, err = findMissing(ctx, s, last)
	}
	if st.asked = s.Locked(s.Source.Explain(err)); err != nil {
		st.problem(st.asked)
	}
}

// judge says in a word how the migration stands, if that could be found out.
func (st *Status) judge(stream *progress.Stream, fenced bool, err error) {
	switch {
	case stream.Ended:
	case fenced && session.Finished(st.Cutover, "drain"):
		st.is("drained")
	case fenced:
		st.is("fenced")
	case err != nil, st.State != nil:
	case st.Load == "loading", st.Load == "interrupted":
		st.is(st.Load)
	case st.Slots != nil && st.Slots.Active && st.Applying:
		st.is("syncing")
	default:
		st.is("stopped")
	}
}

// problem adds an error, and what to do about it.
func (st *Status) problem(err error) {
	text := err.Error()
	var f *fault.Error
	if errors.As(err, &f) && f.Hint != "" {
		text += ". " + f.Hint
	}
	st.Problems = append(st.Problems, text)
}

// position adds how far the source is ahead, and its slot.
func (st *Status) position(ctx context.Context, s *session.Session) (fenced bool, err error) {
	if err := s.CheckSource(ctx); err != nil {
		return false, err
	}
	if fenced, err = identity.Fenced(ctx, s.OnSource); err != nil {
		return false, err
	}
	now, err := slot.FlushLSN(ctx, s.OnSource)
	if err != nil {
		return fenced, err
	}
	st.SourceLSN = &now
	lag := max(int64(now)-int64(st.AppliedLSN), 0)
	following := !s.Stream.Ended // once the target is open, it does not follow any more
	if st.AppliedLSN != 0 && following {
		st.LagBytes = &lag
	}
	if st.AppliedTime != nil && following {
		var clock time.Time
		if err := s.OnSource.QueryRow(ctx, "SELECT pg_catalog.clock_timestamp()").Scan(&clock); err != nil {
			return fenced, err
		}
		seconds := max(clock.Sub(*st.AppliedTime).Seconds(), 0)
		if lag == 0 {
			seconds = 0
		}
		st.LagSeconds = &seconds
	}
	if st.Slot == "" {
		return fenced, nil // a load that nothing follows
	}
	info, err := slot.Get(ctx, s.OnSource, st.Slot)
	if err != nil {
		return fenced, err
	}
	if info == nil {
		if st.Load != "none" && following {
			st.Problems = append(st.Problems,
				fmt.Sprintf("slot %q does not exist on the source: the target needs a new full load. %s",
					st.Slot, slot.Anew(st.Slot)))
		}
		return fenced, nil
	}
	st.Slots = &SlotStatus{Active: info.Active, Confirmed: info.Confirmed, Retained: info.Retained, WALStatus: info.WALStatus}
	if lost := info.Lost(); lost != nil && following {
		st.problem(lost)
	} else if info.WALStatus == "unreserved" {
		st.Problems = append(st.Problems,
			"the slot holds back more WAL than max_slot_wal_keep_size allows, and is lost at the next checkpoint unless it is read now: raise that on the source, and reload")
	}
	return fenced, nil
}
