package check

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// named returns the ids that the code has: in calls that add a finding, and in tables of them.
func named(t *testing.T) (list []string) {
	t.Helper()
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") || path == "ids.go" {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				fun, ok := n.Fun.(*ast.SelectorExpr)
				if ok && slices.Contains([]string{"ok", "note", "warn", "need", "fail"}, fun.Sel.Name) {
					list = append(list, literals(n.Args[:1])...)
				}
			case *ast.CompositeLit: // of a table whose first column is an id
				if s, ok := n.Type.(*ast.ArrayType); ok {
					list = append(list, rows(s, n)...)
				}
			}
			return true
		})
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func rows(of *ast.ArrayType, list *ast.CompositeLit) (ids []string) {
	s, ok := of.Elt.(*ast.StructType)
	if !ok || s.Fields.List[0].Names[0].Name != "id" {
		return nil
	}
	for _, e := range list.Elts {
		if row, ok := e.(*ast.CompositeLit); ok {
			ids = append(ids, literals(row.Elts[:1])...)
		}
	}
	return ids
}

func literals(list []ast.Expr) (found []string) {
	for _, e := range list {
		if l, ok := e.(*ast.BasicLit); ok && l.Kind == token.STRING {
			if s, err := strconv.Unquote(l.Value); err == nil {
				found = append(found, s)
			}
		}
	}
	return found
}

// The catalogue has the ids that the code uses, and docs/checks.md has them in the same order under
// the same headings.
func TestIDs(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(pgtest.Root(), "docs", "checks.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string][]string)
	section := ""
	row := regexp.MustCompile("^\\| `([a-z0-9-]+)` \\| .+ \\| .* ?\\|$")
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSuffix(line, "\n")
		if h, ok := strings.CutPrefix(line, "## "); ok {
			section = strings.ReplaceAll(strings.ToLower(h), " ", "-")
		} else if m := row.FindStringSubmatch(line); m != nil {
			documented[section] = append(documented[section], m[1])
		}
	}
	var all []string
	for _, s := range catalogue {
		all = append(all, s.ids...)
		if got := documented[s.section]; !slices.Equal(got, s.ids) {
			t.Errorf("docs/checks.md, %s:\n%q\nand the catalogue has\n%q", s.section, got, s.ids)
		}
	}
	slices.Sort(all)
	if twice := slices.Compact(slices.Clone(all)); len(twice) != len(all) {
		t.Errorf("the catalogue has an id twice: %q", all)
	}
	if used := named(t); !slices.Equal(used, all) {
		t.Errorf("the code has\n%q\nand the catalogue\n%q", used, all)
	}
}
