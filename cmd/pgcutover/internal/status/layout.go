package status

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/screen"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// A head is what a status says before its tables: lines of what it is about, and what there is to
// say.
type head struct{ lines [][2]string }

// line adds a line. The format has a tab between the two.
func (h *head) line(format string, args ...any) {
	what, says, _ := strings.Cut(format, "\t")
	if n := strings.Count(strings.ReplaceAll(what, "%%", ""), "%"); n > 0 {
		what = text.Sprintf(what, args[:n]...)
		args = args[n:]
	}
	h.lines = append(h.lines, [2]string{what, text.Sprintf(says, args...)})
}

func (h *head) text() []string {
	widest := 0
	for _, l := range h.lines {
		widest = max(widest, screen.Width(l[0]))
	}
	list := make([]string, len(h.lines))
	for i, l := range h.lines {
		list[i] = screen.Pad(l[0], widest) + "  " + l[1]
	}
	return list
}

// columns are the titles of a table's row.
var columns = []string{"table", "status", "rows loaded", "bytes", "inserts", "updates", "deletes", "truncates"}

func tableRow(t *progress.TableInfo) []string {
	status := t.Status
	if t.Parts > 1 && status == "loading" {
		status = fmt.Sprintf("loading %d/%d", t.PartsDone, t.Parts)
	}
	return []string{text.Escape(t.Schema + "." + t.Table), status, fmt.Sprint(t.Rows), humanize.Bytes(uint64(t.Bytes)),
		fmt.Sprint(t.Inserts), fmt.Sprint(t.Updates), fmt.Sprint(t.Deletes), fmt.Sprint(t.Truncates)}
}

// nameWidth is how far a table's name may be cut before the rest of its row is.
const nameWidth = 24

// align lays out the rows of tables, under their titles, one line each. width is how wide they may
// be, 0: as wide as they are. Where they must be narrower, counters that nobody needs go first.
func align(list []progress.TableInfo, width int) []string {
	rows := [][]string{columns}
	for i := range list {
		rows = append(rows, tableRow(&list[i]))
	}
	widths := make([]int, len(columns))
	over := -2 - width
	for i := range columns {
		for _, r := range rows {
			widths[i] = max(widths[i], screen.Width(r[i]))
		}
		over += widths[i] + 2
	}
	shown := func(int) bool { return true }
	if width > 0 {
		without := make(map[int]bool)
		for i := len(columns) - 1; i >= 4 && over > 0; i-- {
			if !slices.ContainsFunc(rows[1:], func(r []string) bool { return r[i] != "0" }) {
				without[i] = true
				over -= widths[i] + 2
			}
		}
		shown = func(i int) bool { return !without[i] }
		widths[0] = max(widths[0]-max(over, 0), min(widths[0], nameWidth))
	}
	lines := make([]string, len(rows))
	for i, r := range rows {
		var b strings.Builder
		b.WriteString(screen.Pad(screen.CutMiddle(r[0], widths[0]), widths[0]))
		for j := 1; j < len(r); j++ {
			if shown(j) {
				b.WriteString("  " + screen.Pad(r[j], widths[j]))
			}
		}
		lines[i] = strings.TrimRight(b.String(), " ")
		if width > 0 {
			lines[i] = screen.Cut(lines[i], width)
		}
	}
	return lines
}

// inFlight tells the tables that are being loaded.
func inFlight(t *progress.TableInfo) bool { return t.Status != "queued" && t.Status != "loaded" }

// lately returns when something last happened to a table.
func lately(t *progress.TableInfo) (at time.Time) {
	for _, x := range []*time.Time{t.Started, t.Loaded, t.Changed} {
		if x != nil && x.After(at) {
			at = *x
		}
	}
	return at
}

// moving returns the n tables at which there is most to see: those that are being loaded, then
// those to which something has happened last, each by name.
func moving(list []progress.TableInfo, n int) []progress.TableInfo {
	byName := func(a, b progress.TableInfo) int {
		return cmp.Or(cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Table, b.Table))
	}
	first := func(t *progress.TableInfo) int {
		if inFlight(t) {
			return 0
		}
		return 1
	}
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b progress.TableInfo) int {
		return cmp.Or(cmp.Compare(first(&a), first(&b)), lately(&b).Compare(lately(&a)), byName(a, b))
	})
	list = list[:min(n, len(list))]
	slices.SortFunc(list, func(a, b progress.TableInfo) int {
		return cmp.Or(cmp.Compare(first(&a), first(&b)), byName(a, b))
	})
	return list
}

// fit lays a status out for a terminal: the head, and as many tables as there is room for. With
// tight set, what the head says beyond the state is cut where it would leave the tables none.
func fit(h *head, st *Status, width, height int, tight bool) []string {
	lines := h.text()
	used := rowsOf(lines, width)
	if tight && used > height*2/3 {
		for i, l := range lines {
			if i > 0 && h.lines[i][0] != "next" {
				lines[i] = screen.Cut(l, width)
			}
		}
		used = rowsOf(lines, width)
	}
	if len(st.Tables) == 0 {
		return lines
	}
	room := max(height-used-2, 2) // but for the blank line and the titles
	list := st.Tables
	more := 0
	if len(list) > room {
		more = len(list) - (room - 1)
		list = moving(list, room-1)
	}
	lines = append(append(lines, ""), align(list, width)...)
	if more > 0 {
		lines = append(lines, screen.Cut(fmt.Sprintf("and %s more; all of them: pgcutover status | less",
			humanize.Comma(int64(more))), width))
	}
	return lines
}

func rowsOf(lines []string, width int) (n int) {
	for _, l := range lines {
		n += screen.Rows(l, width)
	}
	return n
}

// lay prints a status, to a terminal such that it fits.
func (st *Status) lay(out io.Writer, h *head) error {
	var lines []string
	t := screen.Of(out)
	if t != nil {
		width, height := t.Size()
		lines = fit(h, st, width-1, height-1, false) // the shell's next line has room, too
	} else {
		lines = h.text()
		if len(st.Tables) > 0 {
			lines = append(append(lines, ""), align(st.Tables, 0)...)
		}
	}
	_, err := io.WriteString(out, strings.Join(lines, "\n")+"\n")
	return err
}

// show draws a status on a terminal, in place of the last one. A few rows stay free for what other
// programs may have to say meanwhile.
func (st *Status) show(t *screen.Terminal) {
	width, height := t.Size()
	height -= 1 + min(3, height/8) // the block's first line is blank
	lines := fit(st.head(), st, width-1, height, true)
	rows := 0
	for i, l := range lines {
		if rows += screen.Rows(l, width); rows > height {
			lines = lines[:i]
			break
		}
	}
	t.Draw(lines)
}
