// Package text makes what others control fit for people's eyes: names, keys, values and messages of
// servers may hold characters that a terminal obeys, that begin a new line, or that turn the order
// of what is shown around. It knows nothing of what the text is about.
package text

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// obeyed reports whether a character does something to a terminal, or to the line that it stands
// in, instead of being shown.
func obeyed(r rune) bool {
	switch {
	case r < ' ', r >= 0x7f && r <= 0x9f, r == '\u2028', r == '\u2029':
		// C0, DEL, C1, the separators of lines and paragraphs
		return true
	}
	return r > 0x600 && unicode.Is(unicode.Bidi_Control, r)
}

// plain reports whether all of a string is shown as it is.
func plain(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c >= 0x7f {
			return !strings.ContainsFunc(s[i:], obeyed) && utf8.ValidString(s[i:])
		}
	}
	return true
}

// rewrite has f write what takes the place of each character that is not shown as it is. r is
// RuneError where raw is no UTF-8.
func rewrite(s string, f func(b *strings.Builder, r rune, raw string)) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 || obeyed(r) {
			f(&b, r, s[i:i+n])
		} else {
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

func escape(b *strings.Builder, r rune, raw string) {
	switch {
	case r == '\n':
		b.WriteString(`\n`)
	case r == '\r':
		b.WriteString(`\r`)
	case r == '\t':
		b.WriteString(`\t`)
	case r == utf8.RuneError || r < 0x80:
		fmt.Fprintf(b, `\x%02x`, raw[0])
	default:
		fmt.Fprintf(b, `\u%04x`, r)
	}
}

// Escape returns s on one line, with escapes as Go and C have them for what is not shown as it is.
// It is for eyes: a backslash stays one, so there is no way back.
func Escape(s string) string {
	if plain(s) {
		return s
	}
	return rewrite(s, escape)
}

// Lines is like Escape for a text that may have several lines: those after the first are indented,
// so that none of them can be taken for a message of its own. A tab becomes blanks.
func Lines(s string) string {
	if plain(s) {
		return s
	}
	return rewrite(s, func(b *strings.Builder, r rune, raw string) {
		switch r {
		case '\n':
			b.WriteString("\n    ")
		case '\t':
			b.WriteString("    ")
		default:
			escape(b, r, raw)
		}
	})
}

// Sprintf is like fmt's. What the format says is ours; strings and errors among the arguments are
// others', and are escaped.
func Sprintf(format string, args ...any) string { return fmt.Sprintf(format, escaped(args)...) }

// Fprintf is like Sprintf.
func Fprintf(w io.Writer, format string, args ...any) (int, error) {
	return fmt.Fprintf(w, format, escaped(args)...)
}

func escaped(args []any) []any {
	list := make([]any, len(args))
	for i, a := range args {
		switch a := a.(type) {
		case string:
			list[i] = Escape(a)
		case error:
			list[i] = Escape(a.Error())
		case fmt.Stringer:
			list[i] = Escape(a.String())
		default:
			list[i] = a
		}
	}
	return list
}

// JSON rewrites JSON such that it means the same, and has no character that a terminal obeys but
// its own line breaks and tabs.
func JSON(b []byte) []byte {
	s := string(b)
	if plain(s) {
		return b
	}
	// Outside of strings JSON has none but those, and inside neither of those.
	return []byte(rewrite(s, func(b *strings.Builder, r rune, raw string) {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			b.WriteString(raw)
		case r == utf8.RuneError:
			b.WriteString(`\ufffd`)
		default:
			fmt.Fprintf(b, `\u%04x`, r)
		}
	}))
}

// JSONWriter returns a writer of JSON that is rewritten as JSON does it. Each Write must have whole
// characters.
func JSONWriter(w io.Writer) io.Writer { return jsonWriter{w} }

type jsonWriter struct{ w io.Writer }

func (j jsonWriter) Write(b []byte) (int, error) {
	if _, err := j.w.Write(JSON(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Harmless reports whether a text of several lines can be shown as it is: no character of it is
// obeyed by a terminal but line breaks and tabs.
func Harmless(s string) bool { return plain(strings.NewReplacer("\n", "", "\t", "").Replace(s)) }
