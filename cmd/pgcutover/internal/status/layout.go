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

// A head is the part of a status above its tables: lines of a label and a text.
type head struct{ lines [][2]string }

// line adds a line. In the format, a tab separates the label from the text.
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

// columns are the titles of the table list.
var columns = []string{"table", "status", "rows loaded", "bytes", "inserts", "updates", "deletes", "truncates"}

func tableRow(t *progress.TableInfo) []string {
	status := t.Status
	if t.Parts > 1 && status == "loading" {
		status = fmt.Sprintf("loading %d/%d", t.PartsDone, t.Parts)
	}
	return []string{text.Escape(t.Schema + "." + t.Table), status, fmt.Sprint(t.Rows), humanize.Bytes(uint64(t.Bytes)),
		fmt.Sprint(t.Inserts), fmt.Sprint(t.Updates), fmt.Sprint(t.Deletes), fmt.Sprint(t.Truncates)}
}

// nameWidth is the width below which align cuts the rest of a row rather than the table's name.
const nameWidth = 24

// align lays out the tables, one per line, under the column titles. width limits the length of a
// line; 0 means no limit. If the lines are too long, align first drops counters that are 0 in every
// row.
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

// inFlight reports whether a table is being loaded.
func inFlight(t *progress.TableInfo) bool { return t.Status != "queued" && t.Status != "loaded" }

// lately returns the time of the last activity on a table.
func lately(t *progress.TableInfo) (at time.Time) {
	for _, x := range []*time.Time{t.Started, t.Loaded, t.Changed} {
		if x != nil && x.After(at) {
			at = *x
		}
	}
	return at
}

// moving returns the n most active tables: first those being loaded, then those with the latest
// activity. Each group is sorted by name.
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

// fit lays out a status for a terminal: the head, and as many tables as there is room for. With
// tight set, fit cuts the lines of a tall head to one row each, except the state and the next
// command. This leaves room for the tables.
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
	room := max(height-used-2, 2) // room for the blank line and the titles
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

// lay prints a status. On a terminal, it makes the status fit.
func (st *Status) lay(out io.Writer, h *head) error {
	var lines []string
	t := screen.Of(out)
	if t != nil {
		width, height := t.Size()
		lines = fit(h, st, width-1, height-1, false) // leaves a line for the shell's prompt
	} else {
		lines = h.text()
		if len(st.Tables) > 0 {
			lines = append(append(lines, ""), align(st.Tables, 0)...)
		}
	}
	_, err := io.WriteString(out, strings.Join(lines, "\n")+"\n")
	return err
}

// show draws a status on a terminal in place of the previous one. It leaves a few rows for messages
// of other programs.
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
