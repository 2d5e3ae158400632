package catalog

import (
	"slices"
	"testing"
)

func TestSplitPath(t *testing.T) {
	for path, want := range map[string][]string{
		`"$user", public`:        {"$user", "public"},
		``:                       nil,
		`""`:                     {""},
		`App,"Odd, ""one""" , x`: {"app", `Odd, "one"`, "x"},
	} {
		if got := splitPath(path); !slices.Equal(got, want) {
			t.Errorf("%s: %q, not %q", path, got, want)
		}
	}
}
