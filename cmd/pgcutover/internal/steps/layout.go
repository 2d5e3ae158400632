package steps

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

// A head is what a status says before its tables: lines of what it is about, and what there is to say.
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

// nameWidth is how far a table's name may be cut before other columns are.
const nameWidth = 24

// align lays out the rows of tables, under their titles, one line each. width is how wide they may
// be, 0: as wide as they are.
func align(list []progress.TableInfo, width int) []string {
	rows := [][]string{columns}
	for i := range list {
		rows = append(rows, tableRow(&list[i]))
	}
	widths := make([]int, len(columns))
	all := 0
	for i := range columns {
		for _, r := range rows {
			widths[i] = max(widths[i], screen.Width(r[i]))
		}
		all += widths[i] + 2
	}
	if over := all - 2 - width; width > 0 && over > 0 {
		widths[0] = max(widths[0]-over, min(widths[0], nameWidth))
	}
	lines := make([]string, len(rows))
	for i, r := range rows {
		var b strings.Builder
		for j, v := range r {
			if j > 0 {
				b.WriteString("  ")
			}
			b.WriteString(screen.Pad(v, widths[j]))
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

// moving returns the n tables at which there is most to see: those that are being loaded, then those
// to which something has happened last, each by name.
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

// fit lays a status out for a terminal: the head, and as many tables as there is room for.
func fit(h *head, s *Status, width, height int) []string {
	lines := h.text()
	if len(s.Tables) == 0 {
		return lines
	}
	used := 0
	for _, l := range lines {
		used += screen.Rows(l, width)
	}
	room := max(height-used-2, 2) // but for the blank line and the titles
	list := s.Tables
	more := 0
	if len(list) > room {
		more = len(list) - (room - 1)
		list = moving(list, room-1)
	}
	lines = append(append(lines, ""), align(list, width)...)
	if more > 0 {
		lines = append(lines, screen.Cut(fmt.Sprintf("and %s more; all of them: pgcutover status | less", humanize.Comma(int64(more))), width))
	}
	return lines
}

// lay prints a status, to a terminal such that it fits.
func (m *Migration) lay(h *head, s *Status) error {
	var lines []string
	t := screen.Of(m.Out)
	if t != nil {
		width, height := t.Size()
		lines = fit(h, s, width-1, height-1) // the shell's next line has room, too
	} else {
		lines = h.text()
		if len(s.Tables) > 0 {
			lines = append(append(lines, ""), align(s.Tables, 0)...)
		}
	}
	_, err := io.WriteString(m.Out, strings.Join(lines, "\n")+"\n")
	return err
}

// Show draws a status on a terminal, in place of the last one. A few rows stay free for what other
// programs may have to say meanwhile.
func (m *Migration) Show(t *screen.Terminal, s *Status) {
	width, height := t.Size()
	height -= 1 + min(3, height/8) // the block's first line is blank
	lines := fit(m.head(s), s, width-1, height)
	rows := 0
	for i, l := range lines {
		if rows += screen.Rows(l, width); rows > height {
			lines = lines[:i]
			break
		}
	}
	t.Draw(lines)
}
