package cli

import (
	"runtime/debug"
	"strings"
)

// Version returns the version that this program was built from.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v, commit := info.Main.Version, setting(info, "vcs.revision")
	switch {
	case v != "" && v != "(devel)":
		return v
	case commit != "":
		return "devel " + commit[:min(12, len(commit))]
	}
	return "devel"
}

// Build returns Version with the build data recorded by the Go command: the commit, its date, and
// whether files were modified: "v1.2.0 (commit 6df8c9a2b1c0…, 2026-11-27T10:21:00Z, modified)".
func Build() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return Version()
	}
	return Version() + origin(info)
}

// Date returns the date of the commit, such as "2026-11-27", or "" if it is unknown.
func Date() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	date, _, _ := strings.Cut(setting(info, "vcs.time"), "T")
	return date
}

func origin(info *debug.BuildInfo) string {
	var parts []string
	if s := setting(info, "vcs.revision"); s != "" {
		parts = append(parts, "commit "+s)
	}
	if s := setting(info, "vcs.time"); s != "" {
		parts = append(parts, s)
	}
	if setting(info, "vcs.modified") == "true" {
		parts = append(parts, "modified")
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

func setting(info *debug.BuildInfo, key string) string {
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}
