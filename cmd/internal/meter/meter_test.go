package meter_test

import (
	"log/slog"
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
