package pgdial_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Although no schema is on the search path but pg_catalog, relations and types of pg_temp come
// before its own. So SQL of ours names them with their schema, and functions too.
var (
	relationName = regexp.MustCompile(`(?:\b(?:FROM|JOIN|INTO|UPDATE|TABLE)\s+(?:ONLY\s+)?|,\s*)(pg_[a-z_]+)\b(?:[ \n\t)"` + "`" + `]|$)`)
	functionName = regexp.MustCompile(`\b(pg_[a-z0-9_]+|current_(?:database|setting|schemas)|(?:clock|statement)_timestamp|now|format|format_type|count|sum|min|max|bool_(?:and|or)|string_agg|array_agg|json_agg|json_build_object|` +
		`array_to_string|array_length|to_char|host|date_trunc|set_config|has_[a-z_]+_privilege|aclexplode|age|concat|quote_(?:ident|literal)|to_reg[a-z]+|txid_[a-z_]+|hashtext|hashtextextended|substr|left|md5|` +
		`length|lower|upper|ltrim|rtrim|btrim|setval|nextval|generate_(?:subscripts|series)|[a-z]+_description|row_security_active|convert_to|lo_[a-z]+)\(`)
	typeName  = regexp.MustCompile(`::(text|oid|name|reg[a-z]+|xid|xid8|pg_lsn|timestamptz|int2|int4|int8|float4|float8|json|jsonb|bool|bytea|date|"char")\b`)
	className = regexp.MustCompile(`'(pg_[a-z_]+)'::(?:pg_catalog\.)?regclass`)
	isSQL     = regexp.MustCompile(`\b(?:SELECT|FROM|WHERE|JOIN|UPDATE|DELETE|INSERT INTO|VALUES|EXISTS|CASE WHEN|AND|coalesce|LANGUAGE)\b|::|\|\|`)
)

// (unnest of several arrays is grammar, and has no schema.)

// unqualified returns the places in SQL text that a name without a schema stands at, and the names.
func unqualified(sql string) (at []int) {
	for _, re := range []*regexp.Regexp{relationName, functionName, typeName, className} {
		for _, m := range re.FindAllStringSubmatchIndex(sql, -1) {
			if i := m[2]; i == 0 || sql[i-1] != '.' && sql[i-1] != '"' && sql[i-1] != '%' && !strings.HasPrefix(sql[i:], "pg_temp") {
				at = append(at, i)
			}
		}
	}
	slices.Sort(at)
	return slices.Compact(at)
}

// forPeople are the functions whose text is not executed.
var forPeople = []string{"WithHint", "WithDetail", "New", "fail", "warn", "need", "note", "ok", "Warn", "Info",
	"Errorf", "Fprintf", "Fprintln", "MustCompile"}

// literals calls f with each string literal of a file that is SQL.
func literals(file *ast.File, f func(*ast.BasicLit)) {
	ast.Inspect(file, func(n ast.Node) bool {
		switch x := n.(type) {
		case *ast.CallExpr:
			name := ""
			switch fun := x.Fun.(type) {
			case *ast.SelectorExpr:
				name = fun.Sel.Name
			case *ast.Ident:
				name = fun.Name
			}
			if slices.Contains(forPeople, name) {
				ast.Inspect(x.Fun, func(n ast.Node) bool { return true })
				return false
			}
		case *ast.AssignStmt:
			if s, ok := x.Lhs[0].(*ast.SelectorExpr); ok && (s.Sel.Name == "Hint" || s.Sel.Name == "Detail") {
				return false
			}
		case *ast.Field, *ast.ImportSpec:
			if f, ok := n.(*ast.Field); ok && f.Tag != nil {
				return false
			}
		case *ast.BasicLit:
			if x.Kind == token.STRING && isSQL.MatchString(x.Value) {
				f(x)
			}
		}
		return true
	})
}

func TestQualifiedNames_P5(t *testing.T) {
	root := filepath.Join(pgtest.Root(), "cmd")
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		name := e.Name()
		if err != nil || e.IsDir() && (name == "testdata" || name == "pgtest") {
			if err == nil {
				err = filepath.SkipDir
			}
			return err
		}
		report := func(line int, sql string, at []int) {
			for _, i := range at {
				t.Errorf("%s:%d: without its schema: %.40s", path, line+strings.Count(sql[:i], "\n"), sql[i:])
			}
		}
		switch {
		case strings.HasSuffix(name, ".sql"):
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if !strings.Contains(string(text), "SET search_path = pg_catalog, pg_temp") {
				// then PostgreSQL's own names come first
				report(1, string(text), unqualified(string(text)))
			}
		case strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go"):
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, path, nil, 0)
			if err != nil {
				return err
			}
			literals(file, func(l *ast.BasicLit) { report(set.Position(l.Pos()).Line, l.Value, unqualified(l.Value)) })
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
