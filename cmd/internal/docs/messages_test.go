package docs

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

var update = flag.Bool("update", false, "change the entries of docs/errors-*.md whose messages were reworded")

// A message is one that a program can end with.
type message struct {
	text  string // as its entry has it: with … for what differs from case to case
	where string // file and line
}

var verb = regexp.MustCompile(`%[-+# 0]*(\[\d+\])?[\d.*]*[a-zA-Z]`)

// entryOf returns what an entry for a format looks like. What wraps another error has only its own
// part; "" is one that has none.
func entryOf(format string) string {
	s := strings.ReplaceAll(verb.ReplaceAllString(strings.ReplaceAll(format, "%%", "%"), "…"), `"…"`, "…")
	s = strings.Join(strings.Fields(s), " ")
	for {
		t := strings.TrimSuffix(strings.TrimSuffix(s, ": …"), ", …")
		t = strings.TrimPrefix(strings.TrimPrefix(t, "…: "), "…, ")
		if t == s {
			break
		}
		s = t
	}
	words := len(regexp.MustCompile(`\pL{2,}`).FindAllString(s, -1))
	if words == 0 || words < 3 && strings.HasSuffix(format, ": %w") {
		return "" // it says only where the other one happened
	}
	return strings.ReplaceAll(s, "`", "'")
}

// never has messages that nobody sees: they are compared with, or wrapped by another that says it
// all, or a mistake in the code.
var never = map[string]string{
	"no such publication": "compared with", "to be held until the commit": "compared with", "closed": "the reason of a cancelled context",
	"all equal": "no error", "; large objects differ, too": "the end of another",
	"… of … …":               "tables that differ, which the page shows as they are printed",
	"body of several pieces": "compared with", "load large objects": "what was done",
	"read large objects": "what was done", "compare large objects": "what was done",
	"a transaction that was written in part cannot be overtaken": "a mistake in the code",
	"a recorded statement stands beside other changes":           "a mistake in the code",
}

// literal returns a string that is written in the code, also in several parts.
func literal(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			s, err := strconv.Unquote(e.Value)
			return s, err == nil
		}
	case *ast.BinaryExpr:
		a, okA := literal(e.X)
		b, okB := literal(e.Y)
		if !okA {
			a = "%s"
		}
		if !okB {
			b = "%s"
		}
		return a + b, (okA || okB) && e.Op == token.ADD
	case *ast.ParenExpr:
		return literal(e.X)
	}
	return "", false
}

// assigned returns the texts that a variable is given in the function that has a call.
func assigned(f *ast.File, call ast.Node, variable string) (list []string) {
	for _, d := range f.Decls {
		if d.Pos() > call.Pos() || d.End() < call.End() {
			continue
		}
		ast.Inspect(d, func(n ast.Node) bool {
			a, ok := n.(*ast.AssignStmt)
			if !ok || len(a.Lhs) != len(a.Rhs) {
				return true
			}
			for i := range a.Lhs {
				if v, ok := a.Lhs[i].(*ast.Ident); !ok || v.Name != variable {
					continue
				}
				x := a.Rhs[i]
				if c, ok := x.(*ast.CallExpr); ok && len(c.Args) > 0 {
					x = c.Args[0]
				}
				if s, ok := literal(x); ok {
					list = append(list, s)
				}
			}
			return true
		})
	}
	return list
}

// messages collects what is given to fault.New, fmt.Errorf and errors.New.
func messages(t *testing.T) (list []message) {
	t.Helper()
	files := token.NewFileSet()
	for _, dir := range []string{"cmd", "format"} {
		err := filepath.WalkDir(filepath.Join(pgtest.Root(), dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && (d.Name() == "pgtest" || d.Name() == "e2e" || d.Name() == "testdata") {
				return filepath.SkipDir
			}
			if d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			f, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			name, err := filepath.Rel(pgtest.Root(), path)
			ast.Inspect(f, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				fun, ok := call.Fun.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				pkg, ok := fun.X.(*ast.Ident)
				if !ok {
					return true
				}
				at := 0
				switch pkg.Name + "." + fun.Sel.Name {
				case "fault.New":
					at = 1
				case "fmt.Errorf", "errors.New":
				default:
					return true
				}
				if at >= len(call.Args) {
					return true
				}
				formats := []string{}
				if s, ok := literal(call.Args[at]); ok {
					formats = append(formats, s)
					if v, ok := call.Args[len(call.Args)-1].(*ast.Ident); ok && s == "%s" {
						formats = assigned(f, call, v.Name)
					}
				}
				for _, s := range formats {
					if entryOf(s) != "" {
						list = append(list, message{entryOf(s), fmt.Sprintf("%s:%d", name, files.Position(call.Pos()).Line)})
					}
				}
				return true
			})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return list
}

var (
	// What a script says before it ends.
	scriptSays = regexp.MustCompile("\\b(?:die|usage_error) (?:'([^']*)'|\"((?:[^\"\\\\]|\\\\.)*)\")")
	expansion  = regexp.MustCompile(`\$\{[^}]*\}|\$\w+|\$[?]`)
)

// scriptMessages collects what the scripts that users run end with.
func scriptMessages(t *testing.T) (list []message) {
	t.Helper()
	for _, name := range []string{"load", "sync", "cutover", "migrate", "load-parallel", "fleet", "lib.bash", "hooks/pgbouncer"} {
		b, err := os.ReadFile(filepath.Join(pgtest.Root(), "scripts", name))
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(b), "\n") {
			if strings.HasPrefix(strings.TrimSpace(line), "#") {
				continue
			}
			for _, m := range scriptSays.FindAllStringSubmatch(line, -1) {
				text := m[1] + expansion.ReplaceAllString(strings.ReplaceAll(m[2], `\"`, `"`), "%s")
				if entryOf(text) != "" {
					list = append(list, message{entryOf(text), fmt.Sprintf("scripts/%s:%d", name, i+1)})
				}
			}
		}
	}
	return list
}

// An entry is an item of a list in docs/errors-*.md that begins with "* `". It may go on in further
// lines.
type entry struct {
	text, file string
	line       int
}

var anEntry = regexp.MustCompile("(?m)^\\* `([^`]+)`")

func entries(t *testing.T) (list []entry) {
	t.Helper()
	pages, err := filepath.Glob(filepath.Join(pgtest.Root(), "docs", "errors-*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range anEntry.FindAllStringSubmatchIndex(string(b), -1) {
			text := strings.Join(strings.Fields(string(b[m[2]:m[3]])), " ")
			list = append(list, entry{text, filepath.Join("docs", filepath.Base(page)), 1 + strings.Count(string(b[:m[0]]), "\n")})
		}
	}
	return list
}

// alike says how alike two texts are: how many words they share, of all.
func alike(a, b string) float64 {
	x, y := strings.Fields(a), strings.Fields(b)
	both := 0
	for _, w := range x {
		if i := slices.Index(y, w); i >= 0 {
			both++
			y = slices.Delete(slices.Clone(y), i, i+1)
		}
	}
	return float64(both) / float64(len(x)+len(y))
}

// Every error that a program can print has an entry in docs/errors-*.md, and each entry is an error
// that a program can print.
func TestMessages(t *testing.T) {
	documented := make(map[string]bool)
	for _, e := range entries(t) {
		documented[e.text] = true
	}
	printed := make(map[string]bool)
	var missing []message
	for _, m := range append(messages(t), scriptMessages(t)...) {
		if never[m.text] == "" && !printed[m.text] && !documented[m.text] {
			missing = append(missing, m)
		}
		printed[m.text] = true
	}
	for text := range never {
		if !printed[text] {
			t.Errorf("the list \"never\" in messages_test.go has %q, which no program has any more", text)
		}
	}
	var stale []entry
	for _, e := range entries(t) {
		if !printed[e.text] {
			stale = append(stale, e)
		}
	}
	for _, m := range missing {
		best, how := -1, 0.3
		for i, e := range stale {
			if a := alike(m.text, e.text); a > how {
				best, how = i, a
			}
		}
		if best < 0 {
			t.Errorf("%s: the message is in no page. Add where its cause is explained, in one of docs/errors-*.md:\n* `%s`",
				m.where, m.text)
			continue
		}
		e := stale[best]
		stale = slices.Delete(stale, best, best+1)
		if *update {
			change(t, e, m.text)
			continue
		}
		t.Errorf("%s:%d: the message was reworded in %s. Change\n* `%s`\nto\n* `%s`\nor: go test ./cmd/internal/docs -run TestMessages -update",
			e.file, e.line, m.where, e.text, m.text)
	}
	for _, e := range stale {
		t.Errorf("%s:%d: no program prints this any more; take it out:\n* `%s`", e.file, e.line, e.text)
	}
}

// change gives an entry another text.
func change(t *testing.T, e entry, to string) {
	t.Helper()
	path := filepath.Join(pgtest.Root(), e.file)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := anEntry.ReplaceAllStringFunc(string(b), func(s string) string {
		if strings.Join(strings.Fields(strings.Trim(s, "* `")), " ") != e.text {
			return s
		}
		return wrap("* `"+to+"`", 98)
	})
	if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
}

// wrap wraps an item of a list.
func wrap(s string, width int) string {
	var b strings.Builder
	for utf8.RuneCountInString(s) > width {
		at := strings.LastIndex(string([]rune(s)[:width]), " ")
		if at < 3 {
			break
		}
		b.WriteString(s[:at] + "\n")
		s = "  " + s[at+1:]
	}
	return b.String() + s
}
