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

func TestSome(t *testing.T) {
	if got := Some([]string{"a", "b"}); got != "a, b" {
		t.Errorf("%q", got)
	}
	if got := Some([]string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10"}); got != "1, 2, 3, 4, 5, 6, 7, 8 and 2 more" {
		t.Errorf("%q", got)
	}
}
