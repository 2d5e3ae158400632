// Package ddl turns a row of table pgsluice.ddl, written by the event triggers of pgcutover ddl
// install, into a statement that the target can execute. It does no I/O.
package ddl

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/pgsluice/pgsluice/cmd/internal/sqltext"
	"github.com/pgsluice/pgsluice/format"
)

// recorded is what the triggers record beside the query. The server tells a trigger which query
// runs, but not which of its statements. So the triggers count them.
type recorded struct {
	// outer: a client executes the query; inner: a PL/pgSQL function does
	Level string `json:"level"`
	// number of the statement among the query's statements that fire triggers, from 1; the count
	// goes on when a function executes the query again
	Nth  int      `json:"nth"`
	Tag  string   `json:"tag"`  // command tag
	Path []string `json:"path"` // the schemas of the search path
	Role string   `json:"role"`
	// the session has not changed standard_conforming_strings
	Fixed    bool               `json:"fixed"`
	Settings map[string]*string `json:"settings"`
	Objects  []address          `json:"objects"`
}

// An address is an object, as an array of its type, names and arguments.
type address format.Object

func (a *address) UnmarshalJSON(b []byte) error {
	var parts [3]json.RawMessage
	return errors.Join(json.Unmarshal(b, &parts), json.Unmarshal(parts[0], &a.Type),
		json.Unmarshal(parts[1], &a.Names), json.Unmarshal(parts[2], &a.Args))
}

// Decode returns the record for a row of the table: the query, and the JSON recorded with it. The
// query is empty if a function in another language than PL/pgSQL executed the statement: the
// trigger cannot see it. Decode returns nil for a statement that targets do not need. Only the
// statement's own text goes into the record, because others in the query may contain passwords. A
// statement that cannot be found in its query must not be lost: it becomes one that raises an error
// with the reason.
func Decode(query, row []byte) *format.DDL {
	var m recorded
	d := &format.DDL{Section: format.Change}
	ok := utf8.Valid(row)
	if err := json.Unmarshal(row, &m); err != nil {
		m, ok = recorded{}, false
	}
	d.Type, d.Owner = m.Tag, m.Role
	path := make([]string, 0, len(m.Path))
	for _, s := range m.Path {
		if !strings.HasPrefix(s, "pg_temp_") {
			path = append(path, quote(s))
		}
	}
	d.SearchPath = strings.Join(path, ", ")
	for name, value := range m.Settings {
		if value != nil {
			if d.Settings == nil {
				d.Settings = make(map[string]string)
			}
			d.Settings[name] = *value
		}
	}
	for _, o := range m.Objects {
		d.Objects = append(d.Objects, format.Object(o))
	}
	named(d)
	var s sqltext.Statement
	if ok {
		s, ok = m.statement(string(query), sqltext.RulesOf(d.Settings))
	}
	switch {
	case !ok:
		d.SQL = failing(d)
	case ours(s):
		return nil
	default:
		d.SQL = s.Text + ";"
	}
	return d
}

var plain = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

// quote quotes a schema name for a search path, where keywords need no quotes.
func quote(name string) string {
	if plain.MatchString(name) {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

// failing returns a statement that raises an error because the original cannot be repeated. It
// leaves out the query's text, which may contain secrets.
func failing(d *format.DDL) string {
	what := "The objects that the statement changed are not known."
	if len(d.Objects) > 0 {
		what = "The statement changed"
		for i, o := range d.Objects {
			if i == 10 {
				what += " and others"
				break
			}
			what += fmt.Sprintf(" %s %s,", o.Type, strings.Join(append(o.Names[:len(o.Names):len(o.Names)], o.Args...), "."))
		}
		what = strings.TrimSuffix(what, ",") + "."
	}
	return fmt.Sprintf("DO $pgsluice$BEGIN RAISE EXCEPTION %s USING DETAIL = %s, HINT = %s; END$pgsluice$;",
		literal("the source executed a statement that cannot be repeated on its own: "+d.Type),
		literal(what), literal("Make the same change on the target by hand."))
}

// literal quotes a string for PL/pgSQL's RAISE, within a body quoted by $pgsluice$. Backslashes are
// replaced, because their meaning depends on the session.
func literal(s string) string {
	s = strings.NewReplacer("'", "''", "%", "%%", "$pgsluice$", "$ pgsluice $", `\`, "/").Replace(s)
	return "'" + s + "'"
}

// statement returns the recorded statement of the query. It returns false where it would have to
// guess.
func (m *recorded) statement(query string, rules sqltext.Rules) (s sqltext.Statement, ok bool) {
	all := rules.Split(query)
	if len(all) > 1 && !m.Fixed {
		// The server parsed the whole query before its first statement ran, and that statement may
		// have changed the lexical rules.
		other := sqltext.Rules{Backslash: !rules.Backslash}
		if !sameTexts(all, other.Split(query)) {
			return s, false
		}
	}
	var fire []sqltext.Statement
	// a statement between two that fire has reset the triggers' count
	undone := false
	for _, s := range all {
		if s.Unsure() && len(all) > 1 || len(all) > 1 && disarms(s) {
			return s, false
		}
		if s.Fires() {
			if undone {
				return s, false
			}
			fire = append(fire, s)
		}
		undone = undone || len(fire) > 0 && forgets(s)
	}
	if len(fire) == 0 || m.Nth < 1 || m.Level != "inner" && m.Nth > len(fire) {
		return s, false
	}
	s = fire[(m.Nth-1)%len(fire)]
	return s, s.Tag() == m.Tag
}

func sameTexts(a, b []sqltext.Statement) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Text != b[i].Text {
			return false
		}
	}
	return true
}

// forgets reports whether a statement resets the triggers' count. They count in a session setting:
// a rollback restores it, a commit does not.
func forgets(s sqltext.Statement) bool {
	switch s.Word(0) {
	case "ROLLBACK", "ABORT":
		return true
	case "RESET", "DISCARD":
		return s.Word(1) == "ALL"
	}
	return false
}

// disarms reports whether later statements may run without the triggers, or with other lexical
// rules than recorded.
func disarms(s sqltext.Statement) bool {
	t := strings.ToLower(s.Text)
	for _, setting := range []string{"session_replication_role", "event_triggers", "standard_conforming_strings"} {
		if strings.Contains(t, setting) {
			return true
		}
	}
	return strings.HasSuffix(s.Tag(), " EVENT TRIGGER")
}

// ours reports whether a statement grants or revokes rights on schema pgsluice, for which the
// triggers see no objects.
func ours(s sqltext.Statement) bool {
	if s.Word(0) != "GRANT" && s.Word(0) != "REVOKE" {
		return false
	}
	for i, w := range s.Words {
		if w == "SCHEMA" && s.Word(i+1) == "PGSLUICE" && (s.Word(i+2) == "TO" || s.Word(i+2) == "FROM") {
			return true
		}
	}
	return false
}
