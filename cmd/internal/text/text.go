// Package text escapes text that others control before people see it: names, keys, values and
// server messages may contain characters that control a terminal, start a new line, or reverse the
// display order. It does not depend on what the text is about.
package text

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// obeyed reports whether a character controls the terminal or its line instead of being displayed.
func obeyed(r rune) bool {
	switch {
	case r < ' ', r >= 0x7f && r <= 0x9f, r == '\u2028', r == '\u2029':
		// C0, DEL, C1, the separators of lines and paragraphs
		return true
	}
	return r > 0x600 && unicode.Is(unicode.Bidi_Control, r)
}

// plain reports whether a string is displayed unchanged.
func plain(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c >= 0x7f {
			return !strings.ContainsFunc(s[i:], obeyed) && utf8.ValidString(s[i:])
		}
	}
	return true
}

// rewrite has f write a replacement for each character that must not be displayed. r is RuneError
// if raw is not UTF-8.
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

// Escape returns s on one line, with escapes like those of Go and C. It is for display only:
// backslashes are kept, so the result cannot be decoded.
func Escape(s string) string {
	if plain(s) {
		return s
	}
	return rewrite(s, escape)
}

// Lines is like Escape for a text that may have several lines: those after the first are indented,
// so that none of them looks like a separate message. A tab becomes blanks.
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

// Sprintf is like fmt.Sprintf, but escapes the strings, errors and Stringers among its arguments.
// The format is trusted.
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

// JSON rewrites JSON so that it has the same meaning, but contains no control characters except its
// own line breaks and tabs.
func JSON(b []byte) []byte {
	s := string(b)
	if plain(s) {
		return b
	}
	// In JSON, these stand only outside of strings, and all other control characters only inside.
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

// JSONWriter returns a writer that rewrites JSON like function JSON. Each Write must contain
// complete characters.
func JSONWriter(w io.Writer) io.Writer { return jsonWriter{w} }

type jsonWriter struct{ w io.Writer }

func (j jsonWriter) Write(b []byte) (int, error) {
	if _, err := j.w.Write(JSON(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Harmless reports whether a text of several lines can be displayed unchanged: it has no control
// characters except line breaks and tabs.
func Harmless(s string) bool { return plain(strings.NewReplacer("\n", "", "\t", "").Replace(s)) }
