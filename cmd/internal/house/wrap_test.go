package house

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// wrapped is where .editorconfig has text wrapped, with tabs of four columns.
const wrapped = 100

// Comments of Go and text of Markdown are wrapped. Tables, code and what has no space may be wider.
func TestWrapped(t *testing.T) {
	if !strings.Contains(read(t, ".editorconfig"), "max_line_length = 100") {
		t.Error(".editorconfig does not say where text is wrapped")
	}
	check := func(path string, n int, line, text string) {
		columns := utf8.RuneCountInString(strings.ReplaceAll(line, "\t", "    "))
		if columns > wrapped && strings.Contains(strings.TrimSpace(text), " ") {
			t.Errorf("%s:%d has %d columns, more than %d", path, n, columns, wrapped)
		}
	}
	files(t, ".go", func(path string) {
		raw := false
		for i, line := range strings.Split(read(t, path), "\n") {
			text, comment := strings.CutPrefix(strings.TrimSpace(line), "// ")
			if comment && !raw {
				check(path, i+1, line, text)
			} else if strings.Count(line, "`")%2 == 1 {
				raw = !raw
			}
		}
	})
	files(t, ".md", func(path string) {
		code := false
		for i, line := range strings.Split(read(t, path), "\n") {
			fence := strings.HasPrefix(strings.TrimSpace(line), "```")
			if fence {
				code = !code
			}
			if !code && !fence && !strings.HasPrefix(line, "    ") && !strings.HasPrefix(line, "|") {
				check(path, i+1, line, line)
			}
		}
	})
}
