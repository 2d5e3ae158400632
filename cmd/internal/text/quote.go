package text

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// What follows is for hints, which are pasted: into psql, or into a shell. There, too, nothing may
// be obeyed by the terminal, and what is quoted must stay one name or one value, whatever it holds.

// Ident quotes a name, with the schema before it, for a statement that is to be pasted:
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
				escape(b, r, raw) // there is no way to write it
				return
			}
			fmt.Fprintf(b, `\%04x`, r)
		}) + `"`
	}
	return strings.Join(quoted, ".")
}

// Literal quotes a value for a statement that is to be pasted. One with control characters, or a
// backslash, is written as an escape string: E'a\nb'.
func Literal(s string) string {
	quoted := strings.ReplaceAll(s, `'`, `''`)
	if plain(s) && !strings.Contains(s, `\`) {
		return `'` + quoted + `'`
	}
	return `E'` + rewrite(strings.ReplaceAll(quoted, `\`, `\\`), escape) + `'`
}

var shellWord = regexp.MustCompile(`^[A-Za-z0-9_./:=@%+,][A-Za-z0-9_./:=@%+,-]*$`)

// Shell quotes an argument for a command that is to be pasted into a shell. One with control
// characters is written as bash has it: $'a\nb'.
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
