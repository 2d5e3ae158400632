package format_test

import (
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// What package format may import is policy: other programs build on it, and it must stay a
// description of bytes. A build that breaks is no reason to relax it. Test files are free.
var (
	allowedModules = []string{"github.com/vmihailenco/msgpack/v5"}
	// Files, flags, connections and logs belong to the programs.
	forbidden = []string{"os", "os/exec", "os/signal", "io/fs", "path/filepath", "flag", "log", "log/slog",
		"net", "net/http", "database/sql", "syscall", "unsafe", "context"}
)

func TestImports(t *testing.T) {
	pkg, err := build.ImportDir(".", 0)
	must(t, err)
	for _, path := range pkg.Imports {
		first, _, _ := strings.Cut(path, "/")
		switch {
		case strings.Contains(first, "."):
			if !slices.Contains(allowedModules, path) {
				t.Errorf("package format imports %s", path)
			}
		case slices.Contains(forbidden, path):
			t.Errorf("package format imports %s, which is for programs", path)
		}
	}
	if len(pkg.CgoFiles)+len(pkg.SFiles) > 0 {
		t.Error("package format is not all Go")
	}
}

// The package takes times from records and gives them back, it never asks what time it is.
func TestNoClock(t *testing.T) {
	pkg, err := build.ImportDir(".", 0)
	must(t, err)
	for _, name := range pkg.GoFiles {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		must(t, err)
		ast.Inspect(f, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" && !slices.Contains([]string{"Time", "UnixMicro"}, sel.Sel.Name) {
					t.Errorf("%s uses time.%s", name, sel.Sel.Name)
				}
			}
			return true
		})
	}
}
