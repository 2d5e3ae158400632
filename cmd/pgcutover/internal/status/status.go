// Package status determines the state of a migration and prints it: once or repeatedly, for people
// or for programs.
package status

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/coverage"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/missing"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/wayback"
	"github.com/pgsluice/pgsluice/format"
)

// A Status is the state of a migration at one moment. Fields whose values are not known are null,
// and Problems lists the reasons. Only the source knows the fields with the tag "ask"; the target
// knows all others.
type Status struct {
	At time.Time `json:"at"`
	// role, host, port, database, version
	Source   *string `json:"source" ask:"source"`
	Target   string  `json:"target"`
	Slot     string  `json:"slot"`
	Database string  `json:"database"`
	// loading, interrupted, syncing, stopped, fenced, drained, complete, returned
	State *string `json:"state" ask:"source"`
	// none, loading, interrupted (nobody is loading, and the load is incomplete), loaded
	Load        string      `json:"load"`
	AppliedLSN  format.LSN  `json:"applied_lsn"`
	AppliedTime *time.Time  `json:"applied_time"`
	SourceLSN   *format.LSN `json:"source_lsn" ask:"source"`
	LagBytes    *int64      `json:"lag_bytes" ask:"source"`
	LagSeconds  *float64    `json:"lag_seconds" ask:"source"`
	Slots       *SlotStatus `json:"source_slot" ask:"source"`
	// false if changes can never be applied to the source, so that there is no way back
	CanFollow *bool `json:"source_can_follow" ask:"source"`
	// a session on the target applies changes
	Applying bool `json:"applying"`
	// when somebody last loaded or applied changes
	Active       time.Time            `json:"last_active"`
	Transactions int64                `json:"transactions"`
	Changes      int64                `json:"changes"`
	Tables       []progress.TableInfo `json:"tables"`
	// tables of the source that the target lacks, or has without their rows
	Missing []coverage.TableName `json:"missing_tables" ask:"source"`
	// tables of the source that are not, or were not, published as completely as promised
	Uncarried []coverage.Uncarried `json:"uncarried_tables" ask:"source"`
	// the result of pgcutover missing
	NotThere *MissingStatus `json:"missing" ask:"source"`
	// tables of the source without replica identity: updates and deletes are not carried
	InsertOnly []coverage.TableName `json:"insert_only_tables" ask:"source"`
	Failed     int                  `json:"failed_objects"`
	// errors that the programs exited with, the latest first
	Failures []progress.Failure `json:"last_errors"`
	// changes that pgapply has skipped or forced
	Conflicts int64           `json:"conflicts"`
	Cutover   []progress.Step `json:"cutover"`
	// the result of the last verification: equal, differs; none without one, or if tables could not
	// be compared
	Verified string `json:"verified"`
	// what the last look has found of writes to the source since the target is open, without what
	// was accepted
	Written *WatchStatus `json:"written"`
	// sync has stopped for good: the target is the primary
	Open     bool     `json:"target_open"`
	Problems []string `json:"problems"`
	// the stream from the open target back to the old primary
	Back *BackStatus `json:"way_back" ask:"source"`
	// the slot on a target that was left as primary, in which the watch sees what is written there
	Left *SlotStatus `json:"left_slot"`

	stream *progress.Stream
	look   look
	asked  error // the error of asking the source, if there was one
}

// SlotStatus is the state of a slot.
type SlotStatus struct {
	Active    bool       `json:"active"`
	Confirmed format.LSN `json:"confirmed_flush_lsn"`
	Retained  int64      `json:"retained_wal_bytes"`
	WALStatus string     `json:"wal_status"`
	// how fast the retained WAL grows, and the seconds over which that was measured
	Growth        *int64   `json:"growth_bytes_per_second"`
	GrowthSeconds *float64 `json:"growth_seconds"`
	// how much more WAL max_slot_wal_keep_size allows; null: there is no limit but the disk, of
	// which the server tells nothing
	Safe *int64 `json:"safe_wal_bytes"`
	// until the limit is reached at this growth
	HoursLeft *float64 `json:"hours_left"`
	// how many transactions back vacuum keeps rows: of the catalogs for the slot, and of all tables
	// for the oldest snapshot of pgextract
	CatalogAge  *int64 `json:"catalog_xid_age"`
	SnapshotAge *int64 `json:"snapshot_xid_age"`

	samples
}

func slotStatus(info *slot.Info) *SlotStatus {
	return &SlotStatus{Active: info.Active, Confirmed: info.Confirmed, Retained: info.Retained, WALStatus: info.WALStatus,
		Safe: info.Safe, CatalogAge: info.XIDAge}
}

// find determines the state of a migration. It reports an unreachable source as a problem and still
// returns what the target knows. last is the previous status, or nil.
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
	st.askSource(ctx, s, "", last)
	return st, nil
}

// askTarget collects the values that the target knows, without the source.
func askTarget(ctx context.Context, s *session.Session) (st *Status, err error) {
	stream := s.Stream
	st = &Status{stream: stream, At: time.Now().UTC(), Slot: stream.Key.Slot, Database: stream.Key.Database,
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
		if step.Name == "verify" && step.Finished != nil && step.Result != "" {
			st.Verified = step.Result
		}
	}
	if st.Written, err = lastWatch(ctx, s); err != nil {
		return nil, err
	}
	if err := st.atWork(ctx, s); err != nil {
		return nil, err
	}
	if stream.Ended || st.Slot == "" && stream.LoadStatus == "loaded" {
		st.is("complete")
	}
	if stream.Ended {
		if err := st.askLeft(ctx, s); err != nil {
			return nil, err
		}
	}
	return st, st.askLeftSlot(ctx, s)
}

// askLeft finds whether a cutover back has left the target: then its fence is in force there.
func (st *Status) askLeft(ctx context.Context, s *session.Session) error {
	left, err := s.Left(ctx)
	if left {
		st.is("returned")
		st.Open = false
	}
	return err
}

func (st *Status) is(state string) { st.State = &state }

// askSource adds the values that the source knows. It takes long to compare all tables, or all
// objects, of a large schema. askSource skips these comparisons if the caller wants only a field
// that does not need them.
func (st *Status) askSource(ctx context.Context, s *session.Session, field string, last *Status) {
	var err error
	if s.OnSource, err = s.Connect(ctx, s.Source); err == nil {
		end := s.End(s.Source)
		can := wayback.Possible(pgdial.Version(s.OnSource.PgConn()))
		st.Source, st.CanFollow = &end, &can
		var fenced, drained bool
		fenced, err = st.position(ctx, s)
		if err == nil && fenced {
			drained, err = s.Drained(ctx, st.Cutover)
		}
		st.judge(s.Stream, fenced, drained, err)
	}
	grows, path := measures(field), field
	field, _, _ = strings.Cut(field, ".")
	if err == nil && (field == "" || field == "way_back") {
		err = st.askBack(ctx, s)
	}
	known := &missing.Known{Tables: st.Tables}
	if err == nil && field == "" && s.Stream.LoadStatus != "loading" && !last.holds() {
		known.Begin(ctx, s)
		defer known.End()
	}
	if err == nil && (field == "" || strings.HasSuffix(field, "_tables")) {
		known.Carried, err = st.findTables(ctx, s)
	}
	if err == nil && (field == "" || field == "missing") {
		err = st.findMissing(ctx, s, path, known, last)
	}
	if err == nil && grows { // last: what comes before takes a part of the time
		err = st.measure(ctx, s, last)
	}
	if st.asked = s.Locked(s.Source.Explain(err)); err != nil {
		st.problem(st.asked)
	}
}

// judge names the state of the migration in one word, if it is known.
func (st *Status) judge(stream *progress.Stream, fenced, drained bool, err error) {
	switch {
	case stream.Ended:
	case drained:
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

// problem adds an error and its hint.
func (st *Status) problem(err error) {
	text := err.Error()
	var f *fault.Error
	if errors.As(err, &f) && f.Hint != "" {
		text += ". " + f.Hint
	}
	st.Problems = append(st.Problems, text)
}

// closed reports whether this migration's fence is in force. If another one's is, or was, that is a
// problem.
func (st *Status) closed(ctx context.Context, s *session.Session) (bool, error) {
	d, err := slot.GetDatabase(ctx, s.OnSource)
	if err != nil || d.Fence == nil {
		return false, err
	}
	if s.Owns(d.Fence, st.Cutover) {
		return d.Closed, nil
	}
	if !s.Stream.Ended {
		st.problem(s.Anothers(d.Fence))
	}
	return false, nil
}

// position adds the slot, and the target's lag behind the source.
func (st *Status) position(ctx context.Context, s *session.Session) (fenced bool, err error) {
	if err := s.CheckSource(ctx); err != nil {
		return false, err
	}
	if fenced, err = st.closed(ctx, s); err != nil {
		return false, err
	}
	now, err := slot.FlushLSN(ctx, s.OnSource)
	if err != nil {
		return fenced, err
	}
	st.SourceLSN = &now
	lag := max(int64(now)-int64(st.AppliedLSN), 0)
	following := !s.Stream.Ended // an open target does not follow the source any more
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
		return fenced, nil // a load without sync
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
	if st.Slots, err = held(ctx, s, info); err != nil {
		return fenced, err
	}
	if lost := info.Lost(); lost != nil && following {
		st.problem(lost)
	} else if info.WALStatus == "unreserved" {
		st.Problems = append(st.Problems,
			"the slot holds back more WAL than max_slot_wal_keep_size allows, and is lost at the next checkpoint unless it is read now: raise that on the source, and reload")
	}
	return fenced, nil
}
