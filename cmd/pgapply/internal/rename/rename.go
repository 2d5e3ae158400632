// Package rename gives schemas and tables other names, also within SQL statements. It does no I/O.
package rename

import (
	"fmt"
	"regexp"
	"strings"
)

// Rules say what is renamed: "old" or "old.table" to "new" or "new.table". A table's new name may
// be given without its schema.
type Rules map[string]string

// Table returns where a table (or another object of a schema) goes.
func (r Rules) Table(schema, table string) (string, string) {
	if to, ok := r[schema+"."+table]; ok {
		if s, t, ok := strings.Cut(to, "."); ok {
			return s, t
		}
		return r.Schema(schema), to
	}
	return r.Schema(schema), table
}

// Schema returns the new name of a schema.
func (r Rules) Schema(schema string) string {
	if to, ok := r[schema]; ok {
		return to
	}
	return schema
}

// queries has the kinds of objects whose statements hold queries or expressions, in which a name
// may stand for an alias.
var queries = map[string]bool{"VIEW": true, "MATERIALIZED VIEW": true, "RULE": true, "FUNCTION": true,
	"PROCEDURE": true, "POLICY": true, "TRIGGER": true}

// bodies has those whose statements may hold code as a string.
var bodies = map[string]bool{"FUNCTION": true, "PROCEDURE": true}

// SQL returns the statements of an object of the given kind with the new names. It expects the
// statements as pg_dump writes them, with every name qualified by its schema. It returns an error
// if it cannot tell what a name means.
func (r Rules) SQL(kind, sql string) (string, error) {
	tokens := lex(sql)
	for old, to := range r {
		schema, table, isTable := strings.Cut(old, ".")
		newSchema, newTable, moved := strings.Cut(to, ".")
		var err error
		switch {
		case !isTable:
			err = renameSchema(tokens, kind, schema, to)
		case moved && newSchema != r.Schema(schema):
			if mentions(tokens, schema, table) {
				err = fmt.Errorf("table %s would move to another schema, but its dependent object cannot move with it", old)
			}
		case moved:
			err = renameTable(tokens, kind, schema, table, newTable, r)
		default:
			err = renameTable(tokens, kind, schema, table, to, r)
		}
		if err != nil {
			return "", err
		}
	}
	var b strings.Builder
	for _, t := range tokens {
		b.WriteString(t.text)
	}
	return b.String(), nil
}

func renameSchema(tokens []*token, kind, old, to string) error {
	word := regexp.MustCompile(`(?i)(^|[^\pL\pN_$])` + regexp.QuoteMeta(old) + `($|[^\pL\pN_$])`)
	for i, t := range tokens {
		switch {
		case t.kind == ident && t.name == old:
			qualifies := isDot(next(tokens, i)) && !isDot(previous(tokens, i))
			if p := previous(tokens, i); qualifies || p != nil && p.kind == ident && strings.EqualFold(p.text, "schema") {
				t.text = quote(to)
			} else if queries[kind] {
				return fmt.Errorf("%q may be an alias or a column there", old)
			}
		case t.kind == text && isName(tokens, i):
			// 'app.counter'::regclass
			inner := lex(t.value)
			for k, n := range inner {
				if n.kind == ident && n.name == old && isDot(next(inner, k)) {
					n.text = quote(to)
				}
			}
			t.set(inner)
		case t.kind == text && bodies[kind] && word.MatchString(t.value):
			return fmt.Errorf("%q appears in its code", old)
		}
	}
	return nil
}

func renameTable(tokens []*token, kind, schema, old, to string, r Rules) error {
	word := regexp.MustCompile(`(?i)(^|[^\pL\pN_$])` + regexp.QuoteMeta(old) + `($|[^\pL\pN_$])`)
	renamed := r.Schema(schema)
	for i, t := range tokens {
		if t.kind == text && bodies[kind] && word.MatchString(t.value) {
			return fmt.Errorf("%q appears in its code", old)
		}
		if t.kind != ident || t.name != old {
			continue
		}
		dot := previous(tokens, i)
		var s *token
		if isDot(dot) {
			s = previous(tokens, indexOf(tokens, dot))
		}
		switch {
		case s != nil && s.kind == ident && (s.name == schema || s.text == quote(renamed)):
			t.text = quote(to)
		case isDot(next(tokens, i)) && queries[kind]:
			return fmt.Errorf("column names there are qualified with table %q", old)
		}
	}
	return nil
}

// mentions reports whether a table's name occurs anywhere.
func mentions(tokens []*token, schema, table string) bool {
	for i, t := range tokens {
		if t.kind == ident && t.name == table {
			if dot := previous(tokens, i); isDot(dot) {
				if s := previous(tokens, indexOf(tokens, dot)); s != nil && s.kind == ident && s.name == schema {
					return true
				}
			}
		}
	}
	return false
}

// isName reports whether a string is one that is cast to a name's type.
func isName(tokens []*token, i int) bool {
	k := i + 1
	for _, want := range []string{":", ":"} {
		if k >= len(tokens) || tokens[k].text != want {
			return false
		}
		k++
	}
	if k+1 < len(tokens) && tokens[k].name == "pg_catalog" && tokens[k+1].text == "." {
		k += 2
	}
	return k < len(tokens) && strings.HasPrefix(tokens[k].name, "reg")
}

func quote(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

func isDot(t *token) bool { return t != nil && t.text == "." }

func next(tokens []*token, i int) *token {
	for i++; i < len(tokens); i++ {
		if tokens[i].kind != space {
			return tokens[i]
		}
	}
	return nil
}

func previous(tokens []*token, i int) *token {
	for i--; i >= 0; i-- {
		if tokens[i].kind != space {
			return tokens[i]
		}
	}
	return nil
}

func indexOf(tokens []*token, t *token) int {
	for i := range tokens {
		if tokens[i] == t {
			return i
		}
	}
	return -1
}
