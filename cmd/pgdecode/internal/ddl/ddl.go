// Package ddl turns what the event trigger of pgcutover ddl install has written into the WAL into a statement that can be executed elsewhere. It is
// pure.
package ddl

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/pgsluice/pgsluice/format"
)

// Prefix is that of the logical messages that the event trigger writes.
const Prefix = "pgsluice.ddl"

// A message is a logical message's content. The server does not tell the trigger which part of a query of several statements runs, only which query
// it is; so the trigger counts.
type message struct {
	Query      string `json:"query"` // empty: the trigger could not see the statement, because a function in another language than PL/pgSQL executes it
	Nth        int    `json:"nth"`   // of the query's statements that are DDL, from 1; a query that is executed again goes on counting
	Tag        string `json:"tag"`   // of the command
	SearchPath string `json:"search_path"`
	Role       string `json:"role"`
}

// Decode returns the record for a message. A statement that cannot be told from its query, or not be seen at all, becomes one that fails where it is
// executed and says why: it must not be left out.
func Decode(content []byte) (*format.DDL, error) {
	var m message
	if err := json.Unmarshal(content, &m); err != nil {
		return nil, fmt.Errorf("message %s: %w", Prefix, err)
	}
	d := &format.DDL{Section: format.Change, Type: m.Tag, Owner: m.Role, SearchPath: m.SearchPath}
	sql, ok := statement(m.Query, m.Tag, m.Nth)
	if !ok {
		sql = fmt.Sprintf("DO $pgsluice$BEGIN RAISE EXCEPTION %s USING DETAIL = %s, HINT = %s; END$pgsluice$",
			literal("the source has executed a statement that cannot be repeated by itself: "+m.Tag), literal("It ran as part of: "+m.Query),
			literal("Make the same change on the target by hand."))
	}
	d.SQL = sql + ";"
	return d, nil
}

// literal quotes a string for PL/pgSQL's RAISE, within a body that is quoted by $pgsluice$.
func literal(s string) string {
	s = strings.NewReplacer("'", "''", "%", "%%", "$pgsluice$", "$ pgsluice $").Replace(s)
	return "'" + s + "'"
}

// statement picks the nth statement of a query that an event trigger fires for.
func statement(query, tag string, nth int) (string, bool) {
	all := split(query)
	var fire []parsed
	control := false
	for _, s := range all {
		if s.fires() {
			fire = append(fire, s)
		}
		control = control || s.controls()
	}
	// After a commit or rollback within the query, the trigger has begun to count anew.
	if len(fire) == 0 || nth < 1 || len(fire) > 1 && control {
		return "", false
	}
	s := fire[(nth-1)%len(fire)]
	if first, _, _ := strings.Cut(tag, " "); s.words[0] != first {
		return "", false
	}
	return s.text, true
}

// A parsed statement is its text without CONCURRENTLY, which cannot be in a transaction, and its words outside of quotes and parentheses, in upper case.
type parsed struct {
	text  string
	words []string
}

// fires reports whether our event trigger counts the statement: none fires for what concerns the whole server, and ours leaves out publications.
func (p parsed) fires() bool {
	word := func(i int) string {
		if i < len(p.words) {
			return p.words[i]
		}
		return ""
	}
	switch word(0) {
	case "CREATE", "ALTER", "DROP", "COMMENT":
		kind := word(1)
		if word(0) == "COMMENT" {
			kind = word(2)
		}
		switch kind {
		case "DATABASE", "ROLE", "GROUP", "TABLESPACE", "SYSTEM", "PUBLICATION", "SUBSCRIPTION":
			return word(0) == "COMMENT" && kind != "DATABASE" && kind != "ROLE" && kind != "TABLESPACE"
		case "USER":
			return word(2) == "MAPPING"
		case "EVENT":
			return word(0) == "COMMENT"
		}
		return true
	case "GRANT", "REVOKE", "SECURITY", "REFRESH", "REINDEX", "IMPORT":
		return true
	case "SELECT":
		return slices.Contains(p.words, "INTO")
	}
	return false
}

// controls reports whether the statement ends or begins a transaction.
func (p parsed) controls() bool {
	switch p.words[0] {
	case "BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE", "PREPARE":
		return true
	}
	return false
}

// split cuts a query at the semicolons between its statements: those outside of quotes, comments, parentheses, and bodies of SQL functions.
func split(q string) []parsed {
	var all []parsed
	var text strings.Builder
	var words []string
	depth, body := 0, 0
	finish := func() {
		if len(words) > 0 {
			all = append(all, parsed{strings.TrimSpace(text.String()), words})
		}
		text.Reset()
		words, depth, body = nil, 0, 0
	}
	for len(q) > 0 {
		n := token(q)
		t := q[:n]
		q = q[n:]
		switch c := t[0]; {
		case c == ';' && depth == 0 && body == 0:
			finish()
			continue
		case c == '(' || c == '[':
			depth++
		case c == ')' || c == ']':
			depth--
		case letter(c):
			w := strings.ToUpper(t)
			if depth > 0 {
				break
			}
			// CREATE FUNCTION … BEGIN ATOMIC …; END has semicolons, and CASE … END in them.
			switch {
			case w == "ATOMIC" && len(words) > 0 && words[len(words)-1] == "BEGIN" && words[0] == "CREATE", w == "CASE" && body > 0:
				body++
			case w == "END" && body > 0:
				body--
			}
			words = append(words, w)
			if w == "CONCURRENTLY" && (len(words) <= 4 || words[0] == "ALTER" && slices.Contains(words, "DETACH")) {
				continue
			}
		}
		text.WriteString(t)
	}
	finish()
	return all
}

func letter(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80
}

func wordByte(c byte) bool { return letter(c) || c >= '0' && c <= '9' || c == '$' }

// token returns the length of the first token of q: a word, something quoted, a comment, or one byte.
func token(q string) int {
	switch c := q[0]; {
	case letter(c):
		n := 1
		for n < len(q) && wordByte(q[n]) {
			n++
		}
		if n == 1 && (c == 'e' || c == 'E') && len(q) > 1 && q[1] == '\'' {
			return 1 + quoted(q[1:], true)
		}
		return n
	case c >= '0' && c <= '9': // also keeps the rest of a parameter's number from being a word
		n := 1
		for n < len(q) && wordByte(q[n]) {
			n++
		}
		return n
	case c == '\'' || c == '"':
		return quoted(q, false)
	case c == '$':
		n := 1
		for n < len(q) && wordByte(q[n]) && q[n] != '$' {
			n++
		}
		if n == len(q) || q[n] != '$' || n > 1 && q[1] >= '0' && q[1] <= '9' {
			return 1
		}
		if i := strings.Index(q[n+1:], q[:n+1]); i >= 0 {
			return n + 1 + i + n + 1
		}
		return len(q)
	case strings.HasPrefix(q, "--"):
		if i := strings.IndexByte(q, '\n'); i >= 0 {
			return i + 1
		}
		return len(q)
	case strings.HasPrefix(q, "/*"):
		depth := 0
		for i := 0; i+1 < len(q); i++ {
			switch q[i : i+2] {
			case "/*":
				depth++
				i++
			case "*/":
				if depth--; depth == 0 {
					return i + 2
				}
				i++
			}
		}
		return len(q)
	}
	return 1
}

// quoted returns the length of a quoted string or name. A doubled quote is one in it, for escapes also one after a backslash.
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
