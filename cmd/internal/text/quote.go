package text

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// The functions below quote text for hints that users paste into psql or a shell. The result must
// not control the terminal, and must remain one name or one value, whatever it contains.

// Ident quotes a name, optionally qualified with a schema, for a statement to be pasted:
// "public"."orders". A name with control characters is written with escapes: U&"a\000ab".
func Ident(parts ...string) string {
	quoted := make([]string, len(parts))
	for i, p := range parts {
		s := strings.ReplaceAll(p, `"`, `""`)
		if plain(p) {
			quoted[i] = `"` + s + `"`
			continue
		}
		quoted[i] = `U&"` + rewrite(strings.ReplaceAll(s, `\`, `\\`), func(b *strings.Builder, r rune, raw string) {
			if r == utf8.RuneError {
				escape(b, r, raw) // it has no representation
				return
			}
			fmt.Fprintf(b, `\%04x`, r)
		}) + `"`
	}
	return strings.Join(quoted, ".")
}

// Literal quotes a value for a statement to be pasted. A value with control characters, or a
// backslash, is written as an escape string: E'a
// b'.
func Literal(s string) string {
	quoted := strings.ReplaceAll(s, `'`, `''`)
	if plain(s) && !strings.Contains(s, `\`) {
		return `'` + quoted + `'`
	}
	return `E'` + rewrite(strings.ReplaceAll(quoted, `\`, `\\`), escape) + `'`
}

var shellWord = regexp.MustCompile(`^[A-Za-z0-9_./:=@%+,][A-Za-z0-9_./:=@%+,-]*$`)

// Shell quotes an argument for a command to be pasted into a shell. An argument with control
// characters is written in bash's notation: $'a
// b'.
func Shell(s string) string {
	if shellWord.MatchString(s) {
		return s
	}
	if plain(s) {
		return `'` + strings.ReplaceAll(s, `'`, `'\''`) + `'`
	}
	s = strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s)
	return `$'` + rewrite(s, escape) + `'`
}
