// Package ddl turns what the event triggers of pgcutover ddl install have written into table
// pgsluice.ddl into a statement that can be executed elsewhere. It is pure.
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

// What the triggers record beside the query. The server does not tell a trigger which part of a
// query of several statements runs, only which query it is; so the triggers count.
type recorded struct {
	// outer: the query is a client's; inner: it is executed by a PL/pgSQL function
	Level string `json:"level"`
	// of the query's statements that fire, from 1; one that a function executes again goes on
	// counting
	Nth  int      `json:"nth"`
	Tag  string   `json:"tag"`  // of the command
	Path []string `json:"path"` // the schemas of the search path
	Role string   `json:"role"`
	// the session has not set standard_conforming_strings itself
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

// Decode returns the record for a row of the table: the query, empty if the trigger could not see
// it because a function in another language than PL/pgSQL executes the statement, and what was
// recorded with it. It returns nil for a statement that is not a target's business. Only the
// statement's own text goes into the record: others beside it may have passwords. One that cannot
// be told from its query becomes a statement that fails where it is executed and says why: it must
// not be left out.
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

// quote quotes a schema's name for a search path, where keywords need none.
func quote(name string) string {
	if plain.MatchString(name) {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

// failing is a statement that says that one cannot be repeated, without its text: what ran beside
// it is nobody's business.
func failing(d *format.DDL) string {
	what := "The objects that it has changed are not known."
	if len(d.Objects) > 0 {
		what = "It concerns"
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
		literal("the source has executed a statement that cannot be repeated by itself: "+d.Type),
		literal(what), literal("Make the same change on the target by hand."))
}

// literal quotes a string for PL/pgSQL's RAISE, within a body that is quoted by $pgsluice$. A
// backslash would mean something in some sessions only.
func literal(s string) string {
	s = strings.NewReplacer("'", "''", "%", "%%", "$pgsluice$", "$ pgsluice $", `\`, "/").Replace(s)
	return "'" + s + "'"
}

// statement picks the statement of the query that was recorded. It returns false where it would
// have to guess.
func (m *recorded) statement(query string, rules sqltext.Rules) (s sqltext.Statement, ok bool) {
	all := rules.Split(query)
	if len(all) > 1 && !m.Fixed {
		// The query was read as a whole before the first of its statements ran, which may have
		// changed by which rules.
		other := sqltext.Rules{Backslash: !rules.Backslash}
		if !sameTexts(all, other.Split(query)) {
			return s, false
		}
	}
	var fire []sqltext.Statement
	// something between two statements that fire has made the triggers forget how many there were
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

// forgets reports whether a statement takes back what the triggers have counted: they count in a
// setting of the session, which a rollback restores. A commit does not.
func forgets(s sqltext.Statement) bool {
	switch s.Word(0) {
	case "ROLLBACK", "ABORT":
		return true
	case "RESET", "DISCARD":
		return s.Word(1) == "ALL"
	}
	return false
}

// disarms reports whether statements after this one may run without the triggers, or by other rules
// than were recorded.
func disarms(s sqltext.Statement) bool {
	t := strings.ToLower(s.Text)
	for _, setting := range []string{"session_replication_role", "event_triggers", "standard_conforming_strings"} {
		if strings.Contains(t, setting) {
			return true
		}
	}
	return strings.HasSuffix(s.Tag(), " EVENT TRIGGER")
}

// ours reports whether a statement grants or revokes rights of schema pgsluice, of which the
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
