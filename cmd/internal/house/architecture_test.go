package house

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// sections returns the parts of a document by their "## " headings.
func sections(text string) map[string]string {
	all := make(map[string]string)
	for part := range strings.SplitSeq(text, "\n## ") {
		heading, body, _ := strings.Cut(part, "\n")
		all[heading] = body
	}
	return all
}

// The table of packages has every package once, and each imports only packages above it.
func TestPackages(t *testing.T) {
	all := packages(t)
	table := sections(read(t, "ARCHITECTURE.md"))["Packages"]
	row := regexp.MustCompile("^\\| `([a-z0-9/]+)` \\|")
	folder := regexp.MustCompile("`(cmd/[a-z0-9/]+)`")
	var order []string
	in := ""
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, "### ") {
			in = folder.FindStringSubmatch(line)[1]
		}
		m := row.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		p := path.Join(in, m[1])
		if m[1] == "format" || strings.Contains(m[1], "/") {
			p = m[1]
		}
		switch {
		case all[p] == nil:
			t.Errorf("ARCHITECTURE.md has package %s, which does not exist", p)
			continue
		case slices.Contains(order, p):
			t.Errorf("ARCHITECTURE.md has package %s twice", p)
		}
		for i := range all[p].imports {
			if !slices.Contains(order, i) {
				t.Errorf("package %s imports %s, which is not above it in ARCHITECTURE.md", p, i)
			}
		}
		order = append(order, p)
	}
	for p := range all {
		program := strings.HasPrefix(p, "cmd/") && strings.Count(p, "/") == 1
		if !program && !slices.Contains(order, p) {
			t.Errorf("package %s is missing in ARCHITECTURE.md", p)
		}
	}
}

// Each step of the two ways names what exists.
func TestWays(t *testing.T) {
	all := sections(read(t, "ARCHITECTURE.md"))
	for _, heading := range []string{"The way of one changed row", "The way of one copied row"} {
		steps := regexp.MustCompile(`(?m)^[0-9]+\. `).Split(all[heading], -1)[1:]
		if len(steps) != 10 {
			t.Errorf("%q has %d steps", heading, len(steps))
		}
		for i, step := range steps {
			if len(reference.FindAllString(step, -1)) == 0 {
				t.Errorf("%q: step %d names no function", heading, i+1)
			}
		}
	}
}

// reference is a name in a document that has a package before it: `plan.Group.Insert`.
var reference = regexp.MustCompile("`([a-z][a-z0-9]*)\\.([A-Za-z][A-Za-z0-9]*(?:\\.[A-Za-z][A-Za-z0-9]*)?)`")

// What documents name with its package, and the tests that they name, exist.
func TestReferences(t *testing.T) {
	all := packages(t)
	byName := make(map[string]*goPackage)
	tests := make(map[string]bool)
	for folder, p := range all {
		for name := range p.names {
			if strings.HasPrefix(name, "Test") {
				tests[name] = true
			}
		}
		if !strings.HasPrefix(folder, "cmd/") || strings.Count(folder, "/") > 1 {
			byName[path.Base(folder)] = p
		}
	}
	test := regexp.MustCompile("`(Test[A-Z][A-Za-z0-9_]*)`")
	files(t, ".md", func(doc string) {
		text := read(t, doc)
		for _, m := range reference.FindAllStringSubmatch(text, -1) {
			if p := byName[m[1]]; p != nil && !p.names[m[2]] && !isFile(m[2]) {
				t.Errorf("%s names %s, which does not exist", doc, m[0])
			}
		}
		for _, m := range test.FindAllStringSubmatch(text, -1) {
			if !tests[m[1]] {
				t.Errorf("%s names test %s, which does not exist", doc, m[1])
			}
		}
	})
}

// isFile tells the name of a file from that of a function: `fault.go`.
func isFile(name string) bool { return slices.Contains([]string{"go", "sql", "md", "bash"}, name) }

// ARCHITECTURE.md is read at a glance.
func TestLength(t *testing.T) {
	if n := strings.Count(read(t, "ARCHITECTURE.md"), "\n"); n > 150 {
		t.Errorf("ARCHITECTURE.md has %d lines", n)
	}
	files(t, ".md", func(doc string) {
		if n := strings.Count(read(t, doc), "\n"); strings.HasPrefix(doc, "docs/design/") && n > 200 {
			t.Errorf("%s has %d lines", doc, n)
		}
	})
}
