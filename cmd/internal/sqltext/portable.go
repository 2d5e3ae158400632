package sqltext

import "strings"

// Portable returns a query in which every string means the same whatever the session's setting of
// standard_conforming_strings is: a string with a backslash becomes E'…'. The owner of a database
// can preset that setting for everybody who executes the query.
func (r Rules) Portable(q string) string {
	if !strings.Contains(q, `\`) {
		return q
	}
	var b strings.Builder
	joins := false // what precedes would swallow an E
	for len(q) > 0 {
		n, kind := r.token(q)
		t := q[:n]
		q = q[n:]
		if t[0] == '\'' && strings.Contains(t, `\`) {
			if joins {
				b.WriteByte(' ')
			}
			if !r.Backslash {
				t = strings.ReplaceAll(t, `\`, `\\`)
			}
			b.WriteByte('E')
		}
		b.WriteString(t)
		joins = kind == word || digit(t[len(t)-1])
	}
	return b.String()
}
