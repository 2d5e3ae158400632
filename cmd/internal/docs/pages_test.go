package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// markdown returns all Markdown files of the repository, by their path from its root.
func markdown(t *testing.T) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(pgtest.Root(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(pgtest.Root(), path)
		files[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// prose calls f for each line that is not in a block of code.
func prose(text string, f func(number int, line string)) {
	code := false
	for i, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			code = !code
			continue
		}
		if !code {
			f(i+1, line)
		}
	}
}

// A page is short enough to be read at once.
func TestPageLengths(t *testing.T) {
	for name, text := range markdown(t) {
		most := 0
		switch {
		case name == "README.md":
			most = 120
		case strings.HasPrefix(name, "docs"+string(filepath.Separator)):
			most = 200
		}
		if n := strings.Count(text, "\n"); most > 0 && n > most {
			t.Errorf("%s has %d lines, and %d are enough: move what is rarely asked to a page of its own", name, n, most)
		}
	}
}

// Lines are no wider than 100 characters, but for tables and blocks of code, which cannot be
// wrapped.
func TestLineLengths(t *testing.T) {
	for name, text := range markdown(t) {
		readme := name == "README.md"
		prose(text, func(number int, line string) {
			table := strings.HasPrefix(line, "|") && !readme
			indented := strings.HasPrefix(line, "    ") && !readme
			if n := utf8.RuneCountInString(line); n > 100 && !table && !indented {
				t.Errorf("%s:%d has %d characters", name, number, n)
			}
		})
		if readme {
			for i, line := range strings.Split(text, "\n") {
				if n := utf8.RuneCountInString(line); n > 100 {
					t.Errorf("%s:%d has %d characters", name, i+1, n)
				}
			}
		}
	}
}

// anchor returns the anchor that GitHub gives to a heading.
func anchor(heading string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(heading) {
		switch {
		case r == ' ' || r == '-':
			b.WriteByte('-')
		case r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			b.WriteRune(r)
		}
	}
	return b.String()
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`^#+ +(.+?) *$`)
	inCode  = regexp.MustCompile("`[^`]*`")
)

// Links lead to files and headings that exist.
func TestLinks(t *testing.T) {
	files := markdown(t)
	anchors := make(map[string]map[string]bool)
	for name, text := range files {
		anchors[name] = make(map[string]bool)
		prose(text, func(_ int, line string) {
			if m := heading.FindStringSubmatch(line); m != nil {
				anchors[name][anchor(m[1])] = true
			}
		})
	}
	seen := 0
	for name, text := range files {
		prose(text, func(number int, line string) {
			for _, m := range link.FindAllStringSubmatch(inCode.ReplaceAllString(line, ""), -1) {
				target, fragment, _ := strings.Cut(m[1], "#")
				if strings.Contains(target, "://") {
					continue
				}
				seen++
				path := name
				if target != "" {
					path = filepath.Join(filepath.Dir(name), target)
				}
				if _, err := os.Stat(filepath.Join(pgtest.Root(), path)); err != nil {
					t.Errorf("%s:%d: %s does not exist", name, number, m[1])
					continue
				}
				if known := anchors[path]; fragment != "" && !known[fragment] {
					t.Errorf("%s:%d: %s has no heading #%s", name, number, path, fragment)
				}
			}
		})
	}
	if seen < 30 {
		t.Errorf("only %d links were found", seen)
	}
}

// The table of contents has all pages.
func TestContents(t *testing.T) {
	files := markdown(t)
	contents := files[filepath.Join("docs", "README.md")]
	for name := range files {
		if filepath.Dir(name) == "docs" && filepath.Base(name) != "README.md" && !strings.Contains(contents, "("+filepath.Base(name)+")") {
			t.Errorf("docs/README.md has no link to %s", name)
		}
	}
}
