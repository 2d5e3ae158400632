package screen_test

import (
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/screen"
)

func TestWidth(t *testing.T) {
	for _, c := range []struct {
		s           string
		columns     int
		cut, middle string
	}{
		{"orders", 6, "orders", "orders"},
		{"orders", 5, "orde…", "or…rs"},
		{"orders", 2, "o…", "…s"},
		{"orders", 1, "…", "…"},
		{"orders", 0, "", ""},
		{"表示テスト", 10, "表示テスト", "表示テスト"},
		{"表示テスト", 7, "表示テ…", "表…スト"},
		{"表示テスト", 6, "表示…", "表…ト"},
		{"e\u0301e\u0301e\u0301", 3, "e\u0301e\u0301e\u0301", "e\u0301e\u0301e\u0301"},
	} {
		cut, middle := screen.Cut(c.s, c.columns), screen.CutMiddle(c.s, c.columns)
		if cut != c.cut || middle != c.middle {
			t.Errorf("%q in %d columns: %q and %q", c.s, c.columns, cut, middle)
		}
		if got := screen.Width(screen.Pad(c.s, c.columns)); got > c.columns || got < c.columns-1 {
			t.Errorf("%q padded to %d columns takes %d", c.s, c.columns, got)
		}
	}
	for _, c := range []struct {
		s             string
		columns, rows int
	}{{"", 10, 1}, {"0123456789", 10, 1}, {"0123456789x", 10, 2}, {"表示テスト", 9, 2}, {"表示テスト", 3, 5}} {
		if got := screen.Rows(c.s, c.columns); got != c.rows {
			t.Errorf("%q takes %d rows of %d columns", c.s, got, c.columns)
		}
	}
}
