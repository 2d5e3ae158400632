package text_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/format"
)

func TestEscape_P11(t *testing.T) {
	for _, c := range []struct{ in, escaped, lines string }{
		{"", "", ""},
		{"public.orders", "public.orders", "public.orders"},
		{`C:\temp "x" 'y'`, `C:\temp "x" 'y'`, `C:\temp "x" 'y'`},
		{"Größe, 表, שלום, 🙂, \u200d", "Größe, 表, שלום, 🙂, \u200d", "Größe, 表, שלום, 🙂, \u200d"},
		{"\ufffd", "\ufffd", "\ufffd"}, // a character like others, unlike what is no UTF-8
		{"a\nb", `a\nb`, "a\n    b"},
		{"a\nmissing  x\n\npgapply: y", `a\nmissing  x\n\npgapply: y`, "a\n    missing  x\n    \n    pgapply: y"},
		{"\r\n\t", `\r\n\t`, "\\r\n        "},
		{"\v\f\b\a\x00\x7f", `\x0b\x0c\x08\x07\x00\x7f`, `\x0b\x0c\x08\x07\x00\x7f`},
		{"\x1b[31mred\x1b]0;title\a", `\x1b[31mred\x1b]0;title\x07`, `\x1b[31mred\x1b]0;title\x07`},
		{"\u009b31m\u0085", `\u009b31m\u0085`, `\u009b31m\u0085`},
		{"\u2028\u2029", `\u2028\u2029`, `\u2028\u2029`},
		{"\u202a\u202e\u2066\u2069\u200e\u200f\u061c", `\u202a\u202e\u2066\u2069\u200e\u200f\u061c`,
			`\u202a\u202e\u2066\u2069\u200e\u200f\u061c`},
		{"gr\xfc\xdfe \x9b31m\xff", `gr\xfc\xdfe \x9b31m\xff`, `gr\xfc\xdfe \x9b31m\xff`},
		{"cut \xe2\x80", `cut \xe2\x80`, `cut \xe2\x80`},
	} {
		if got := text.Escape(c.in); got != c.escaped {
			t.Errorf("%q is escaped as %q", c.in, got)
		}
		if got := text.Lines(c.in); got != c.lines {
			t.Errorf("%q has the lines %q", c.in, got)
		}
	}
}

func TestSprintf(t *testing.T) {
	got := text.Sprintf("%s\t%v %d %q %v\n", "a\tb", errors.New("c\nd"), 5, "e\x1b", format.LSN(1<<32))
	if want := "a\\tb\tc\\nd 5 \"e\\\\x1b\" 1/0\n"; got != want {
		t.Errorf("%q", got)
	}
	var b bytes.Buffer
	if _, err := text.Fprintf(&b, "%-6s|\n", "a\n"); err != nil || b.String() != "a\\n   |\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
}

// JSON means the same as before.
func TestJSON_P11(t *testing.T) {
	const s = "a\n\x1b\x7f\u009b\u2028\u202e\u2066 ß \\ \""
	var b bytes.Buffer
	e := json.NewEncoder(text.JSONWriter(&b))
	e.SetIndent("", "\t")
	e.SetEscapeHTML(false)
	if err := e.Encode(map[string]string{"key" + s: s}); err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := json.Unmarshal(b.Bytes(), &got); err != nil || got["key"+s] != s {
		t.Errorf("%q: %q, %v", b.String(), got, err)
	}
	if clean := text.Escape(strings.NewReplacer("\n", "", "\t", "").
		Replace(b.String())); clean != strings.NewReplacer("\n", "", "\t", "").Replace(b.String()) {
		t.Errorf("%q", b.String())
	}
	if got := string(text.JSON([]byte("\"\xff\""))); got != `"\ufffd"` {
		t.Errorf("%q", got)
	}
}

func TestQuote_P11(t *testing.T) {
	for _, c := range []struct{ in, ident, literal, shell string }{
		{"orders", `"orders"`, `'orders'`, `orders`},
		{"", `""`, `''`, `''`},
		{"-x", `"-x"`, `'-x'`, `'-x'`},
		{`a"b'c\d`, `"a""b'c\d"`, `E'a"b''c\\d'`, `'a"b'\''c\d'`},
		{"x'; rm -rf ~ #", `"x'; rm -rf ~ #"`, `'x''; rm -rf ~ #'`, `'x'\''; rm -rf ~ #'`},
		{"$(rm) `rm` !rm", "\"$(rm) `rm` !rm\"", "'$(rm) `rm` !rm'", "'$(rm) `rm` !rm'"},
		{"a\n\\b'\"\x1b\u202e", `U&"a\000a\\b'""\001b\202e"`, `E'a\n\\b''"\x1b\u202e'`, `$'a\n\\b\'"\x1b\u202e'`},
		{"\xff", `U&"\xff"`, `E'\xff'`, `$'\xff'`},
	} {
		if got := text.Ident(c.in); got != c.ident {
			t.Errorf("%q is the name %s", c.in, got)
		}
		if got := text.Literal(c.in); got != c.literal {
			t.Errorf("%q is the value %s", c.in, got)
		}
		if got := text.Shell(c.in); got != c.shell {
			t.Errorf("%q is the argument %s", c.in, got)
		}
		cmd := exec.Command("bash", "-c", "printf %s "+text.Shell(c.in))
		cmd.Env = []string{"LC_ALL=C.UTF-8"}
		if out, err := cmd.Output(); err != nil || string(out) != c.in {
			t.Errorf("bash takes %s for %q, %v", text.Shell(c.in), out, err)
		}
	}
	if got := text.Ident("public", "a\tb"); got != `"public".U&"a\0009b"` {
		t.Error(got)
	}
}

// Whatever is in a string, its texts hold nothing that a terminal obeys.
func FuzzEscape_P11(f *testing.F) {
	for _, s := range []string{"", "a", "\n", "\x1b", "\u009b", "\u202e", "\xff\xc2", "'\"\\"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, got := range []string{text.Escape(s), text.Ident(s), text.Literal(s), text.Shell(s),
			text.Sprintf("%s", s), strings.ReplaceAll(text.Lines(s), "\n    ", "")} {
			if !utf8.ValidString(got) || text.Escape(got) != got {
				t.Errorf("%q becomes %q", s, got)
			}
		}
		var back string
		j, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text.JSON(j), &back); err != nil || utf8.ValidString(s) && back != s {
			t.Errorf("%q becomes %q in JSON, %v", s, back, err)
		}
	})
}
