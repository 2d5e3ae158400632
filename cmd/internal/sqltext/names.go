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
