package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

const (
	mostLines = 70  // of a function
	mostFile  = 700 // lines of a file
)

// longFunctions may be longer than others, but not longer than this. Each has its reason.
var longFunctions = map[string]int{
	// Tables: one case for each kind of record, and nothing between the cases.
	"format/order.go order.step":     153,
	"format/reader.go Reader.decode": 84,
}

// A function does one thing, and a file owns one. Tests' functions are scenarios, which are read
// from top to bottom, and may be longer.
func TestSizes(t *testing.T) {
	found := make(map[string]bool)
	files(t, ".go", func(path string) {
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, filepath.Join(root, path), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if n := set.File(file.Pos()).LineCount(); n > mostFile {
			t.Errorf("%s has %d lines, more than %d", path, n, mostFile)
		}
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := set.Position(f.End()).Line - set.Position(f.Pos()).Line + 1
			name := path + " " + functionName(f)
			most, excepted := longFunctions[name]
			switch {
			case excepted && n <= mostLines:
				t.Errorf("%s has %d lines: take it out of the list", name, n)
			case !excepted && n > mostLines:
				t.Errorf("%s has %d lines, more than %d", name, n, mostLines)
			case excepted && n > most:
				t.Errorf("%s has %d lines, more than its %d", name, n, most)
			}
			found[name] = true
		}
	})
	for name := range longFunctions {
		if !found[name] {
			t.Errorf("%s does not exist: take it out of the list", name)
		}
	}
}
