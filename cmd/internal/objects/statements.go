package objects

import (
	"slices"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/sqltext"
)

// rules match pg_dump's output and pgsluice's sessions: standard_conforming_strings is on.
var rules = sqltext.Rules{}

// apart has the kinds of objects whose statements do not depend on one another.
var apart = map[string]bool{"ACL": true, "DEFAULT ACL": true, "OWNER": true, "COMMENT": true, "SECURITY LABEL": true}

// completed has the kinds of objects whose first statement creates the object and whose other
// statements complete it.
var completed = map[string]bool{"TABLE": true, "FOREIGN TABLE": true, "MATERIALIZED VIEW": true,
	"TEXT SEARCH CONFIGURATION": true, "SERVER": true}

// A unit is a statement that runs in its own transaction.
type unit struct {
	sql  string
	must bool // the other units depend on it
}

// units returns the statements of an object that can run separately. In their order, no right is
// ever wider than at the end. A failed REVOKE also holds back the GRANTs to the same role that
// follow it, because a later REVOKE would undo them.
func units(o *progress.Object) []unit {
	list := statements(o.SQL)
	if len(list) < 2 || o.Index != "" || o.Attach != "" {
		return nil
	}
	switch {
	case apart[o.Type]:
		return list
	case completed[o.Type]:
		list[0].must = true
		return list
	}
	return nil
}

// statements splits SQL text. A setting or role that applies to several statements is added to each
// of them.
func statements(sql string) (list []unit) {
	before, after := "", ""
	for _, s := range rules.Split(sql) {
		tokens := rules.Tokens(s.Text)
		switch {
		case s.Word(0) == "SET" && s.Word(1) == "SESSION" && s.Word(2) == "AUTHORIZATION" && len(tokens) > 3:
			// SET SESSION AUTHORIZATION needs a superuser, but any member may SET ROLE.
			before, after = "SET LOCAL ROLE "+tokens[3].Text+";\n", "\nRESET ROLE;"
		case s.Word(0) == "SET" && s.Word(1) == "LOCAL" && s.Word(2) == "ROLE":
			// a unit that this function produced earlier
			before, after = s.Text+";\n", "\nRESET ROLE;"
		case s.Word(0) == "RESET" && (s.Word(1) == "SESSION" || s.Word(1) == "ROLE"),
			s.Word(0) == "RESET" && strings.HasPrefix(s.Word(1), "DEFAULT_"):
			before, after = "", ""
		case s.Word(0) == "SET" && strings.HasPrefix(s.Word(1), "DEFAULT_"):
			before += s.Text + ";\n"
			after += "\nRESET " + strings.ToLower(s.Word(1)) + ";"
		default:
			list = append(list, unit{sql: before + s.Text + ";" + after})
		}
	}
	return list
}

// about returns the object and the role of a GRANT or REVOKE, as written, and whether the statement
// revokes rights.
func about(sql string) (object, role string, revoke bool) {
	tokens := rules.Tokens(sql)
	on := false
	for i, t := range tokens {
		word := ""
		if t.Word && t.Depth == 0 {
			word = strings.ToUpper(t.Text)
		}
		switch {
		case word == "REVOKE":
			revoke = true
		case word == "ON" && !on:
			on, object = true, ""
		case (word == "TO" || word == "FROM") && i+1 < len(tokens):
			on, role = false, tokens[i+1].Text
		case on:
			object += t.Text + " "
		}
	}
	return object, role, revoke
}

// follows reports whether a statement must wait for a failed REVOKE.
func follows(sql, revoke string) bool {
	object, role, takes := about(revoke)
	o, r, _ := about(sql)
	return takes && object == o && role == r
}

// A roleList is the list of roles in CREATE or ALTER POLICY … TO ….
type roleList struct {
	sql        string
	begin, end int // position in sql
	names      []string
	table      string // table of the policy, as written
	policy     string
}

// policyRoles finds the roles of a policy. It returns nil if the policy applies to all roles.
func policyRoles(sql string) *roleList {
	tokens := rules.Tokens(sql)
	is := func(i int, words ...string) bool {
		return i < len(tokens) && tokens[i].Word && tokens[i].Depth == 0 && slices.Contains(words, strings.ToUpper(tokens[i].Text))
	}
	if len(tokens) < 4 || !is(0, "CREATE", "ALTER") || !is(1, "POLICY") || !is(3, "ON") {
		return nil
	}
	l := &roleList{sql: sql, policy: tokens[2].Text}
	i := 4
	for ; i < len(tokens) && !is(i, "AS", "FOR", "TO", "USING", "WITH") && tokens[i].Text != ";"; i++ {
		l.table += tokens[i].Text
	}
	for ; i < len(tokens) && !is(i, "TO", "USING", "WITH"); i++ {
	}
	if !is(i, "TO") {
		return nil
	}
	i++
	if i == len(tokens) {
		return nil
	}
	l.begin = tokens[i].At
	for ; i < len(tokens) && !is(i, "USING", "WITH") && tokens[i].Text != ";"; i++ {
		l.end = tokens[i].At + len(tokens[i].Text)
		if tokens[i].Text != "," {
			l.names = append(l.names, tokens[i].Text)
		}
	}
	return l
}

// with returns the statement with other roles.
func (l *roleList) with(names []string) string {
	return l.sql[:l.begin] + strings.Join(names, ", ") + l.sql[l.end:]
}

// alter returns the statement that gives an existing policy all of its roles.
func (l *roleList) alter() string {
	return "ALTER POLICY " + l.policy + " ON " + l.table + " TO " + strings.Join(l.names, ", ") + ";"
}

// FirstName returns the name that a piece of SQL begins with.
func FirstName(sql string) string {
	if tokens := rules.Tokens(sql); len(tokens) > 0 {
		return sqltext.Unquoted(tokens[0].Text)
	}
	return ""
}

// noRole has the keywords that are not role names.
var noRole = map[string]bool{"public": true, "current_user": true, "session_user": true, "current_role": true}

// roles returns the roles that a statement names and that may be why it failed: the role that it
// grants to, revokes from, or acts as.
func roles(o *progress.Object) (names []string) {
	add := func(token sqltext.Token) {
		if !token.Word && !token.Name {
			return
		}
		if n := sqltext.Unquoted(token.Text); (token.Name || !noRole[n]) && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	switch o.Type {
	case "OWNER", "ACL", "DEFAULT ACL", "USER MAPPING", "SCHEMA":
	case "POLICY":
		if l := policyRoles(o.SQL); l != nil {
			for _, n := range l.names {
				add(rules.Tokens(n)[0])
			}
		}
		return names
	default:
		return nil
	}
	tokens := rules.Tokens(o.SQL)
	for i, t := range tokens[:max(len(tokens)-1, 0)] {
		if !t.Word || t.Depth > 0 {
			continue
		}
		switch strings.ToUpper(t.Text) {
		case "TO", "FROM", "ROLE", "AUTHORIZATION":
			add(tokens[i+1])
		case "FOR": // CREATE USER MAPPING FOR role
			if o.Type == "USER MAPPING" {
				add(tokens[i+1])
			}
		}
	}
	return names
}

// References returns the table that a foreign key references, given its definition.
func References(constraint string) (schema, table string) {
	tokens := rules.Tokens(constraint)
	for i, t := range tokens {
		if !t.Word || t.Depth > 0 || !strings.EqualFold(t.Text, "REFERENCES") || i+1 >= len(tokens) {
			continue
		}
		if i+3 < len(tokens) && tokens[i+2].Text == "." {
			return sqltext.Unquoted(tokens[i+1].Text), sqltext.Unquoted(tokens[i+3].Text)
		}
		return "", sqltext.Unquoted(tokens[i+1].Text)
	}
	return "", ""
}

// ActsInReplica reports whether a trigger acts in a session with session_replication_role =
// replica, given the statements that create it.
func ActsInReplica(sql string) bool {
	tokens := rules.Tokens(sql)
	for i := range len(tokens) - 1 {
		t, next := tokens[i], tokens[i+1]
		if t.Word && next.Word && t.Depth == 0 && strings.EqualFold(t.Text, "ENABLE") &&
			(strings.EqualFold(next.Text, "ALWAYS") || strings.EqualFold(next.Text, "REPLICA")) {
			return true
		}
	}
	return false
}
