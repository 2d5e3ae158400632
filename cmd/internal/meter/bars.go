package meter

import (
	"fmt"
	"strings"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/screen"
)

// redrawn is the interval between drawings: short enough to look alive, long enough for a slow
// line.
const redrawn = 200 * time.Millisecond

// bars draws bars until the load stops.
func (m *Meter) bars() {
	defer close(m.stopped)
	defer m.Terminal.Erase()
	tick := time.NewTicker(redrawn)
	defer tick.Stop()
	for {
		m.Terminal.Draw(m.picture(m.Terminal.Size()))
		select {
		case <-m.stop:
			return
		case <-tick.C:
		}
	}
}

// The width of a full bar, and the width below which no bar is shown.
const (
	widest   = 40
	shortest = 5
)

// bar returns a bar of the given number of columns, or "" if there are too few.
func bar(part float64, columns int) string {
	inner := min(columns-2, widest)
	if inner < shortest {
		return ""
	}
	done := min(max(int(part*float64(inner)), 0), inner)
	line := strings.Repeat("=", done)
	if done < inner {
		line += ">"
	}
	return "[" + line + strings.Repeat("-", inner-len(line)) + "]"
}

// picture returns the bars for a terminal of the given size, one per line: one for each open part
// of a table, and a last one for the whole load.
func (m *Meter) picture(columns, rows int) []string {
	all := m.Snapshot()
	m.mu.Lock()
	open := make([]Part, len(m.open))
	for i, p := range m.open {
		open[i] = *p
	}
	m.mu.Unlock()
	width := columns - 1 // no line reaches the edge
	var lines []string
	room := max(rows-3, 1) // without the blank first line and the bar of the whole load
	if len(open) > room {
		lines = append(lines, screen.Cut(fmt.Sprintf("and %d more", len(open)-room+1), width))
		open = open[:room-1]
	}
	names := screen.Width(m.Doing)
	for _, p := range open {
		names = max(names, screen.Width(p.table))
	}
	names = min(names, max(width/2, width-60))
	for _, p := range open {
		part := 1.0
		if p.estimate > 0 {
			part = float64(min(p.bytes, p.estimate)) / float64(p.estimate)
		}
		line := screen.Pad(screen.CutMiddle(p.table, names), names) + fmt.Sprintf(" %3.0f%% ", 100*part)
		lines = append(lines, screen.Cut(line+bar(part, width-screen.Width(line)), width))
	}
	says := all.text()
	line := screen.Pad(m.Doing, names) + " "
	if b := bar(all.Percent/100, width-screen.Width(line)-screen.Width(says)-1); b != "" {
		line += b + " " + says
	} else {
		line = m.Doing + " " + says
	}
	return append(lines, screen.Cut(line, width))
}
