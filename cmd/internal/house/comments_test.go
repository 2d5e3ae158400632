package house

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// notWrapped are the folders and files whose comments are still to be wrapped.
var notWrapped = []string{
	"cmd/pgcutover/", "cmd/internal/e2e/readme_test.go", "cmd/pgapply/internal/rename/rename.go",
	"cmd/pgapply/internal/apply/huge.go", "cmd/pgapply/internal/apply/inprogress.go", "cmd/pgapply/internal/apply/twophase.go",
}

// A comment that has lines to itself is wrapped at 100 columns, with tabs of four.
func TestComments(t *testing.T) {
	const most = 100
	files(t, ".go", func(path string) {
		for _, p := range notWrapped {
			if strings.HasPrefix(path, p) {
				return
			}
		}
		n := 0
		for line := range strings.Lines(read(t, path)) {
			n++
			line = strings.TrimRight(line, "\n")
			text := strings.TrimLeft(line, "\t")
			if !strings.HasPrefix(text, "// ") || !strings.Contains(text[3:], " ") {
				// what is one word cannot be wrapped
				continue
			}
			if w := utf8.RuneCountInString(text) + 4*(len(line)-len(text)); w > most {
				t.Errorf("%s:%d: a comment has %d columns, more than %d", path, n, w, most)
			}
		}
	})
}
