package copyout

import (
	"math"
	"strings"
	"testing"
)

// Ranges have no gap and do not overlap, whatever the least and the greatest key are.
func TestKeys(t *testing.T) {
	for _, test := range []struct {
		from, to, n int64
		want        string
	}{
		{0, 0, 4, ""},
		{5, 6, 4, ""},
		{0, 10, 2, "k < '5' | k >= '5'"},
		{-10, 20, 3, "k < '0' | k >= '0' AND k < '10' | k >= '10'"},
		{math.MinInt64, math.MaxInt64, 2, "k < '-1' | k >= '-1'"},
	} {
		if got := strings.Join(keys("k", test.from, test.to, test.n), " | "); got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
}

func TestPages(t *testing.T) {
	want := "ctid >= '(0,0)' AND ctid < '(33,0)' | ctid >= '(33,0)' AND ctid < '(66,0)' | ctid >= '(66,0)'"
	if got := strings.Join(pages(100, 3), " | "); got != want {
		t.Error(got)
	}
}
