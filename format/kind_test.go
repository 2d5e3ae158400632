package format_test

import (
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/format"
)

// The names and numbers of the kinds are part of the format. A number that changes here breaks
// every stream that was ever written.
func TestKinds(t *testing.T) {
	names := map[format.Kind]string{
		1: "header", 2: "end", 3: "continued", 4: "relation", 5: "ddl", 6: "copy-begin", 7: "copy-data", 8: "copy-end",
		9: "sequence", 10: "large-object", 11: "begin", 12: "commit", 13: "insert", 14: "update", 15: "delete", 16: "truncate",
		17: "message", 18: "stream-start", 19: "stream-stop", 20: "stream-commit", 21: "stream-abort", 22: "prepare",
		23: "commit-prepared", 24: "rollback-prepared", 64: "progress", 66: "fingerprint",
		0: "kind 0", 25: "kind 25", 63: "kind 63", 65: "kind 65", 127: "kind 127", 128: "kind 128", 255: "kind 255",
	}
	for k, name := range names {
		if k.String() != name {
			t.Errorf("kind %d is %q, want %q", k, k, name)
		}
	}
	for k := range 256 {
		if got := format.Kind(k).Ignorable(); got != (k >= 64 && k <= 127) {
			t.Errorf("kind %d: ignorable is %t", k, got)
		}
	}
	seen := map[format.Kind]bool{format.KindContinued: true}
	for _, rec := range append(append(loadStream(), changeStream()...), &format.Fingerprint{}) {
		seen[rec.Kind()] = true
	}
	for k, name := range names {
		if !strings.HasPrefix(name, "kind ") && !seen[k] {
			t.Errorf("the fixtures have no %s record", name)
		}
	}
}
