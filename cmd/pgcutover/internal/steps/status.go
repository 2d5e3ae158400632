package steps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
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
	Missing []TableName `json:"missing_tables" ask:"source"`
	// of the source, of which not all that was promised is published, or has been
	Uncarried []Uncarried `json:"uncarried_tables" ask:"source"`
	// what pgcutover missing has
	NotThere *MissingStatus `json:"missing" ask:"source"`
	// of the source, which have no replica identity: updates and deletes are not carried
	InsertOnly []TableName `json:"insert_only_tables" ask:"source"`
	Failed     int         `json:"failed_objects"`
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

// A TableName is the name of a table of the source.
type TableName struct {
	Schema string `json:"schema"`
	Table  string `json:"table"`
}

func (n TableName) String() string { return n.Schema + "." + n.Table }

// SlotStatus is the slot on the source.
type SlotStatus struct {
	Active    bool       `json:"active"`
	Confirmed format.LSN `json:"confirmed_flush_lsn"`
	Retained  int64      `json:"retained_wal_bytes"`
	WALStatus string     `json:"wal_status"`
}

// Status finds out how a migration stands. A source that cannot be reached is a problem to report,
// not a reason to report nothing.
func (m *Migration) Status(ctx context.Context) (*Status, error) {
	t, err := m.target(ctx)
	if err != nil {
		return nil, err
	}
	defer t.Close(ctx)
	s, stream, err := m.targetStatus(ctx, t)
	if err != nil {
		return nil, err
	}
	m.sourceStatus(ctx, t, s, stream, "")
	return s, nil
}

// targetStatus finds out what the target knows, without the source.
func (m *Migration) targetStatus(ctx context.Context, t *pgx.Conn) (*Status, *progress.Stream, error) {
	stream, err := m.stream(ctx, t)
	if err != nil {
		return nil, nil, err
	}
	s := &Status{At: time.Now().UTC(), Slot: stream.Key.Slot, Database: stream.Key.Database,
		Load: stream.LoadStatus, AppliedLSN: stream.Applied,
		Target: m.end(m.Target), Transactions: stream.Transactions, Changes: stream.Changes,
		Open: stream.Ended, Active: stream.Active.UTC(), Verified: "none", Problems: []string{}}
	if stream.AppliedTime.Unix() > 0 {
		s.AppliedTime = &stream.AppliedTime
	}
	if s.Tables, err = progress.Tables(ctx, t, stream.ID); err != nil {
		return nil, nil, m.Target.Explain(err)
	}
	failed, err := progress.Failed(ctx, t, stream.ID)
	if err != nil {
		return nil, nil, m.Target.Explain(err)
	}
	s.Failed = len(failed)
	if s.Conflicts, err = progress.Conflicts(ctx, t, stream.ID); err != nil {
		return nil, nil, m.Target.Explain(err)
	}
	if s.Cutover, err = progress.Steps(ctx, t, stream.ID); err != nil {
		return nil, nil, m.Target.Explain(err)
	}
	for _, step := range s.Cutover {
		if step.Name == "verify" && step.Finished != nil {
			s.Verified = step.Result
		}
	}
	if err := m.atWork(ctx, t, s, stream); err != nil {
		return nil, nil, err
	}
	if stream.Ended || s.Slot == "" && stream.LoadStatus == "loaded" {
		s.is("complete")
	}
	return s, stream, nil
}

func (s *Status) is(state string) { s.State = &state }

// sourceStatus adds what the source knows. To compare all tables, or all objects, takes long where
// there are many, and is left out if only one field is wanted that does not need it.
func (m *Migration) sourceStatus(ctx context.Context, t *pgx.Conn, s *Status, stream *progress.Stream, field string) {
	c, err := m.source(ctx)
	if err == nil {
		defer c.Close(ctx)
		end := m.end(m.Source)
		s.Source = &end
		var fenced bool
		fenced, err = m.askSource(ctx, c, t, s, stream)
		switch {
		case stream.Ended:
		case fenced && finished(s.Cutover, "drain"):
			s.is("drained")
		case fenced:
			s.is("fenced")
		case err != nil, s.State != nil:
		case s.Load == "loading", s.Load == "interrupted":
			s.is(s.Load)
		case s.Slots != nil && s.Slots.Active && s.Applying:
			s.is("syncing")
		default:
			s.is("stopped")
		}
	}
	field, _, _ = strings.Cut(field, ".")
	if err == nil && (field == "" || strings.HasSuffix(field, "_tables")) {
		err = m.tablesStatus(ctx, c, t, s, stream)
	}
	if err == nil && (field == "" || field == "missing") {
		s.NotThere, err = m.missingStatus(ctx, c, t, stream)
	}
	if s.asked = m.Locked(m.Source.Explain(err)); err != nil {
		s.problem(s.asked)
	}
}

// problem adds an error, and what to do about it.
func (s *Status) problem(err error) {
	text := err.Error()
	var f *fault.Error
	if errors.As(err, &f) && f.Hint != "" {
		text += ". " + f.Hint
	}
	s.Problems = append(s.Problems, text)
}

func (m *Migration) askSource(ctx context.Context, c, t *pgx.Conn, s *Status, stream *progress.Stream) (fenced bool, err error) {
	if err := m.checkSource(ctx, c, t, stream); err != nil {
		return false, err
	}
	if fenced, err = isFenced(ctx, c); err != nil {
		return false, err
	}
	now, err := slot.FlushLSN(ctx, c)
	if err != nil {
		return fenced, err
	}
	s.SourceLSN = &now
	lag := max(int64(now)-int64(s.AppliedLSN), 0)
	following := !stream.Ended // once the target is open, it does not follow any more
	if s.AppliedLSN != 0 && following {
		s.LagBytes = &lag
	}
	if s.AppliedTime != nil && following {
		var clock time.Time
		if err := c.QueryRow(ctx, "SELECT pg_catalog.clock_timestamp()").Scan(&clock); err != nil {
			return fenced, err
		}
		seconds := max(clock.Sub(*s.AppliedTime).Seconds(), 0)
		if lag == 0 {
			seconds = 0
		}
		s.LagSeconds = &seconds
	}
	if s.Slot == "" {
		return fenced, nil // a load that nothing follows
	}
	info, err := slot.Get(ctx, c, s.Slot)
	if err != nil {
		return fenced, err
	}
	if info == nil {
		if s.Load != "none" && following {
			s.Problems = append(s.Problems,
				fmt.Sprintf("slot %q does not exist on the source: the target needs a new full load. %s",
					s.Slot, slot.Anew(s.Slot)))
		}
		return fenced, nil
	}
	s.Slots = &SlotStatus{Active: info.Active, Confirmed: info.Confirmed, Retained: info.Retained, WALStatus: info.WALStatus}
	if lost := info.Lost(); lost != nil && following {
		s.problem(lost)
	} else if info.WALStatus == "unreserved" {
		s.Problems = append(s.Problems,
			"the slot holds back more WAL than max_slot_wal_keep_size allows, and is lost at the next checkpoint unless it is read now: raise that on the source, and reload")
	}
	return fenced, nil
}

// JSON prints a status for programs.
func (m *Migration) JSON(s *Status) error {
	e := json.NewEncoder(text.JSONWriter(m.Out))
	e.SetIndent("", "  ")
	return e.Encode(s)
}

// Text prints a status for people.
func (m *Migration) Text(s *Status) error { return m.lay(m.head(s), s) }

// head returns what a status says before its tables.
func (m *Migration) head(s *Status) *head {
	h := new(head)
	line := h.line
	m.standing(h, s)
	for _, x := range []struct {
		side string
		end  *string
	}{{"source", s.Source}, {"target", &s.Target}} {
		if x.end != nil {
			line("%s\t%s", x.side, *x.end)
		}
	}
	line("full load\t%s", loadText(s))
	line("changes\t%s in %s", humanize.Comma(s.Changes), count.Of(s.Transactions, "transaction"))
	at := ""
	if s.AppliedTime != nil {
		at = ", committed there at " + local(*s.AppliedTime)
	}
	line("applied\tsource LSN %v%s", s.AppliedLSN, at)
	if s.LagBytes != nil {
		lag := fmt.Sprintf("%s of WAL behind LSN %v", humanize.Bytes(uint64(*s.LagBytes)), *s.SourceLSN)
		if s.LagSeconds != nil {
			lag += fmt.Sprintf(", %.1f s", *s.LagSeconds)
		}
		line("lag\t%s", lag)
	}
	if s.Slots != nil {
		active := "nobody reads it"
		switch {
		case s.Slots.Active && !s.Applying && s.State != nil && *s.State == "stopped":
			active = "being read, but nobody applies what is read"
		case s.Slots.Active:
			active = "being read"
		}
		if s.Slots.WALStatus == "lost" {
			active = "LOST, nothing can be read from it any more"
		}
		line("source slot\t%s; confirmed %v; it holds %s of WAL", active, s.Slots.Confirmed,
			humanize.Bytes(uint64(max(s.Slots.Retained, 0))))
	}
	if x := s.NotThere; x != nil && x.Count > 0 {
		age := ""
		if d := s.At.Sub(x.At); d > 5*time.Second {
			age = fmt.Sprintf(", as of %v ago", d.Round(time.Second))
		}
		line("missing\t%s of the source that the target lacks, or has otherwise%s: pgcutover missing --slot %s",
			count.Of(x.Count, "object"), age, s.Slot)
	} else if s.Failed > 0 && x == nil {
		line("schema\t%s could not be created: SELECT type, name, error FROM pgsluice.deferred WHERE state = 'failed'",
			count.Of(s.Failed, "object"))
	}
	if s.Conflicts > 0 {
		line("conflicts\t%s skipped or forced; where they were skipped, the sides differ: SELECT * FROM pgsluice.conflicts",
			count.Of(s.Conflicts, "change"))
	}
	if len(s.InsertOnly) > 0 {
		line("insert only\t%s without usable replica identity, whose updates and deletes do not reach the target: %s",
			count.Of(len(s.InsertOnly), "table"), some(namesOf(s.InsertOnly)))
	}
	if len(s.Missing) > 0 {
		says, remedy := m.missingText(s.Missing)
		line("missing\t%s", says)
		line("\t%s", remedy)
	}
	if len(s.Uncarried) > 0 {
		says, remedy := m.uncarriedText(s.Uncarried)
		line("not carried\t%s", says)
		line("\t%s", remedy)
	}
	for _, step := range s.Cutover {
		what := "under way"
		if step.Finished != nil {
			what = fmt.Sprintf("%s (%v)", step.Detail, step.Finished.Sub(step.Started).Round(time.Millisecond))
		}
		line("cutover: %s\t%s", step.Name, what)
	}
	for _, p := range s.Problems {
		line("problem\t%s", p)
	}
	m.failures(h, s)
	return h
}

func namesOf(list []TableName) []string {
	names := make([]string, len(list))
	for i, n := range list {
		names[i] = n.String()
	}
	return names
}

func loadText(s *Status) string {
	var done, ready int
	var rows, bytes int64
	for _, t := range s.Tables {
		state := progress.TableState{Status: t.Status}
		if state.Complete() {
			done++
		}
		if t.Status == "loaded" {
			ready++
		}
		rows += t.Rows
		bytes += t.Bytes
	}
	indexes := ""
	if ready < done {
		indexes = fmt.Sprintf(" (%d of them with their indexes)", ready)
	}
	return fmt.Sprintf("%s: %d of %s%s, %s, %s", s.Load, done, count.Of(len(s.Tables), "table"), indexes,
		count.Of(rows, "row"), humanize.Bytes(uint64(bytes)))
}
