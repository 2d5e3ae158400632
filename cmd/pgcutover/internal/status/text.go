package status

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/coverage"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// printJSON prints a status for programs.
func (st *Status) printJSON(out io.Writer) error {
	e := json.NewEncoder(text.JSONWriter(out))
	e.SetIndent("", "  ")
	return e.Encode(st)
}

// printText prints a status for people.
func (st *Status) printText(out io.Writer) error { return st.lay(out, st.head()) }

// head returns the lines of a status above its tables.
func (st *Status) head() *head {
	h := new(head)
	for _, part := range []func(*head, *Status){
		(*head).standing, (*head).written, (*head).ends, (*head).progress, (*head).slot, (*head).missing, (*head).coverage,
		(*head).cutover, (*head).back, (*head).left, (*head).failures,
	} {
		part(h, st)
	}
	return h
}

// ends adds the two servers.
func (h *head) ends(st *Status) {
	for _, x := range []struct {
		side string
		end  *string
	}{{"source", st.Source}, {"target", &st.Target}} {
		if x.end != nil {
			h.line("%s\t%s", x.side, *x.end)
		}
	}
}

// progress adds the progress of load and sync.
func (h *head) progress(st *Status) {
	h.line("full load\t%s", loadText(st))
	h.line("changes\t%s in %s", humanize.Comma(st.Changes), count.Of(st.Transactions, "transaction"))
	at := ""
	if st.AppliedTime != nil {
		at = ", committed there at " + local(*st.AppliedTime)
	}
	h.line("applied\tsource LSN %v%s", st.AppliedLSN, at)
	if st.LagBytes != nil {
		lag := fmt.Sprintf("%s of WAL behind LSN %v", humanize.Bytes(uint64(*st.LagBytes)), *st.SourceLSN)
		if st.LagSeconds != nil {
			lag += fmt.Sprintf(", %.1f s", *st.LagSeconds)
		}
		h.line("lag\t%s", lag)
	}
}

// slot adds who reads the slot, and how much WAL it holds back on the source.
func (h *head) slot(st *Status) {
	if st.Slots == nil {
		return
	}
	active := "nobody reads it"
	switch {
	case st.Slots.Active && !st.Applying && st.State != nil && *st.State == "stopped":
		active = "being read, but nobody applies what is read"
	case st.Slots.Active:
		active = "being read"
	}
	if st.Slots.WALStatus == "lost" {
		active = "LOST, nothing can be read from it any more"
	}
	h.line("source slot\t%s; confirmed %v; it holds %s", active, st.Slots.Confirmed, st.Slots.holds())
	if left := st.Slots.left(); left != "" {
		h.line("slot limit\t%s", left)
	}
	if x := st.Slots.SnapshotAge; x != nil {
		h.line("snapshot\tthe load's is %s old: until the load ends, vacuum keeps what was deleted since",
			count.Of(*x, "transaction"))
	}
}

// missing adds the objects that the target lacks, and the skipped changes.
func (h *head) missing(st *Status) {
	switch x := st.NotThere; {
	case x != nil && (x.Count > 0 || !x.Current):
		what, age := "nothing", ""
		if x.Count > 0 {
			what = count.Of(x.Count, "object") + " of the source that the target lacks, or has otherwise"
		}
		if d := st.At.Sub(x.At); d > 5*time.Second {
			age = fmt.Sprintf(", as of %v ago", d.Round(time.Second))
		}
		if !x.Current {
			age += "; something has changed since. To compare again"
		}
		h.line("missing\t%s%s: pgcutover missing --slot %s", what, age, st.Slot)
	case x == nil && st.look.stale:
		h.line("missing\tnot compared yet, as that takes long with so many tables. To compare: pgcutover missing --slot %s", st.Slot)
	case st.Failed > 0 && x == nil:
		h.line("schema\t%s could not be created: SELECT type, name, error FROM pgsluice.deferred WHERE state = 'failed'",
			count.Of(st.Failed, "object"))
	}
	if st.Conflicts > 0 {
		h.line("conflicts\t%s skipped or forced; where they were skipped, the sides differ: SELECT * FROM pgsluice.conflicts",
			count.Of(st.Conflicts, "change"))
	}
}

// coverage adds the tables that do not reach the target completely.
func (h *head) coverage(st *Status) {
	if len(st.InsertOnly) > 0 {
		h.line("insert only\t%s without usable replica identity, whose updates and deletes do not reach the target: %s",
			count.Of(len(st.InsertOnly), "table"), count.Some(coverage.Names(st.InsertOnly)))
	}
	if len(st.Missing) > 0 {
		says, remedy := coverage.MissingText(st.Slot, st.Missing)
		h.line("missing\t%s", says)
		h.line("\t%s", remedy)
	}
	if len(st.Uncarried) > 0 {
		says, remedy := coverage.UncarriedText(st.Slot, st.Uncarried)
		h.line("not carried\t%s", says)
		h.line("\t%s", remedy)
	}
}

// cutover adds the steps taken, and the problems in the way.
func (h *head) cutover(st *Status) {
	for _, step := range st.Cutover {
		if step.Name == "watch" {
			continue
		}
		what := "under way"
		if step.Finished != nil {
			what = fmt.Sprintf("%s (%v)", step.Detail, step.Finished.Sub(step.Started).Round(time.Millisecond))
		}
		h.line("cutover: %s\t%s", step.Name, what)
	}
	for _, p := range st.Problems {
		h.line("problem\t%s", p)
	}
}

// standing adds the state of the migration. It adds the next command to type, unless a running
// program is already doing that work.
func (h *head) standing(st *Status) {
	state, next := "its state is not known", ""
	if st.State != nil {
		state = *st.State
	}
	slot := ""
	if st.Slot != "" {
		slot = " --slot " + text.Shell(st.Slot)
	}
	switch state {
	case "interrupted":
		state += fmt.Sprintf(", nobody has loaded since %s", local(st.Active))
		if next = "pgextract" + slot + " --resume | pgapply"; slot == "" {
			next = "pgextract | pgapply, into an empty database: without a slot, all tables must be read from one snapshot"
		}
	case "stopped":
		if st.Slots == nil || st.Slots.Active {
			break
		}
		state += fmt.Sprintf(", nobody has applied changes since %s", local(st.Active))
		next = st.stream.Command("sync", "--reverse")
	case "fenced", "drained":
		next = st.stream.Command("cutover", "--back") + "; to give the source back to the application instead: pgcutover unfence" + slot
	case "returned":
		state += ": the source is the primary again"
		next = "pgcutover cleanup" + slot + ", when you no longer need the target"
	case "complete":
		switch {
		case st.Slot == "":
		case session.Finished(st.Cutover, "finish"):
			next = "pgcutover cleanup" + slot + ", when you no longer need the old primary"
		default:
			next = "pgcutover finish" + slot
		}
	}
	h.line("slot\t%s of database %s: %s", st.Slot, st.Database, state)
	if next != "" {
		h.line("next\t%s", next)
	}
}

// local formats a time for people, in the local time zone and with its name.
func local(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }

// failures adds the reasons why programs exited, as long as they matter.
func (h *head) failures(st *Status) {
	if st.Open {
		return
	}
	for _, f := range st.Failures {
		h.line("last error\t%s of %s, status %d: %s", f.Program, local(f.At), f.Status, f.Message)
		if f.Hint != "" {
			h.line("\t%s", f.Hint)
		}
	}
}

func loadText(st *Status) string {
	var done, ready int
	var rows, bytes int64
	for _, t := range st.Tables {
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
	return fmt.Sprintf("%s: %d of %s%s, %s, %s", st.Load, done, count.Of(len(st.Tables), "table"), indexes,
		count.Of(rows, "row"), humanize.Bytes(uint64(bytes)))
}
