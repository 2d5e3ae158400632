package steps

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/format"
)

// A Status is what is known of a migration at one moment. Fields that could not be found out are null, and Problems says why.
type Status struct {
	At           time.Time            `json:"at"`
	Source       string               `json:"source"` // role, host, port, database, version; empty if it cannot be reached
	Target       string               `json:"target"`
	Slot         string               `json:"slot"`
	Database     string               `json:"database"`
	State        string               `json:"state"` // loading, syncing, stopped, fenced, drained, complete
	Load         string               `json:"load"`  // none, loading, loaded
	AppliedLSN   format.LSN           `json:"applied_lsn"`
	AppliedTime  *time.Time           `json:"applied_time"`
	SourceLSN    *format.LSN          `json:"source_lsn"`
	LagBytes     *int64               `json:"lag_bytes"`
	LagSeconds   *float64             `json:"lag_seconds"`
	Slots        *SlotStatus          `json:"source_slot"`
	Applying     bool                 `json:"applying"` // a session on the target applies changes
	Transactions int64                `json:"transactions"`
	Changes      int64                `json:"changes"`
	Tables       []progress.TableInfo `json:"tables"`
	Missing      []string             `json:"missing_tables"`     // of the source, made after the load, which the target does not have
	InsertOnly   []string             `json:"insert_only_tables"` // of the source, which have no replica identity: updates and deletes are not carried
	Failed       int                  `json:"failed_objects"`
	Conflicts    int64                `json:"conflicts"` // changes that pgapply has skipped or forced
	Cutover      []progress.Step      `json:"cutover"`
	Problems     []string             `json:"problems"`

	missing []catalog.Name
}

// SlotStatus is the slot on the source.
type SlotStatus struct {
	Active    bool       `json:"active"`
	Confirmed format.LSN `json:"confirmed_flush_lsn"`
	Retained  int64      `json:"retained_wal_bytes"`
	WALStatus string     `json:"wal_status"`
}

// Status finds out how a migration stands.
func (m *Migration) Status(ctx context.Context) (*Status, error) {
	t, err := m.target(ctx)
	if err != nil {
		return nil, err
	}
	defer t.Close(ctx)
	stream, err := m.stream(ctx, t)
	if err != nil {
		return nil, err
	}
	s := &Status{At: time.Now().UTC(), Slot: stream.Key.Slot, Database: stream.Key.Database, Load: stream.LoadStatus, AppliedLSN: stream.Applied,
		Transactions: stream.Transactions, Changes: stream.Changes, Missing: []string{}, InsertOnly: []string{}, Problems: []string{}}
	if stream.AppliedTime.Unix() > 0 {
		s.AppliedTime = &stream.AppliedTime
	}
	if s.Tables, err = progress.Tables(ctx, t, stream.ID); err != nil {
		return nil, m.Target.Explain(err)
	}
	failed, err := progress.Failed(ctx, t, stream.ID)
	if err != nil {
		return nil, m.Target.Explain(err)
	}
	s.Failed = len(failed)
	if s.Conflicts, err = progress.Conflicts(ctx, t, stream.ID); err != nil {
		return nil, m.Target.Explain(err)
	}
	if s.Cutover, err = progress.Steps(ctx, t, stream.ID); err != nil {
		return nil, m.Target.Explain(err)
	}
	if s.Applying, err = progress.IsApplied(ctx, t, stream.ID); err != nil {
		return nil, m.Target.Explain(err)
	}
	fenced := m.sourceStatus(ctx, t, s, stream)
	s.Source, s.Target = m.end(m.Source), m.end(m.Target)
	switch {
	case stream.Ended:
		s.State = "complete"
	case fenced && finished(s.Cutover, "drain"):
		s.State = "drained"
	case fenced:
		s.State = "fenced"
	case stream.LoadStatus == "loading":
		s.State = "loading"
	case s.Slot == "" && stream.LoadStatus == "loaded":
		s.State = "complete"
	case s.Slots != nil && s.Slots.Active && s.Applying:
		s.State = "syncing"
	default:
		s.State = "stopped"
	}
	return s, nil
}

// sourceStatus adds what the source knows. A source that cannot be reached is a problem to report, not a reason to report nothing.
func (m *Migration) sourceStatus(ctx context.Context, t *pgx.Conn, s *Status, stream *progress.Stream) (fenced bool) {
	c, err := m.source(ctx)
	if err == nil {
		defer c.Close(ctx)
		fenced, err = m.askSource(ctx, c, s, stream)
	}
	if err == nil {
		s.missing, err = m.missing(ctx, c, t, stream, s.Tables)
		for _, n := range s.missing {
			s.Missing = append(s.Missing, n.Schema+"."+n.Name)
		}
	}
	if err != nil {
		s.Problems = append(s.Problems, m.Source.Explain(err).Error())
	}
	return fenced
}

func (m *Migration) askSource(ctx context.Context, c *pgx.Conn, s *Status, stream *progress.Stream) (fenced bool, err error) {
	if err := m.checkSource(ctx, c, stream); err != nil {
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
		if err := c.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&clock); err != nil {
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
		if s.Load != "none" {
			s.Problems = append(s.Problems, fmt.Sprintf("slot %q does not exist on the source", s.Slot))
		}
		return fenced, nil
	}
	s.Slots = &SlotStatus{Active: info.Active, Confirmed: info.Confirmed, Retained: info.Retained, WALStatus: info.WALStatus}
	if following {
		rows, err := c.Query(ctx, `SELECT schemaname || '.' || tablename FROM (SELECT schemaname, tablename FROM pg_catalog.pg_publication_tables WHERE pubname = $2
			EXCEPT SELECT schemaname, tablename FROM pg_catalog.pg_publication_tables WHERE pubname = $1) t ORDER BY 1`, s.Slot, slot.InsertOnly(s.Slot))
		if err == nil {
			s.InsertOnly, err = pgx.AppendRows(s.InsertOnly, rows, pgx.RowTo[string])
		}
		if err != nil {
			return fenced, err
		}
	}
	if info.WALStatus == "lost" || info.WALStatus == "unreserved" {
		s.Problems = append(s.Problems, fmt.Sprintf("the slot's WAL is %s on the source", info.WALStatus))
	}
	return fenced, nil
}

// JSON prints a status for programs.
func (m *Migration) JSON(s *Status) error {
	e := json.NewEncoder(m.Out)
	e.SetIndent("", "  ")
	return e.Encode(s)
}

// Text prints a status for people.
func (m *Migration) Text(s *Status) error {
	w := tabwriter.NewWriter(m.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "slot\t%s of database %s: %s\n", s.Slot, s.Database, s.State)
	for _, x := range [][2]string{{"source", s.Source}, {"target", s.Target}} {
		if x[1] != "" {
			fmt.Fprintf(w, "%s\t%s\n", x[0], x[1])
		}
	}
	fmt.Fprintf(w, "full load\t%s\n", loadText(s))
	fmt.Fprintf(w, "changes\t%s in %s\n", humanize.Comma(s.Changes), count.Of(s.Transactions, "transaction"))
	at := ""
	if s.AppliedTime != nil {
		at = ", committed there at " + s.AppliedTime.UTC().Format(time.RFC3339)
	}
	fmt.Fprintf(w, "applied\tsource LSN %v%s\n", s.AppliedLSN, at)
	if s.LagBytes != nil {
		text := fmt.Sprintf("%s of WAL behind LSN %v", humanize.Bytes(uint64(*s.LagBytes)), *s.SourceLSN)
		if s.LagSeconds != nil {
			text += fmt.Sprintf(", %.1f s", *s.LagSeconds)
		}
		fmt.Fprintf(w, "lag\t%s\n", text)
	}
	if s.Slots != nil {
		active := "nobody reads it"
		switch {
		case s.Slots.Active && !s.Applying && s.State == "stopped":
			active = "being read, but nobody applies what is read"
		case s.Slots.Active:
			active = "being read"
		}
		fmt.Fprintf(w, "source slot\t%s; confirmed %v; it holds %s of WAL\n", active, s.Slots.Confirmed, humanize.Bytes(uint64(max(s.Slots.Retained, 0))))
	}
	if s.Failed > 0 {
		fmt.Fprintf(w, "schema\t%s could not be created: SELECT type, name, error FROM pgsluice.deferred WHERE state = 'failed'\n", count.Of(s.Failed, "object"))
	}
	if s.Conflicts > 0 {
		fmt.Fprintf(w, "conflicts\t%s skipped or forced; where they were skipped, the sides differ: SELECT * FROM pgsluice.conflicts\n", count.Of(s.Conflicts, "change"))
	}
	if len(s.InsertOnly) > 0 {
		fmt.Fprintf(w, "insert only\t%s without replica identity, whose updates and deletes do not reach the target: %s\n", count.Of(len(s.InsertOnly), "table"), some(s.InsertOnly))
	}
	if len(s.missing) > 0 {
		text, remedy := m.missingText(s.missing)
		fmt.Fprintf(w, "missing\t%s. %s\n", text, remedy)
	}
	for _, step := range s.Cutover {
		text := "under way"
		if step.Finished != nil {
			text = fmt.Sprintf("%s (%v)", step.Detail, step.Finished.Sub(step.Started).Round(time.Millisecond))
		}
		fmt.Fprintf(w, "cutover: %s\t%s\n", step.Name, text)
	}
	for _, p := range s.Problems {
		fmt.Fprintf(w, "problem\t%s\n", strings.ReplaceAll(p, "\n", " "))
	}
	if len(s.Tables) > 0 {
		fmt.Fprintf(w, "\ntable\tstatus\trows loaded\tbytes\tinserts\tupdates\tdeletes\ttruncates\n")
		for _, t := range s.Tables {
			status := t.Status
			if t.Parts > 1 && status == "loading" {
				status = fmt.Sprintf("loading %d/%d", t.PartsDone, t.Parts)
			}
			fmt.Fprintf(w, "%s.%s\t%s\t%d\t%s\t%d\t%d\t%d\t%d\n", t.Schema, t.Table, status, t.Rows, humanize.Bytes(uint64(t.Bytes)), t.Inserts, t.Updates, t.Deletes, t.Truncates)
		}
	}
	return w.Flush()
}

func loadText(s *Status) string {
	var done int
	var rows, bytes int64
	for _, t := range s.Tables {
		if t.Status == "loaded" {
			done++
		}
		rows += t.Rows
		bytes += t.Bytes
	}
	return fmt.Sprintf("%s: %d of %s, %s, %s", s.Load, done, count.Of(len(s.Tables), "table"), count.Of(rows, "row"), humanize.Bytes(uint64(bytes)))
}
