package count

import "testing"

func TestOf(t *testing.T) {
	for n, want := range map[int]string{0: "0 tables", 1: "1 table", 1234: "1,234 tables"} {
		if got := Of(n, "table"); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
	if Word(1, "differs", "differ") != "differs" || Word(uint64(2), "differs", "differ") != "differ" {
		t.Error("wrong form of a verb")
	}
}
