// Package sqltext splits SQL into statements as PostgreSQL's own lexer does, and determines the
// command tag of a statement. It is pure and executes nothing. It reports the cases that it cannot
// decide.
package sqltext

import "strings"

// Rules are the settings that change where a string ends.
type Rules struct {
	// Backslash is standard_conforming_strings = off: a backslash escapes in every string, not only
	// in E'…'.
	Backslash bool
}

// RulesOf returns the rules that follow from recorded settings.
func RulesOf(settings map[string]string) Rules {
	return Rules{Backslash: settings["standard_conforming_strings"] == "off"}
}

// A Statement is one statement of a query.
type Statement struct {
	// Text is the statement without the word CONCURRENTLY, which is not allowed in a transaction.
	Text string
	// Words are the statement's words outside parentheses, in upper case. A name in double quotes
	// is the word `"`.
	Words []string
	// odd is true if the statement does not begin with a word.
	odd bool
}

// Word returns the word with index i, or "" if there are fewer words.
func (s *Statement) Word(i int) string {
	if i < len(s.Words) {
		return s.Words[i]
	}
	return ""
}

// Split splits a query at the semicolons between statements. It ignores those in quotes, comments,
// parentheses and bodies of SQL functions.
func (r Rules) Split(q string) []Statement {
	var all []Statement
	var text strings.Builder
	var s Statement
	depth, tokens := 0, 0
	body, first := false, false // within BEGIN ATOMIC … END; at the start of a statement in it
	finish := func() {
		if tokens > 0 {
			s.Text = strings.TrimSpace(text.String())
			all = append(all, s)
		}
		text.Reset()
		s, depth, tokens, body, first = Statement{}, 0, 0, false, false
	}
	for len(q) > 0 {
		n, kind := r.token(q)
		t := q[:n]
		q = q[n:]
		if kind == space {
			text.WriteString(t)
			continue
		}
		if t == ";" && depth == 0 && !body {
			finish()
			continue
		}
		if tokens++; tokens == 1 && kind != word {
			s.odd = true
		}
		begins := first
		first = t == ";"
		switch {
		case kind == word && depth == 0:
			w := strings.ToUpper(t)
			switch {
			// END closes the body only at the beginning of a statement. Elsewhere END belongs to
			// CASE, or is a name.
			case body && begins && w == "END":
				body = false
			case w == "ATOMIC" && s.Word(len(s.Words)-1) == "BEGIN" && s.makesRoutine():
				body, first = true, true
			}
			s.Words = append(s.Words, w)
			if w == "CONCURRENTLY" && (len(s.Words) <= 4 || s.Word(0) == "ALTER" && s.has("DETACH")) {
				continue
			}
		case kind == name && depth == 0:
			s.Words = append(s.Words, `"`)
		case t == "(" || t == "[":
			depth++
		case t == ")" || t == "]":
			depth--
		}
		text.WriteString(t)
	}
	finish()
	return all
}

func (s *Statement) makesRoutine() bool {
	return s.Word(0) == "CREATE" && (s.kind() == "FUNCTION" || s.kind() == "PROCEDURE")
}

func (s *Statement) has(w string) bool {
	for _, x := range s.Words {
		if x == w {
			return true
		}
	}
	return false
}

// The kinds of tokens that Split distinguishes.
type tokenKind int

const (
	other tokenKind = iota
	space           // white space or a comment
	word
	name // in double quotes
)

func letter(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

func blank(c byte) bool { return c == ' ' || c == '\t' || c == '\f' || c == '\v' }

func newline(c byte) bool { return c == '\n' || c == '\r' }

// token returns the length and the kind of the first token of q.
func (r Rules) token(q string) (int, tokenKind) {
	second := byte(0)
	if len(q) > 1 {
		second = q[1]
	}
	switch c := q[0]; {
	case blank(c) || newline(c):
		return 1, space
	case c == '-' && second == '-':
		return lineComment(q), space
	case c == '/' && second == '*':
		return blockComment(q), space
	case c == '\'':
		return text(q, 0, r.Backslash), other
	case second == '\'' && (c == 'e' || c == 'E'):
		return text(q, 1, true), other
	case second == '\'' && (c == 'b' || c == 'B' || c == 'x' || c == 'X'):
		return text(q, 1, false), other
	case second == '\'' && (c == 'n' || c == 'N'):
		return text(q, 1, r.Backslash), other
	case second == '&' && (c == 'u' || c == 'U') && len(q) > 2 && q[2] == '\'':
		return text(q, 2, false), other
	case second == '&' && (c == 'u' || c == 'U') && len(q) > 2 && q[2] == '"':
		return 2 + quoted(q[2:], false), name
	case c == '"':
		return quoted(q, false), name
	case letter(c):
		n := 1
		for n < len(q) && (letter(q[n]) || digit(q[n]) || q[n] == '$') {
			n++
		}
		return n, word
	case digit(c) || c == '.' && digit(second):
		return number(q), other
	case c == '$':
		return dollar(q), other
	}
	return 1, other
}

func lineComment(q string) int {
	if i := strings.IndexAny(q, "\n\r"); i >= 0 {
		return i
	}
	return len(q)
}

// blockComment returns the length of a comment, which may contain nested comments.
func blockComment(q string) int {
	depth := 0
	for i := 0; i+1 < len(q); i++ {
		switch q[i : i+2] {
		case "/*":
			depth++
			i++
		case "*/":
			i++
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(q)
}

// text returns the length of a string whose quote is at open. The string continues after its
// closing quote if only white space with a newline, and comments, precede the next quote.
func text(q string, open int, escapes bool) int {
	for n := open; ; {
		n += quoted(q[n:], escapes)
		next := continued(q[n:])
		if next < 0 {
			return n
		}
		n += next
	}
}

// continued returns the offset at which the string that just ended continues, or -1.
func continued(q string) int {
	lines := false
	for i := 0; i < len(q); {
		switch {
		case blank(q[i]):
			i++
		case newline(q[i]):
			lines = true
			i++
		case strings.HasPrefix(q[i:], "--"):
			i += lineComment(q[i:])
		case q[i] == '\'' && lines:
			return i
		default:
			return -1
		}
	}
	return -1
}

// quoted returns the length of a quoted string. A doubled quote does not end it. With escapes,
// neither does a quote after a backslash.
func quoted(q string, escapes bool) int {
	for i := 1; i < len(q); i++ {
		switch {
		case escapes && q[i] == '\\':
			i++
		case q[i] == q[0]:
			if i+1 < len(q) && q[i+1] == q[0] {
				i++
				continue
			}
			return i + 1
		}
	}
	return len(q)
}

// number returns the length of a number. Before PostgreSQL 15, a word may follow without a space.
func number(q string) int {
	n := 0
	digits := func() {
		for n < len(q) && (digit(q[n]) || q[n] == '_' && n > 0 && n+1 < len(q) && digit(q[n+1])) {
			n++
		}
	}
	digits()
	if n < len(q) && q[n] == '.' {
		n++
		digits()
	}
	if n+1 < len(q) && (q[n] == 'e' || q[n] == 'E') {
		m := n + 1
		if q[m] == '+' || q[m] == '-' {
			m++
		}
		if m < len(q) && digit(q[m]) {
			n = m
			digits()
		}
	}
	return n
}

// dollar returns the length of a dollar-quoted string or of a parameter.
func dollar(q string) int {
	n := 1
	if n < len(q) && digit(q[n]) {
		for n < len(q) && digit(q[n]) {
			n++
		}
		return n
	}
	for n < len(q) && (letter(q[n]) || digit(q[n])) {
		n++
	}
	if n == len(q) || q[n] != '$' {
		return 1
	}
	if i := strings.Index(q[n+1:], q[:n+1]); i >= 0 {
		return n + 1 + i + n + 1
	}
	return len(q)
}
