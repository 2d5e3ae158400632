package cli

import (
	"runtime/debug"
	"testing"
)

// --version has what the Go command knows of the commit, and nothing where it knows nothing.
func TestOrigin(t *testing.T) {
	for _, c := range []struct {
		settings [][2]string
		want     string
	}{
		{nil, ""},
		{[][2]string{{"-buildmode", "exe"}, {"vcs.modified", "false"}}, ""},
		{[][2]string{{"vcs.revision", "6df8c9a"}, {"vcs.time", "2026-11-27T10:21:00Z"},
			{"vcs.modified", "false"}}, " (commit 6df8c9a, 2026-11-27T10:21:00Z)"},
		{[][2]string{{"vcs.revision", "6df8c9a"}, {"vcs.time", "2026-11-27T10:21:00Z"},
			{"vcs.modified", "true"}}, " (commit 6df8c9a, 2026-11-27T10:21:00Z, modified)"},
	} {
		info := &debug.BuildInfo{}
		for _, s := range c.settings {
			info.Settings = append(info.Settings, debug.BuildSetting{Key: s[0], Value: s[1]})
		}
		if got := origin(info); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}
