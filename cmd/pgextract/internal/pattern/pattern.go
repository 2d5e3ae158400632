// Package pattern parses name patterns as psql and pg_dump do.
package pattern

import (
	"fmt"
	"strings"
)

// Parse turns a pattern into regular expressions of the server for schema and name. The schema is
// empty if the pattern has none. Outside double quotes, letters are folded to lower case, * matches
// any sequence of characters, and ? matches one. Other special characters of regular expressions
// keep their meaning.
func Parse(pattern string) (schema, name string, err error) {
	var part strings.Builder
	quoted, dots := false, 0
	runes := []rune(pattern)
	for i := 0; i < len(runes); i++ {
		switch c := runes[i]; {
		case c == '"' && quoted && i+1 < len(runes) && runes[i+1] == '"':
			part.WriteRune('"')
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
			if strings.ContainsRune(`|*+?()[]{}.^$\`, c) {
				part.WriteByte('\\')
			}
			part.WriteRune(c)
		case c == '.':
			dots++
			if dots > 1 {
				return "", "", fmt.Errorf("too many dots in pattern %q", pattern)
			}
			schema = anchored(part.String())
			part.Reset()
		case c == '*':
			part.WriteString(".*")
		case c == '?':
			part.WriteByte('.')
		case c == '$':
			part.WriteString(`\$`)
		default:
			part.WriteString(strings.ToLower(string(c)))
		}
	}
	if quoted {
		return "", "", fmt.Errorf("a double quote is missing in pattern %q", pattern)
	}
	if part.Len() == 0 {
		return "", "", fmt.Errorf("pattern %q has no name", pattern)
	}
	return schema, anchored(part.String()), nil
}

func anchored(s string) string { return "^(" + s + ")$" }

// Exact returns the pattern that only the given table matches.
func Exact(schema, name string) string { return Quote(schema) + "." + Quote(name) }

// Quote returns the pattern that only the given name matches.
func Quote(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
