package rename

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// A token is a piece of SQL text. Joined, the texts of all tokens are that text.
type token struct {
	kind  kind
	text  string
	name  string // of an identifier, as the server understands it
	value string // of a string, between its quotes, with '' for '
}

type kind int

const (
	other kind = iota // one character
	space             // also comments
	ident
	text
)

// set gives a string another value.
func (t *token) set(inner []*token) {
	var b strings.Builder
	for _, x := range inner {
		b.WriteString(x.text)
	}
	if b.String() != t.value {
		t.text = strings.Replace(t.text, t.value, b.String(), 1)
		t.value = b.String()
	}
}

func lex(s string) []*token {
	var tokens []*token
	for len(s) > 0 {
		t := scan(s)
		tokens = append(tokens, t)
		s = s[len(t.text):]
	}
	return tokens
}

// scan returns the first token of s.
func scan(s string) *token {
	r, size := utf8.DecodeRuneInString(s)
	switch {
	case unicode.IsSpace(r):
		n := strings.IndexFunc(s, func(r rune) bool { return !unicode.IsSpace(r) })
		return &token{kind: space, text: upTo(s, n)}
	case strings.HasPrefix(s, "--"):
		return &token{kind: space, text: upTo(s, strings.IndexByte(s, '\n'))}
	case strings.HasPrefix(s, "/*"):
		return &token{kind: space, text: comment(s)}
	case r == '"':
		t := quoted(s, 0, '"', false)
		return &token{kind: ident, text: t, name: strings.ReplaceAll(t[1:max(len(t)-1, 1)], `""`, `"`)}
	case r == '\'':
		t := quoted(s, 0, '\'', false)
		return &token{kind: text, text: t, value: t[1:max(len(t)-1, 1)]}
	case (r == 'E' || r == 'e') && strings.HasPrefix(s[1:], "'"):
		t := quoted(s, 1, '\'', true)
		return &token{kind: text, text: t, value: t[2:max(len(t)-1, 2)]}
	case r == '$':
		if tag, ok := dollar(s); ok {
			n := strings.Index(s[len(tag):], tag)
			if n < 0 {
				return &token{kind: text, text: s, value: s[len(tag):]}
			}
			return &token{kind: text, text: s[:n+2*len(tag)], value: s[len(tag) : n+len(tag)]}
		}
	case letter(r):
		n := strings.IndexFunc(s, func(r rune) bool { return !letter(r) && !unicode.IsDigit(r) && r != '$' })
		t := upTo(s, n)
		return &token{kind: ident, text: t, name: strings.ToLower(t)}
	case unicode.IsDigit(r):
		n := strings.IndexFunc(s, func(r rune) bool { return !letter(r) && !unicode.IsDigit(r) && r != '.' })
		return &token{text: upTo(s, n)}
	}
	return &token{text: s[:size]}
}

func letter(r rune) bool { return r == '_' || unicode.IsLetter(r) || r == utf8.RuneError }

// upTo returns s up to n, or all of it if n is negative.
func upTo(s string, n int) string {
	if n < 0 {
		return s
	}
	return s[:n]
}

// quoted returns what begins with a quote at start, up to the quote that ends it.
func quoted(s string, start int, quote byte, backslash bool) string {
	for i := start + 1; i < len(s); i++ {
		switch {
		case backslash && s[i] == '\\':
			i++
		case s[i] == quote && i+1 < len(s) && s[i+1] == quote:
			i++
		case s[i] == quote:
			return s[:i+1]
		}
	}
	return s
}

// comment returns a comment, in which others may stand.
func comment(s string) string {
	depth := 0
	for i := 0; i+1 < len(s); i++ {
		switch s[i : i+2] {
		case "/*":
			depth++
			i++
		case "*/":
			depth--
			i++
			if depth == 0 {
				return s[:i+1]
			}
		}
	}
	return s
}

// dollar returns the $tag$ that s begins with.
func dollar(s string) (tag string, ok bool) {
	for i := 1; i < len(s); i++ {
		r := rune(s[i])
		switch {
		case r == '$':
			return s[:i+1], true
		case r >= 0x80 || letter(r) || i > 1 && unicode.IsDigit(r):
		default:
			return "", false
		}
	}
	return "", false
}
