package meter_test

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/meter"
)

func TestSnapshot(t *testing.T) {
	m := &meter.Meter{Doing: "loading", Log: slog.New(slog.DiscardHandler)}
	m.Start(3, 1000)
	defer m.Stop()
	a, b := m.Part("a", 400), m.Part("b", 600)
	a.Add(10, 200)
	b.Add(5, 5000) // more than was estimated counts as the estimate
	s := m.Snapshot()
	if s.Rows != 15 || s.Bytes != 5200 || s.Percent != 80 || s.Tables != 3 || s.Left <= 0 {
		t.Errorf("%+v", s)
	}
	a.Done() // less than was estimated too
	b.Done()
	if s := m.Snapshot(); s.Percent != 100 || s.Left != 0 {
		t.Errorf("%+v", s)
	}
}

func TestNone(t *testing.T) {
	var m *meter.Meter
	m.Start(1, 1)
	p := m.Part("a", 1)
	p.Add(1, 1)
	p.Done()
	m.Stop()
}

// screen is a terminal's other side.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func TestBars(t *testing.T) {
	var out screen
	var diverted io.Writer
	restored := false
	m := &meter.Meter{Doing: "loading", Terminal: &out, Divert: func(w io.Writer) func() { diverted = w; return func() { restored = true } }}
	m.Start(1, 100)
	p := m.Part("public.orders", 100)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 10 {
				p.Add(1, 2)
			}
		})
	}
	group.Wait()
	if diverted == nil {
		t.Fatal("messages are not diverted")
	}
	m.Part("public.open", 10)
	m.Stop()
	if !restored {
		t.Error("messages stay diverted")
	}
	if s := m.Snapshot(); s.Rows != 40 || s.Percent != 80 {
		t.Errorf("%+v", s)
	}
	if strings.Contains(out.b.String(), "%!") {
		t.Errorf("%q", out.b.String())
	}
}
