// Package meter shows the progress of a load: bars on a terminal, and a line every few seconds
// elsewhere. It does not depend on streams or servers.
package meter

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/screen"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// every is the interval between logged lines: short enough to show progress, with few lines for a
// load of hours.
const every = 5 * time.Second

// A Meter adds up the rows and bytes of a load. A nil Meter does nothing.
type Meter struct {
	// Doing names the activity: "loading".
	Doing string
	Log   *slog.Logger
	// JSON logs the figures as attributes instead of text.
	JSON bool
	// Terminal is the terminal for the bars. If it is nil, the Meter logs lines instead.
	Terminal *screen.Terminal

	mu      sync.Mutex
	began   time.Time
	tables  uint64 // expected
	total   uint64 // bytes, an estimate
	done    uint64 // part of total
	rows    uint64
	bytes   uint64
	open    []*Part // in the order in which they began
	stop    chan struct{}
	stopped chan struct{}
}

// A Part is a part of a table. Several goroutines may call its methods.
type Part struct {
	m        *Meter
	table    string
	estimate uint64
	bytes    uint64
}

// Start begins a load of the given number of tables, and an estimated number of bytes.
func (m *Meter) Start(tables, bytes uint64) {
	if m == nil {
		return
	}
	m.began, m.tables, m.total = time.Now(), tables, bytes
	m.done, m.rows, m.bytes = 0, 0, 0
	m.open = nil
	m.stop, m.stopped = make(chan struct{}), make(chan struct{})
	if m.Terminal != nil {
		go m.bars()
	} else {
		go m.lines()
	}
}

func (m *Meter) lines() {
	defer close(m.stopped)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-m.stop:
			return
		case <-tick.C:
		}
		s := m.Snapshot()
		if m.JSON {
			m.Log.Info(m.Doing, "rows", s.Rows, "bytes", s.Bytes, "percent", s.Percent, "bytes_per_second",
				s.Rate, "seconds_left", int(s.Left.Seconds()), "tables", s.Tables)
		} else {
			m.Log.Info(m.Doing + ": " + s.text())
		}
	}
}

// Stop ends the display that Start began.
func (m *Meter) Stop() {
	if m == nil || m.stop == nil {
		return
	}
	close(m.stop)
	<-m.stopped
	m.stop = nil
}

// Part begins a part of a table with an estimated number of bytes.
func (m *Meter) Part(table string, estimate uint64) *Part {
	if m == nil {
		return nil
	}
	p := &Part{m: m, table: text.Escape(table), estimate: estimate}
	m.mu.Lock()
	m.open = append(m.open, p)
	m.mu.Unlock()
	return p
}

// Add counts copied rows and bytes.
func (p *Part) Add(rows, bytes uint64) {
	if p == nil {
		return
	}
	p.m.mu.Lock()
	p.bytes += bytes
	p.m.rows += rows
	p.m.bytes += bytes
	p.m.mu.Unlock()
}

// Done ends a part. The part then counts with its estimate.
func (p *Part) Done() {
	if p == nil {
		return
	}
	p.m.mu.Lock()
	if i := slices.Index(p.m.open, p); i >= 0 {
		p.m.open = slices.Delete(p.m.open, i, i+1)
		p.m.done += p.estimate
	}
	p.m.mu.Unlock()
}

// A Snapshot is the progress of a load at one moment.
type Snapshot struct {
	Tables      uint64
	Rows, Bytes uint64
	Rate        uint64 // bytes a second
	Percent     float64
	Left        time.Duration // estimate; 0 if there is none
	at          uint64        // bytes done of the total, by the estimates
}

// Snapshot returns the current progress.
func (m *Meter) Snapshot() Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Snapshot{Tables: m.tables, Rows: m.rows, Bytes: m.bytes, at: m.done}
	for _, p := range m.open {
		s.at += min(p.bytes, p.estimate)
	}
	s.at = min(s.at, m.total)
	took := time.Since(m.began)
	if took > 0 {
		s.Rate = uint64(float64(m.bytes) / took.Seconds())
	}
	if m.total > 0 {
		part := float64(s.at) / float64(m.total)
		s.Percent = float64(int(part*1000)) / 10
		if part > 0 {
			s.Left = time.Duration(float64(took) * (1 - part) / part)
		}
	}
	return s
}

func (s Snapshot) text() string {
	text := fmt.Sprintf("%.1f%% of %s, %s, %s, %s/s", s.Percent, count.Of(s.Tables, "table"),
		count.Of(s.Rows, "row"), humanize.Bytes(s.Bytes), humanize.Bytes(s.Rate))
	if s.Left > 0 {
		text += fmt.Sprintf(", %v left", s.Left.Round(time.Second))
	}
	return text
}
