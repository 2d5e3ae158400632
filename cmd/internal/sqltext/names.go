package sqltext

import "strings"

// Unquoted returns the name that an identifier token stands for.
func Unquoted(token string) string {
	if strings.HasPrefix(token, `"`) {
		return strings.ReplaceAll(strings.TrimSuffix(token[1:], `"`), `""`, `"`)
	}
	return strings.ToLower(token)
}

// AttachedTo returns the partitioned index in a statement of pg_dump: ALTER INDEX schema.name
// ATTACH PARTITION schema.name.
func (r Rules) AttachedTo(sql string) (schema, index string) {
	tokens := r.Tokens(sql)
	if len(tokens) < 6 || tokens[3].Text != "." || !strings.EqualFold(tokens[5].Text, "ATTACH") {
		return "", ""
	}
	return Unquoted(tokens[2].Text), Unquoted(tokens[4].Text)
}

// OneLine returns statements on one line, so that they can be pasted from a message. It returns
// nothing if that would change them: a function's body may have several lines.
func (r Rules) OneLine(sql string) string {
	var b strings.Builder
	end := 0
	for i, t := range r.Tokens(sql) {
		if strings.Contains(t.Text, "\n") {
			return ""
		}
		if gap := sql[end:t.At]; i > 0 && strings.TrimSpace(gap) == "" && !strings.Contains(gap, "\n") {
			b.WriteString(gap)
		} else if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(t.Text)
		end = t.At + len(t.Text)
	}
	return b.String()
}
