// Package old puts SQL that is written for version 10 into the words of version 9.6. No other
// package knows what that version lacks: sessions translate each statement that they send. It is
// pure and executes nothing.
//
// A catalog of version 10 becomes a query that returns what it would have there; a function that
// was renamed gets its former name. Publications do not exist in 9.6: see publication.go.
package old

import (
	"slices"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/sqltext"
)

const (
	// Oldest is the first version whose databases can be migrated.
	Oldest = 90600
	// Newest is the first version that needs no translation.
	Newest = 100000
)

// Walsender reports whether replication sessions of a version execute SQL, and know temporary slots
// and options for the snapshot of a slot.
func Walsender(version int) bool { return version >= Newest }

// SeesAll is the predefined role that sees the sessions of all roles. Before version 10, there is
// none: all roles see whose sessions there are, and nothing else of them.
func SeesAll(version int) string {
	if version < Newest {
		return ""
	}
	return "pg_read_all_stats"
}

// SQL returns a query, of one or more statements, as a server of a version before 10 understands
// it.
func SQL(q string) string {
	if !strings.Contains(q, "pg_") && !strings.Contains(q, "PUBLICATION") {
		return q
	}
	t := translator{q: phrases.Replace(q)}
	t.tokens = sqltext.Rules{}.Tokens(t.q)
	for t.i < len(t.tokens) {
		t.next()
	}
	t.out.WriteString(t.q[t.copied:])
	return t.out.String()
}

// A translator goes over the tokens of a query once.
type translator struct {
	q      string
	tokens []sqltext.Token
	i      int // of the next token
	out    strings.Builder
	copied int // how much of q is in out
	calls  []call
}

// A call is a function call that is not finished: after its parenthesis, at a depth, more follows.
type call struct {
	depth int
	after string
}

// replace replaces the tokens from i up to before j.
func (t *translator) replace(i, j int, by string) {
	t.out.WriteString(t.q[t.copied:t.tokens[i].At] + by)
	last := t.tokens[j-1]
	t.copied, t.i = last.At+len(last.Text), j
}

// word returns the token with index i, an unquoted word in upper case.
func (t *translator) word(i int) string {
	switch {
	case i < 0 || i >= len(t.tokens):
		return ""
	case t.tokens[i].Word:
		return strings.ToUpper(t.tokens[i].Text)
	}
	return t.tokens[i].Text
}

// next translates what begins at the next token.
func (t *translator) next() {
	i := t.i
	tok := t.tokens[i]
	if n := len(t.calls); n > 0 && tok.Text == ")" && tok.Depth == t.calls[n-1].depth {
		t.replace(i, i+1, ")"+t.calls[n-1].after)
		t.calls = t.calls[:n-1]
		return
	}
	if t.begins(i) && t.publication() {
		return
	}
	if by := classes[tok.Text]; by != "" {
		t.replace(i, i+1, by)
		return
	}
	if tok.Text != "pg_catalog" || t.word(i+1) != "." || i+2 >= len(t.tokens) || !t.tokens[i+2].Word {
		t.i++
		return
	}
	name := t.tokens[i+2].Text
	switch calls := t.word(i+3) == "("; {
	case calls && functions[name].before != "":
		f := functions[name]
		t.replace(i, i+4, f.before+"(")
		t.calls = append(t.calls, call{depth: tok.Depth, after: f.after})
	case calls && renamed[name] != "":
		t.replace(i, i+3, "pg_catalog."+renamed[name])
	case !calls && relations[name].sql != "" && (t.needs(relations[name].columns) || relations[name].plain != ""):
		by := "(" + relations[name].sql + ")"
		if !t.needs(relations[name].columns) {
			by = "(" + relations[name].plain + ")"
		}
		if !t.alias(i + 3) {
			by += " " + name
		}
		t.replace(i, i+3, by)
	default:
		t.i += 3
	}
}

// begins reports whether token i is the first one of a statement.
func (t *translator) begins(i int) bool { return i == 0 || t.tokens[i-1].Text == ";" }

// needs reports whether the query has one of the words, perhaps after an alias.
func (t *translator) needs(columns []string) bool {
	return columns == nil || slices.ContainsFunc(columns, func(c string) bool { return strings.Contains(t.q, c) })
}

// alias reports whether token i is the alias of what stands before it.
func (t *translator) alias(i int) bool {
	if i >= len(t.tokens) {
		return false
	}
	return t.tokens[i].Name || t.tokens[i].Word && !afterRelation[t.word(i)]
}

// afterRelation has the keywords that may follow a relation without an alias.
var afterRelation = map[string]bool{"WHERE": true, "ORDER": true, "GROUP": true, "HAVING": true, "LIMIT": true, "ON": true,
	"JOIN": true, "LEFT": true, "RIGHT": true, "FULL": true, "INNER": true, "CROSS": true, "NATURAL": true, "UNION": true,
	"EXCEPT": true, "INTERSECT": true, "FOR": true, "OFFSET": true, "WINDOW": true, "USING": true, "THEN": true, "RETURNING": true}
