package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// root is the repository, as seen from this folder.
const root = "../../.."

// module is the module's path with a slash.
const module = "github.com/pgsluice/pgsluice/"

// files calls f for each file of the repository whose name ends in suffix.
func files(t *testing.T, suffix string, f func(path string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		switch {
		case d.IsDir() && (name == "testdata" || name == "bin" || strings.HasPrefix(name, ".") && name != ".." && path != root):
			return filepath.SkipDir
		case !d.IsDir() && strings.HasSuffix(name, suffix):
			f(filepath.ToSlash(strings.TrimPrefix(path, root+string(filepath.Separator))))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// read returns a file of the repository.
func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A goPackage is what the tests know of a package.
type goPackage struct {
	imports map[string]bool // folders of this repository, without test files' imports
	names   map[string]bool // "Func", "Type", "Type.method", "Type.field", "Const", …
}

// packages returns all packages of the repository by their folder.
func packages(t *testing.T) map[string]*goPackage {
	t.Helper()
	all := make(map[string]*goPackage)
	files(t, ".go", func(path string) {
		folder := path[:max(strings.LastIndexByte(path, '/'), 0)]
		p := all[folder]
		if p == nil {
			p = &goPackage{imports: make(map[string]bool), names: make(map[string]bool)}
			all[folder] = p
		}
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, path), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(path, "_test.go") {
			for _, i := range f.Imports {
				if rest, ours := strings.CutPrefix(strings.Trim(i.Path.Value, `"`), module); ours {
					p.imports[rest] = true
				}
			}
		}
		for _, d := range f.Decls {
			p.declare(d)
		}
	})
	return all
}

// declare notes the names that a declaration declares.
func (p *goPackage) declare(d ast.Decl) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		p.names[functionName(d)] = true
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				p.names[spec.Name.Name] = true
				if s, ok := spec.Type.(*ast.StructType); ok {
					for _, f := range s.Fields.List {
						for _, n := range f.Names {
							p.names[spec.Name.Name+"."+n.Name] = true
						}
					}
				}
			case *ast.ValueSpec:
				for _, n := range spec.Names {
					p.names[n.Name] = true
				}
			}
		}
	}
}

// functionName returns the name of a function, with its receiver's type.
func functionName(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return d.Name.Name
	}
	t := d.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	if ident, ok := t.(*ast.Ident); ok {
		return ident.Name + "." + d.Name.Name
	}
	return d.Name.Name
}
