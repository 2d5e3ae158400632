package meter_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/meter"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/cmd/internal/screen"
)

// Bars fit terminals of any size, and nothing of them is left; messages that come meanwhile, of
// this program and of another, stay whole.
func TestBars_H9(t *testing.T) {
	for _, columns := range []int{20, 40, 80, 120, 200} {
		x := pgtest.OpenTerminal(t, columns, 12)
		terminal := screen.Of(x.TTY)
		if terminal == nil {
			t.Fatal("not a terminal")
		}
		m := &meter.Meter{Doing: "loading", Terminal: terminal}
		m.Start(30, 2000)
		name := "public.\u00f6rders_\u8868_" + strings.Repeat("x", 60)
		var parts []*meter.Part
		for range 20 {
			parts = append(parts, m.Part(name, 100))
		}
		var group sync.WaitGroup
		for _, p := range parts {
			group.Go(func() {
				for range 10 {
					p.Add(1, 2)
				}
			})
		}
		group.Wait()
		see := func(what string) {
			t.Helper()
			pgtest.Wait(t, 10*time.Second, what, func() bool { return strings.Contains(strings.Join(x.Screen(), "\n"), what) })
		}
		see("and 12 more")
		see("loading ")
		see("20.0%")
		if columns >= 120 {
			see("[====")
		}
		other := strings.Repeat("0123456789", 9)
		for range 3 {
			_, _ = x.TTY.Write(screen.Message(x.TTY, []byte("one: "+other+"\none: hint: x\n")))
			_, _ = x.TTY.WriteString("two: foreign\n")
			see("20.0%")
		}
		for _, l := range x.Screen() {
			if n := screen.Width(l); n > columns {
				t.Errorf("%d columns: %q", n, l)
			}
		}
		x.Resize(columns/2, 6) // and nobody sees it before the next time
		m.Stop()
		_, _ = x.TTY.WriteString("done\n")
		see("done")
		got := strings.Join(x.All(), "")
		if want := strings.Repeat("one: "+other+"one: hint: xtwo: foreign", 3) + "done"; got != want {
			t.Errorf("%d columns:\n%s\nwant\n%s", columns, got, want)
		}
		if s := m.Snapshot(); s.Rows != 200 || s.Percent != 20 {
			t.Errorf("%+v", s)
		}
	}
}
